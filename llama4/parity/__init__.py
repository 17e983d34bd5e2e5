"""Parity of a checkpoint with a reference implementation: `llama4 parity`.

recording.py   run the reference, write what it computes       comparing.py   run ours on the same inputs, name the first
routing.py     experts recorded and forced, where scores tie                  layer that diverges
"""

from llama4.parity.comparing import BF16_BOUND, FP32_BOUND, ParityReport, Stage, compare, render
from llama4.parity.recording import fixed_inputs, record

__all__ = ["BF16_BOUND", "FP32_BOUND", "ParityReport", "Stage", "compare", "fixed_inputs", "record", "render"]
