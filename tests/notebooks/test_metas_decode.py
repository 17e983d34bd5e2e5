"""Chapter 05 rebuilds how Meta's code decodes past a chunk from this package's parts. Here that cell meets Meta's own code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "notebooks"), str(ROOT / "tests"), str(ROOT / "tests" / "parity")]
import build  # noqa: E402
from small_models import assert_close, random_tokens  # noqa: E402

pytest.importorskip("llama_models")
from pairs import meta_pair  # noqa: E402
from reference_meta import meta_logits  # noqa: E402
from test_divergences import CHUNK, META  # noqa: E402


def chapters_own() -> dict:
    """What the chapter's first cell of code and the cell with `as_meta_decodes` define."""
    (path,) = build.chapters(("05",))
    cells = [cell.source for cell in build.read(path).cells if cell.cell_type == "code"]
    scope: dict = {}
    imports = "\n".join(line for line in cells[0].splitlines() if line.startswith(("import ", "from ")))
    exec(imports, scope)
    exec(next(cell for cell in cells if "def as_meta_decodes" in cell), scope)
    return scope


@torch.no_grad()
def test_the_chapters_forgetful_model_is_metas_decode() -> None:
    """A prefill of 5 tokens, then one by one into the third chunk, on drawn weights: Meta's wrong logits, to fp32 rounding."""
    pair = meta_pair(META)
    tokens_BS = random_tokens(1, 2 * CHUNK + 3, below=90)
    theirs = [meta_logits(pair.reference, tokens_BS[:, :5])]
    theirs += [meta_logits(pair.reference, tokens_BS[:, at : at + 1], start=at) for at in range(5, 2 * CHUNK + 3)]
    model = chapters_own()["as_meta_decodes"](pair.ours)
    cache = model.new_cache(1, 2 * CHUNK + 3)
    pieces = tokens_BS.split([5, *[1] * (2 * CHUNK - 2)], dim=1)
    assert_close(torch.cat([model(piece, cache=cache) for piece in pieces], dim=1), torch.cat(theirs, dim=1), "decode")
    right = pair.run_reference(tokens_BS)
    assert (torch.cat(theirs, dim=1) - right)[:, CHUNK:].abs().max() > 0.5  # and it is wrong
