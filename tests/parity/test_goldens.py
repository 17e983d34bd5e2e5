"""Parity with both references where neither is installed: stored checkpoints, stored results (goldens/make_goldens.py).

Besides one prefill, the stored logits are what every other way of feeding the same tokens must give: in pieces, token by token
on the cache, rows of unequal length, rows whose caches run apart. tests/mutations.py breaks the code and expects these to fail.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from compare import assert_close, first_divergence, recorded
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from llama4 import Llama4, checkpoint

GOLDENS = Path(__file__).parent / "goldens"
CASES = ("hf-scout", "hf-maverick", "hf-guard", "meta-scout", "meta-maverick")
WITH_IMAGES = ("hf-scout", "meta-scout")
LENGTHS = (9, 33, 14)  # unequal; row 1 holds the images, rows 0 and 2 end in their second and third chunk of 7


@cache
def _model(case: str) -> Llama4:
    return checkpoint.load_model(GOLDENS / case, dtype=torch.float32)


@cache
def _golden(case: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{case}.safetensors")


def _inputs(case: str) -> tuple[Tensor, Tensor | None, Tensor]:
    """Tokens, tiles or None, the reference's logits."""
    golden = _golden(case)
    return golden["tokens_BS"], golden.get("images"), golden["logits_BSV"]


@pytest.mark.parametrize("case", CASES)
def test_logits(case: str) -> None:
    """One prefill; a failure names the first layer that diverges."""
    model, golden = _model(case), _golden(case)
    watched = {"hidden.embedding": (model.decoder.layers[0], True)}
    watched |= {f"hidden.{index}": (layer, False) for index, layer in enumerate(model.decoder.layers)}
    assert set(watched) == {name for name in golden if name.startswith("hidden.")}
    with recorded(watched) as seen:
        logits_BSV = model(golden["tokens_BS"], images=golden.get("images"))
    where = first_divergence(list(watched), seen, golden)
    assert_close(logits_BSV, golden["logits_BSV"], f"logits ({where})")


@pytest.mark.parametrize("case", CASES)
def test_routing_is_exact(case: str) -> None:
    """Every token's expert, on every layer that has experts."""
    model, golden = _model(case), _golden(case)
    routed = {index: layer.ffn for index, layer in enumerate(model.decoder.layers) if hasattr(layer.ffn, "router")}
    assert {f"routing.{index}" for index in routed} == {name for name in golden if name.startswith("routing.")}
    with recorded({f"routing.{index}": (ffn.router, False) for index, ffn in routed.items()}) as seen:
        model(golden["tokens_BS"], images=golden.get("images"))
    for name, logits_NE in seen.items():
        assert torch.equal(logits_NE.argmax(-1), golden[name].flatten()), name


@pytest.mark.parametrize("case", CASES)
def test_decode_across_chunk_boundaries(case: str) -> None:
    """A first piece (with all tiles), a second that ends inside a chunk, then token by token."""
    model, (tokens_BS, images, logits_BSV) = _model(case), _inputs(case)
    first = 4 if images is None else 23  # the second tile ends at position 22
    cuts = [0, first, first + 5, *range(first + 6, tokens_BS.shape[1] + 1)]
    cache = model.new_cache(len(tokens_BS), tokens_BS.shape[1])
    for start, end in pairwise(cuts):
        ours = model(tokens_BS[:, start:end], images=images if start == 0 else None, cache=cache)
        assert_close(ours, logits_BSV[:, start:end], f"logits of positions {start} to {end - 1}")


@pytest.mark.parametrize("case", CASES)
def test_rows_of_unequal_length_in_one_batch(case: str) -> None:
    """Right-padded rows, then decoding on from each row's own length: each row as the reference has it alone."""
    model, (tokens_BS, images, logits_BSV) = _model(case), _inputs(case)
    counts = [min(length, tokens_BS.shape[1] - 4) for length in LENGTHS]
    padded_BS = tokens_BS[:, : max(counts)].clone()
    for row, count in enumerate(counts):
        padded_BS[row, count:] = 5
    cache = model.new_cache(3, tokens_BS.shape[1])
    ours = model(padded_BS, images=images, cache=cache, lengths_B=torch.tensor(counts))
    for row, count in enumerate(counts):
        assert_close(ours[row, :count], logits_BSV[row, :count], f"row {row} of length {count}")
    for _ in range(4):
        next_B1 = torch.stack([tokens_BS[row, count : count + 1] for row, count in enumerate(counts)])
        ours = model(next_B1, cache=cache)
        for row, count in enumerate(counts):
            assert_close(ours[row, 0], logits_BSV[row, count], f"row {row}, position {count}")
        counts = [count + 1 for count in counts]


@pytest.mark.parametrize("case", CASES)
def test_last_logits_are_each_rows_own(case: str) -> None:
    model, (tokens_BS, images, logits_BSV) = _model(case), _inputs(case)
    counts = torch.tensor([min(length, tokens_BS.shape[1]) for length in (25, 24, 3)])
    ours = model(tokens_BS, images=images, lengths_B=counts, logits="last")
    assert_close(ours[:, 0], logits_BSV[torch.arange(3), counts - 1], "the last logits")


@pytest.mark.parametrize("case", WITH_IMAGES)
def test_encoded_tiles_reach_the_stream(case: str) -> None:
    """The patches' embeddings alone: a vision mistake shows here before any decoder layer can hide it."""
    model, golden = _model(case), _golden(case)
    patch_BS = golden["tokens_BS"] == model.config.patch_id
    expected = golden["hidden.embedding"][patch_BS]
    encoded = model.fusion.projection(model.vision(golden["images"])).flatten(0, 1)
    assert_close(encoded, expected, "projected patches")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_the_parity_command_accepts_them(case: str, dtype: str) -> None:
    """`llama4 parity DIR --reference FILE` reads the same files, in both dtypes."""
    from llama4.parity import compare

    report = compare(GOLDENS / case, GOLDENS / f"{case}.safetensors", dtype=dtype)
    assert report.passed, report.first_divergent
    assert len(report.stages) == len(_model(case).config.layers) + 2


def test_the_files_say_what_made_them_and_stay_small() -> None:
    for case in CASES:
        with safe_open(GOLDENS / f"{case}.safetensors", framework="pt") as file:
            metadata = file.metadata()
        package = "llama-models" if case.startswith("meta") else "transformers"
        assert metadata["reference"].startswith(package + " ") and metadata["torch"] and metadata["dtype"] == "float32"
    assert sum(path.stat().st_size for path in GOLDENS.rglob("*") if path.is_file()) < 1_500_000


@pytest.mark.parametrize("case", CASES)
def test_the_references_still_say_the_same(case: str) -> None:
    """Where the references are installed: run them again on the stored weights and tokens."""
    pytest.importorskip("llama_models" if case.startswith("meta") else "transformers")
    from goldens.make_goldens import rerun

    golden, again = _golden(case), rerun(case)
    assert set(again) == {name for name in golden if name not in ("tokens_BS", "images")}
    for name, tensor in again.items():
        assert_close(tensor.float(), golden[name].float(), f"{case}, {name}")
