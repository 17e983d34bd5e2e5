"""Weights in fewer bits: the format (int4.py), the layers that hold them (layers.py), a model made of those (apply.py), a folder
of it (folder.py), rounding for the inputs that layers really get (calibrated.py, prompts.py), and what int4 costs in answers
(quality.py)."""

from llama4.quant.apply import count_weights, is_quantised, quantise
from llama4.quant.folder import is_int4_folder, load_int4, require_int4_room, save_int4
from llama4.quant.int4 import Int4, dequantise, pack

__all__ = [
    "Int4",
    "count_weights",
    "dequantise",
    "is_int4_folder",
    "is_quantised",
    "load_int4",
    "pack",
    "quantise",
    "require_int4_room",
    "save_int4",
]
