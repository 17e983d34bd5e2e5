"""Random weights that make a mistake visible: every parameter is drawn, none is left at one or zero.

A norm weight of one hides a norm that is skipped, a bias of zero hides a bias that is lost, and a standard deviation of
0.02 (the references' own) makes every sublayer whisper beside the residual stream. Here a matrix has the scale 1 / sqrt(fan
in), so that each sublayer moves the stream by about its own size; norm weights lie in [0.5, 1.5]; biases, class and
position embeddings have standard deviation 0.3; token embeddings 1. The router's logits then have deviation of about 1:
experts differ clearly, and near-ties are rare in float32.
"""

from __future__ import annotations

import torch

EMBEDDINGS = ("embed_tokens", "tok_embeddings", "decoder.embedding")
NORMS = ("norm", "ln_")  # input_layernorm, layernorm_pre, attention_norm, ln_1, …


def draw_weights(parameters: dict[str, torch.Tensor], seed: int) -> None:
    """Fill `parameters` (official or own names) in place; the same names, shapes and seed give the same values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(parameters.items()):
            parameter.copy_(_draw(name, tuple(parameter.shape), generator))


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    module = name.split(".")[-2] if "." in name else ""
    if name.endswith("weight") and any(part in module for part in NORMS):
        return 0.5 + torch.rand(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    if any(part in name for part in EMBEDDINGS):
        return noise
    if len(shape) == 1 or "positional_embedding" in name or "position_embedding" in name:
        return 0.3 * noise
    fan_in = shape[-1]
    if len(shape) == 3 or name.endswith("router_DE"):  # experts [E, in, out] and Meta's router [D, E] are used as x @ W
        fan_in = shape[-2]
    return noise / fan_in**0.5
