"""Fusion: which patch goes where (row by row, padding skipped), what is refused, and that gradients reach the projection, the
vision encoder and the embeddings of the other tokens."""

from __future__ import annotations

import pytest
import torch
from small_models import VISION, assert_close, drawn_model, random_tokens, small_config
from torch import Tensor

from llama4.cache import Step
from llama4.errors import InputError
from llama4.fusion import check_groups
from llama4.model import Llama4

PATCH, GROUP = 60, 4  # the small model's patch id, and the tokens of its tiles


@pytest.fixture(scope="module")
def model() -> Llama4:
    """A drawn multimodal model."""
    return drawn_model(small_config(vision=True))


def tiles(count: int, seed: int = 1) -> Tensor:
    """Random tiles of the small model."""
    shape = (count, 3, VISION.tile_side, VISION.tile_side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_groups(width: int, *starts_of_rows: tuple[int, ...]) -> Tensor:
    """Random tokens with a group of patch ids at each start of each row."""
    tokens_BS = random_tokens(len(starts_of_rows), width)
    for row, starts in enumerate(starts_of_rows):
        for start in starts:
            tokens_BS[row, start : start + GROUP] = PATCH
    return tokens_BS


def embed(model: Llama4, tokens_BS: Tensor, images: Tensor | None, counts: tuple[int, ...] | None = None) -> Tensor:
    """What goes into the decoder."""
    batch, width = tokens_BS.shape
    step = Step((0,) * batch, counts or (width,) * batch, width, tokens_BS.device)
    return model.embed(tokens_BS, images, step)


@torch.no_grad()
def test_patches_go_in_row_by_row(model: Llama4) -> None:
    """Rows of two, none and one image: tile r fills the r-th group, and every other token keeps its embedding."""
    tokens_BS, images = with_groups(15, (1, 8), (), (11,)), tiles(3)
    found = embed(model, tokens_BS, images)
    projected = [model.fusion.projection(model.vision(images[r : r + 1]))[0] for r in range(3)]
    expected = model.decoder.embedding(tokens_BS).clone()
    for (row, start), patches in zip([(0, 1), (0, 8), (2, 11)], projected, strict=True):
        expected[row, start : start + GROUP] = patches
    assert_close(found, expected, "fused embeddings")


@torch.no_grad()
def test_groups_side_by_side_and_apart(model: Llama4) -> None:
    """What lies between the patches of a tile does not matter, only their order: both references do so."""
    images = tiles(2)
    close = embed(model, with_groups(8, (0, 4)), images)[0]
    scattered = random_tokens(1, 16)
    scattered[0, ::2] = PATCH
    assert_close(embed(model, scattered, images)[0, ::2], close, "patches")


@torch.no_grad()
def test_patch_ids_in_the_padding_are_ignored(model: Llama4) -> None:
    tokens_BS, images = with_groups(12, (2,), (1,)), tiles(2)
    padded = torch.cat((tokens_BS, torch.full((2, 5), PATCH)), dim=1)
    found = embed(model, padded, images, counts=(12, 12))
    assert_close(found[:, :12], embed(model, tokens_BS, images), "embeddings")
    shorter = embed(model, padded, images[:1], counts=(12, 1))  # row 1 ends before its group begins
    assert_close(shorter[0, :12], found[0, :12], "row 0")


@torch.no_grad()
def test_no_tiles_and_no_patches(model: Llama4) -> None:
    tokens_BS = random_tokens(2, 5)
    expected = model.decoder.embedding(tokens_BS)
    assert torch.equal(embed(model, tokens_BS, None), expected)
    assert torch.equal(embed(model, tokens_BS, tiles(0)), expected)


@pytest.mark.parametrize(
    ("starts", "count", "message"),
    [
        (((1,), ()), 0, "hold 1 groups of 4 <|patch|> ids and images hold 0 tiles"),
        (((1,), ()), 2, "hold 1 groups of 4 <|patch|> ids and images hold 2 tiles"),
        (((), ()), 1, "hold 0 groups of 4 <|patch|> ids and images hold 1 tiles"),
        (((1,), (9,)), 2, "Row 1 has 3 <|patch|> tokens in this call, not a multiple of the 4 of a tile"),
    ],
)
def test_wrong_counts_are_refused(model: Llama4, starts: tuple, count: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        embed(model, with_groups(12, *starts), tiles(count))
    assert message in str(caught.value)


def test_images_left_out_are_refused(model: Llama4) -> None:
    with pytest.raises(InputError, match="images hold 0 tiles"):
        model(with_groups(9, (3,)))


def test_a_group_cut_by_a_rows_length_is_refused(model: Llama4) -> None:
    with pytest.raises(InputError, match="Row 0 has 2"):
        model(with_groups(9, (3,)), images=tiles(1), lengths_B=torch.tensor([5]))


def test_rows_are_checked_one_by_one() -> None:
    """Three patches in one row and one in the next make a whole group together, and are wrong."""
    patch_BS = torch.tensor([[True, True, True], [True, False, False]])
    with pytest.raises(InputError, match="Row 0 has 3"):
        check_groups(patch_BS, tiles=1, tokens_per_tile=4)


def test_gradients_reach_everything_that_was_used(model: Llama4) -> None:
    """Against finite differences in the direction of the gradient, for the projection, the adapter and the embeddings."""
    tokens_BS, images = with_groups(9, (3,), ()), tiles(1)
    model.zero_grad()
    embed(model, tokens_BS, images).square().sum().backward()
    embedding = model.decoder.embedding.weight.grad
    used = set(tokens_BS.flatten().tolist()) - {PATCH}
    assert {index for index in range(61) if embedding[index].any()} == used, "the patch id's own row is not used"
    for name in ("fusion.projection.weight", "vision.adapter.fc1.weight", "vision.class_embedding"):
        parameter = model.get_parameter(name)
        gradient, step = parameter.grad.clone(), 1e-3
        direction = gradient / gradient.norm()
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                parameter += sign * step * direction
                values.append(embed(model, tokens_BS, images).double().square().sum())
                parameter -= sign * step * direction
        slope = float((values[0] - values[1]) / (2 * step))
        assert slope == pytest.approx(float(gradient.norm()), rel=5e-3), name  # fp32 differences of a sum of about 1000
    model.zero_grad()
