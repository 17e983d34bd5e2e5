"""Triton kernels for the experts and the attention of Llama 4. Needs torch and triton, and nothing of the package `llama4`."""

from llama4_kernels.attention_chunked import chunked_attention
from llama4_kernels.attention_decode import decode_attention
from llama4_kernels.grouped import grouped_matmul
from llama4_kernels.int4 import linear_int4, moe_mlp_int4
from llama4_kernels.moe import moe_mlp
from llama4_kernels.turn import rotate, rotate_and_norm

__all__ = [
    "chunked_attention",
    "decode_attention",
    "grouped_matmul",
    "linear_int4",
    "moe_mlp",
    "moe_mlp_int4",
    "rotate",
    "rotate_and_norm",
]
