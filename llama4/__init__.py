"""Llama 4, from scratch: the architecture, both official weight formats, generation from text, images and video frames."""

from llama4.config import Config
from llama4.model import Llama4

__version__ = "0.1.0"
__all__ = ["Config", "Llama4"]
