"""Llama 4, from scratch: the architecture, both official weight formats, generation from text, images and video."""

from llama4 import chat, checkpoint, image
from llama4.config import Config
from llama4.errors import InputError
from llama4.generate import LLM, Completion
from llama4.load import load, load_model
from llama4.model import Llama4
from llama4.tokenizer import Tokenizer

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "Completion",
    "Config",
    "InputError",
    "Llama4",
    "Tokenizer",
    "chat",
    "checkpoint",
    "image",
    "load",
    "load_model",
]
