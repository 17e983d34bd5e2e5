"""The vision encoder against its definition in fp64 (vision_reference.py): patches, class token last, 2-D RoPE, pixel shuffle,
GELU after both adapter layers; tiles that never see each other; gradients; the released sizes."""

from __future__ import annotations

import pytest
import torch
from small_models import GRADIENT, VISION, assert_close, drawn
from torch import Tensor
from vision_reference import reference_encoder, reference_shuffle

from llama4 import rope
from llama4.config import VisionConfig
from llama4.vision import VisionEncoder, pixel_shuffle

CONFIGS = {
    "4x4 patches, shuffle 2": VISION,
    "3x3 patches, shuffle 3: one token": VisionConfig(15, 5, 16, 1, 2, 20, shuffle=3, adapter_width=12),
    "5x5 patches, no shuffle": VisionConfig(20, 4, 12, 3, 1, 16, shuffle=1, adapter_width=8, rope_theta=30.0),
    "one patch": VisionConfig(6, 6, 8, 2, 2, 16, shuffle=1, adapter_width=8),
}


def random_tiles(vision: VisionConfig, count: int, seed: int = 1) -> Tensor:
    """Pixels in [-1, 1], as normalised tiles are."""
    shape = (count, 3, vision.tile_side, vision.tile_side)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def encoder_of(vision: VisionConfig, seed: int = 0) -> VisionEncoder:
    """A drawn encoder: norms, biases, class and position embeddings too."""
    return drawn(VisionEncoder(vision), seed)


@torch.no_grad()
@pytest.mark.parametrize("vision", CONFIGS.values(), ids=CONFIGS)
def test_encoder_is_the_definition(vision: VisionConfig) -> None:
    encoder, tiles = encoder_of(vision), random_tiles(vision, 3)
    found = encoder(tiles)
    assert found.shape == (3, vision.tokens_per_tile, vision.adapter_width)
    assert_close(found, reference_encoder(encoder, vision, tiles), "encoded tiles")


def test_gradients_are_the_definitions() -> None:
    encoder, tiles = encoder_of(VISION), random_tiles(VISION, 2)
    gradients = []
    for run in (encoder, lambda x: reference_encoder(encoder, VISION, x)):
        encoder.zero_grad()
        leaf = tiles.clone().requires_grad_()
        out = run(leaf)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        gradients.append({"tiles": leaf.grad, **{name: p.grad for name, p in encoder.named_parameters()}})
    for name, expected in gradients[1].items():
        assert gradients[0][name] is not None, f"no gradient for {name}"
        assert_close(gradients[0][name], expected, f"gradient of {name}", GRADIENT)


@torch.no_grad()
def test_tiles_are_independent() -> None:
    """Each tile is a sequence of its own: its tokens are the same beside any others, in any place."""
    encoder, tiles = encoder_of(VISION), random_tiles(VISION, 4)
    together = encoder(tiles)
    for index in range(4):
        assert_close(encoder(tiles[index : index + 1])[0], together[index], f"tile {index} alone")
    changed = tiles.clone()
    changed[2] = 5.0
    others = [0, 1, 3]
    assert_close(encoder(changed)[others], together[others], "the others")
    assert (encoder(changed)[2] - together[2]).abs().max() > 0.1


@torch.no_grad()
def test_class_token_and_its_position_come_last() -> None:
    encoder = encoder_of(VISION)
    embedded = encoder.embed(random_tiles(VISION, 2))
    assert embedded.shape == (2, VISION.patches + 1, VISION.width)
    assert torch.equal(embedded[:, -1], encoder.class_embedding.expand(2, -1))
    before = encoder(random_tiles(VISION, 1))
    encoder.class_embedding[0] += 3.0  # it is dropped at the end, but every patch has looked at it
    assert (encoder(random_tiles(VISION, 1)) - before).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("vision", CONFIGS.values(), ids=CONFIGS)
def test_pixel_shuffle_is_the_definition(vision: VisionConfig) -> None:
    x_RPC = torch.arange(2 * vision.patches * 3).float().reshape(2, vision.patches, 3)
    found = pixel_shuffle(x_RPC, vision)
    assert torch.equal(found, torch.stack([reference_shuffle(x_PC, vision) for x_PC in x_RPC]))


def test_pixel_shuffle_of_four_by_four_by_hand() -> None:
    """Patches 0 … 15 in rows of 4: the first token joins 0, 1, 4, 5, the last one 10, 11, 14, 15."""
    tokens = pixel_shuffle(torch.arange(16).reshape(1, 16, 1), VISION)[0].tolist()
    assert tokens == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@torch.no_grad()
def test_patches_read_colour_then_row_then_column() -> None:
    """A patch is flattened as [3, side, side]; with the identity as weights, the embedding is the patch."""
    vision = VisionConfig(4, 2, 12, 1, 1, 8, shuffle=1, adapter_width=8)
    encoder = encoder_of(vision)
    encoder.patch_embedding.weight.copy_(torch.eye(12))
    tile = torch.arange(48.0).reshape(1, 3, 4, 4)
    assert torch.equal(encoder.embed(tile)[0, 1], tile[0, :, 0:2, 2:4].flatten())
    assert torch.equal(encoder.embed(tile)[0, 2], tile[0, :, 2:4, 0:2].flatten())


@torch.no_grad()
def test_bfloat16_keeps_its_rotation_in_fp32() -> None:
    """vLLM #25888: a rotation table cast to bf16 costs quality. Here the blocks of a bf16 model are given the fp32 one."""
    encoder, tiles = encoder_of(VISION), random_tiles(VISION, 2)
    exact = reference_encoder(encoder, VISION, tiles)
    given: list[tuple[Tensor, Tensor]] = []
    for block in encoder.layers:
        block.register_forward_pre_hook(lambda _block, args: given.append(args[1]))
    found = encoder.bfloat16()(tiles)
    assert found.dtype == torch.bfloat16 and len(given) == VISION.layers
    for turn in given:
        assert all(part.dtype == torch.float32 for part in turn)
        assert all(map(torch.equal, turn, rope.vision_rotation(VISION)))
    error = (found.double() - exact).norm() / exact.norm()
    assert error < 0.02  # 8 bits of mantissa: 0.4 % a rounding, a few of them in each of two layers


def test_released_sizes() -> None:
    vision = VisionConfig()
    assert (vision.grid, vision.patches, vision.tokens_per_tile) == (24, 576, 144)
    assert pixel_shuffle(torch.empty(1, 576, 1408, device="meta"), vision).shape == (1, 144, 5632)
    with torch.device("meta"):
        encoder = VisionEncoder(vision)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 850_960_896
    assert encoder.layers[0].attention_norm.eps == 1e-5
