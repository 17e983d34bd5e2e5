"""Triton kernels for the experts of Llama 4. Needs torch and triton, and nothing of the package `llama4`."""

from llama4_kernels.grouped import grouped_matmul
from llama4_kernels.int4 import linear_int4, moe_mlp_int4
from llama4_kernels.moe import moe_mlp

__all__ = ["grouped_matmul", "linear_int4", "moe_mlp", "moe_mlp_int4"]
