"""Weights in fewer bits: the format (int4.py), the layers that hold them (layers.py), and a model made of those (apply.py)."""

from llama4.quant.apply import count_weights, quantise
from llama4.quant.int4 import Int4, dequantise, pack

__all__ = ["Int4", "count_weights", "dequantise", "pack", "quantise"]
