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


def patch_experts(llm: LLM, picture: Image.Image, text: str = NAMING["en"], tiles_a_side: int = 1) -> dict[int, Tensor]:
    """int64 `[y, x]` a layer: the expert of each patch token of a picture asked about with `text`.

    The picture is resized to a square of `tiles_a_side` x `tiles_a_side` tiles, so that its patches are the picture's: 4 x 4
    patch tokens a tile in the small model. The view of the whole that goes with several tiles is left out.
    """
    vision = llm.config.vision
    side, grid = vision.tile_side * tiles_a_side, vision.grid // vision.shuffle
    prompt = llm.encode(text, [picture.resize((side, side), Image.Resampling.LANCZOS)])
    taken = Routing()
    with recorded(routers(llm.model), taken):
        prefill(llm.model, llm.model.new_cache(1, len(prompt.ids)), [prompt], size=len(prompt.ids))
    patch_N = torch.tensor(prompt.ids) == llm.config.patch_id
    own = (tiles_a_side * grid) ** 2
    sizes = {"v": tiles_a_side, "h": tiles_a_side, "x": grid}  # v tiles down, h across
    return {
        layer: rearrange(expert_N.cpu()[patch_N][:own], "(v h y x) -> (v y) (h x)", **sizes)
        for layer, expert_N in taken.items()
    }
