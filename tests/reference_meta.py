"""Meta's own Llama 4 (`llama_models.llama4.model.Transformer`) on a plain CPU, in float32, with drawn weights.

The code expects a CUDA machine and a process group. Four steps make it run here without changing a line of it: fairscale is
initialised over a gloo group of one process on a FileStore; `Tensor.cuda` is the identity while the model is built (it moves
its key/value caches there); the vision encoder, which the constructor turns to bfloat16, is turned back; and every parameter
is drawn, because most are `torch.empty`.

    model = meta_model(args, seed=0)                       # args: the contents of a params.json
    logits_BSV = meta_logits(model, tokens_BS)
    logits_BSV = meta_logits(model, tokens_BS, tiles_R3hw, patch_id)
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from random_weights import draw_weights

pytest.importorskip("llama_models")
pytest.importorskip("fairscale")


def meta_model(args: dict[str, Any], seed: int | None = 0, max_seq_len: int = 512, max_batch_size: int = 4) -> Any:
    """Build Meta's `Transformer` from the contents of a `params.json`; `seed=None` leaves the weights undrawn.

    It is in evaluation mode, float32. `max_seq_len` and `max_batch_size` size its caches: raise them for longer prompts.
    """
    from llama_models.llama4.args import ModelArgs
    from llama_models.llama4.model import Transformer

    _one_process()
    settings = {"max_seq_len": max_seq_len, "max_batch_size": max_batch_size, **args}
    with mock.patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self):
        model = Transformer(ModelArgs(**settings)).float().eval()
    if seed is not None:
        draw_weights(dict(model.named_parameters()), seed)
    return model


@torch.no_grad()
def meta_logits(
    model: Any,
    tokens_BS: torch.Tensor,
    images: list[torch.Tensor] | None = None,
    patch_id: int | None = None,
    start: int = 0,
) -> torch.Tensor:
    """Logits [B, S, V] of one step from position `start` (one prefill when 0).

    images: per row a tensor [R, 3, side, side] of all its tiles (possibly R = 0), their embeddings going to the positions
    of `patch_id` in that row.
    """
    from llama_models.llama4.datatypes import MaskedEmbedding, TransformerInput

    embedding = None
    if images is not None:
        mask_BS1 = (tokens_BS == patch_id).unsqueeze(-1)
        hidden_BSD = model.tok_embeddings(tokens_BS)
        image_BSC = _image_embeddings(model, images, mask_BS1, hidden_BSD)
        embedding = MaskedEmbedding(embedding=image_BSC, mask=mask_BS1)
    step = TransformerInput(tokens=tokens_BS, tokens_position=start, image_embedding=embedding)
    return model(step).logits.clone()


def _image_embeddings(
    model: Any, images: list[torch.Tensor], mask_BS1: torch.Tensor, hidden_BSD: torch.Tensor
) -> torch.Tensor:
    """Run the vision encoder row by row (it stacks the rows it is given, and cannot be given an empty one)."""
    rows = []
    for tiles_R3hw, mask_1S1, hidden_1SD in zip(images, mask_BS1.split(1), hidden_BSD.split(1), strict=True):
        if len(tiles_R3hw) == 0:
            width = model.args.vision_args.output_dim
            rows.append(hidden_1SD.new_zeros(*hidden_1SD.shape[:2], width))
        else:
            rows.append(model.vision_embeddings([[tiles_R3hw]], mask_1S1, hidden_1SD))
    return torch.cat(rows)


def _one_process() -> None:
    """Initialise torch.distributed and fairscale for this process alone, once."""
    import fairscale.nn.model_parallel.initialize as parallel

    if not torch.distributed.is_initialized():
        store = torch.distributed.FileStore(str(Path(tempfile.mkdtemp()) / "store"), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    if not parallel.model_parallel_is_initialized():
        parallel.initialize_model_parallel(1)
