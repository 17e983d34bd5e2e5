"""evaluation/attending.py: its weights are the model's own, hidden keys get none, and looking changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from einops import rearrange, repeat
from small_models import assert_close, drawn_model, random_tokens, small_config

from llama4.errors import InputError
from llama4.evaluation.attending import watched


@torch.no_grad()
def test_weights_give_the_layers_own_output() -> None:
    """The weighted sum of the values, through `o`, is what each attention layer returned: 2 rows of 13, a chunk of 5."""
    model = drawn_model(small_config()).eval()
    outputs = {}
    for number, layer in enumerate(model.decoder.layers):
        layer.attention.register_forward_hook(lambda _, __, out, number=number: outputs.update({number: out}))
    with watched(model) as seen:
        model(random_tokens(2, 13, below=60))
    assert set(seen) == set(outputs) == {0, 1, 2}
    for number, layer in enumerate(model.decoder.layers):
        compared = seen[number]
        w_BHST = compared.weights()
        assert w_BHST.shape == (2, 6, 13, 13)
        assert not w_BHST[~compared.mask_BST[:, None].expand_as(w_BHST)].any()
        v_BTHK = repeat(compared.v_BSGK, "b t g k -> b t (g h) k", h=3)
        out_BSHK = torch.einsum("bhst,bthk->bshk", w_BHST, v_BTHK)
        assert_close(layer.attention.o(rearrange(out_BSHK, "b s h k -> b s (h k)")), outputs[number], f"layer {number}")


@torch.no_grad()
def test_entropy_is_of_the_keys_seen() -> None:
    """With queries of zero every key that is seen weighs the same: the entropy is the logarithm of their number."""
    model = drawn_model(small_config()).eval()
    for layer in model.decoder.layers:
        layer.attention.q.weight.zero_()
    with watched(model) as seen:
        model(random_tokens(1, 12, below=60))
    chunked = torch.tensor([math.log(position % 5 + 1) for position in range(12)])
    everything = torch.tensor([math.log(position + 1) for position in range(12)])
    assert_close(seen[0].entropy()[0, 4], chunked, "a chunked layer")
    assert_close(seen[1].entropy()[0, 4], everything, "a global layer")


@torch.no_grad()
def test_looking_changes_nothing_and_ends() -> None:
    model = drawn_model(small_config()).eval()
    tokens_BS = random_tokens(1, 7, below=60)
    expected = model(tokens_BS)
    with watched(model) as seen:
        assert torch.equal(model(tokens_BS), expected)
    seen.clear()
    model(tokens_BS)
    assert not seen and not any(layer.attention._forward_hooks for layer in model.decoder.layers)


@torch.no_grad()
def test_a_call_that_goes_on_from_a_cache_is_refused() -> None:
    model = drawn_model(small_config()).eval()
    cache = model.new_cache(1, 9)
    model(random_tokens(1, 4, below=60), cache=cache)
    with watched(model), pytest.raises(InputError, match="goes on from a cache"):
        model(random_tokens(1, 1, below=60), cache=cache)
