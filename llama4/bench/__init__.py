"""Benchmarks against transformers, correctness first: `llama4 bench`, or `python -m llama4.bench`.

running.py   the command: what is measured, on which model      phases.py   loading, prefill, decode, chunks; the gate before them
sides.py     this package and transformers, called alike         memory.py   peak memory, in processes of its own
report.py    the data file, and the tables drawn from it
"""

from llama4.bench.running import PRESETS, TOY, Settings, add_arguments, main, run, run_command

__all__ = ["PRESETS", "TOY", "Settings", "add_arguments", "main", "run", "run_command"]
