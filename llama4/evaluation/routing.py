"""Which expert each patch of one picture goes to, in each MoE layer: what the figures colour."""

from __future__ import annotations

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from llama4.engine import prefill
from llama4.evaluation.wordings import NAMING
from llama4.generate import LLM
from llama4.parity.routing import Routing, recorded, routers


def patch_experts(llm: LLM, picture: Image.Image, text: str = NAMING["en"]) -> dict[int, Tensor]:
    """int64 `[y, x]` a layer: the expert of each patch token of a picture that is one tile, asked about with `text`.

    A picture of another size is resized to the tile's side, so that its patches are the picture's.
    """
    vision = llm.config.vision
    side, grid = vision.tile_side, vision.grid // vision.shuffle
    prompt = llm.encode(text, [picture.resize((side, side), Image.Resampling.LANCZOS)])
    taken = Routing()
    with recorded(routers(llm.model), taken):
        prefill(llm.model, llm.model.new_cache(1, len(prompt.ids)), [prompt], size=len(prompt.ids))
    patch_N = torch.tensor(prompt.ids) == llm.config.patch_id
    return {layer: rearrange(expert_N.cpu()[patch_N], "(y x) -> y x", x=grid) for layer, expert_N in taken.items()}
