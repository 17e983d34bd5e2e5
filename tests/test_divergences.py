"""Where this project departs from a reference: what the reference does, run here, and what we do instead.

One test or more for every row of docs/divergences.md that no other file pins. A reference's side is asserted too: when a
later release of it changes, the test fails and the row is due for a second look.
"""

from __future__ import annotations

import codecs
import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from meta_generation import PAD, meta_prompt_logits
from reference_hf import hf_model
from reference_meta import meta_logits
from small_models import GRADIENT, assert_close, random_tokens
from torch import Tensor, nn

from llama4 import Config, rope
from llama4.attention import Rotary
from llama4.cache import Step
from llama4.config import LayerSpec
from llama4.config_io.hf import from_hf, to_hf
from llama4.config_io.meta import from_meta, to_meta
from llama4.layers import rms_norm

sys.path.append(str(Path(__file__).parent / "parity"))
import drawn_configs
from pairs import hf_pair, meta_pair

CHUNK = 8
META = {
    **drawn_configs.meta(3, vision=False),
    **{"n_layers": 4, "nope_layer_interval": 4, "attention_chunk_size": CHUNK, "attn_temperature_tuning": False},
    "moe_args": {
        "num_experts": 3,
        "capacity_factor": 1.0,
        "auto_scale_F": True,
        "top_k": 1,
        "interleave_moe_layer_step": 1,
    },
}
HF = {
    **{key: value for key, value in drawn_configs.hf_text(1).items() if key not in ("moe_layers", "no_rope_layers")},
    **{"num_hidden_layers": 4, "attention_chunk_size": 64, "interleave_moe_layer_step": 1, "num_local_experts": 3},
    **{"attn_temperature_tuning": True, "floor_scale": 3, "attn_scale": 0.5, "tie_word_embeddings": False},
}


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def distance(a: Tensor, b: Tensor) -> float:
    """max|a - b|."""
    return float((a.double() - b.double()).abs().max())


def test_meta_decode_sees_past_the_chunk_and_ours_does_not() -> None:
    """Meta against itself: one token a call differs from one prefill as soon as a second chunk has begun, not before."""
    pair = meta_pair(META)
    tokens_BS = random_tokens(1, 2 * CHUNK + 3, below=90)
    expected = pair.run_reference(tokens_BS)
    theirs = [meta_logits(pair.reference, tokens_BS[:, :1])]
    theirs += [meta_logits(pair.reference, tokens_BS[:, at : at + 1], start=at) for at in range(1, tokens_BS.shape[1])]
    assert_close(torch.cat(theirs[:CHUNK], dim=1), expected[:, :CHUNK], "Meta's decode inside the first chunk")
    assert distance(torch.cat(theirs[CHUNK:], dim=1), expected[:, CHUNK:]) > 0.5
    cache = pair.ours.new_cache(1, tokens_BS.shape[1])
    ours = [pair.ours(tokens_BS[:, at : at + 1], cache=cache) for at in range(tokens_BS.shape[1])]
    assert_close(torch.cat(ours, dim=1), expected, "our decode against Meta's prefill")


def test_meta_continuation_of_several_tokens_crashes_and_ours_works() -> None:
    pair = meta_pair(META)
    tokens_BS = random_tokens(1, 2 * CHUNK + 3, below=90)
    expected = pair.run_reference(tokens_BS)
    meta_logits(pair.reference, tokens_BS[:, :5])
    with pytest.raises(RuntimeError, match=r"size|shape|expand"):  # its mask is [3, 3], its keys are 8
        meta_logits(pair.reference, tokens_BS[:, 5:8], start=5)
    cache = pair.ours.new_cache(1, tokens_BS.shape[1])
    ours = [pair.ours(piece, cache=cache) for piece in tokens_BS.split([5, 3, 4, 7], dim=1)]
    assert_close(torch.cat(ours, dim=1), expected, "our pieces against Meta's prefill")


def test_meta_temperature_crashes_in_bfloat16_and_ours_runs() -> None:
    pair = meta_pair({**META, "attn_temperature_tuning": True})
    tokens_BS = random_tokens(1, 7, below=90)
    reference = pair.reference.bfloat16()
    with pytest.raises(RuntimeError, match="dtype"):  # fp32 scales make q fp32, and wo's weights are bf16
        meta_logits(reference, tokens_BS)
    assert torch.isfinite(pair.ours.bfloat16()(tokens_BS)).all()


def test_hf_left_padding_shifts_the_temperature_and_our_rows_keep_their_positions() -> None:
    pair = hf_pair(HF)
    tokens_BS = random_tokens(2, 9, below=90)
    lengths = [9, 5]
    alone = [pair.reference(input_ids=tokens_BS[row : row + 1, :length]).logits for row, length in enumerate(lengths)]
    padded_BS, mask_BS = tokens_BS.clone(), torch.ones_like(tokens_BS)
    padded_BS[1], mask_BS[1, :4] = torch.roll(tokens_BS[1], 4), 0
    positions_BS = (mask_BS.cumsum(-1) - 1).clamp(min=0)
    inputs = {"input_ids": padded_BS, "attention_mask": mask_BS, "position_ids": positions_BS, "use_cache": False}
    batched = pair.reference(**inputs).logits
    assert_close(batched[:1], alone[0], "transformers' full row")
    assert distance(batched[1:, 4:], alone[1]) > 0.005, "transformers' padded row"
    untuned = hf_model({**HF, "attn_temperature_tuning": False})
    assert_close(
        untuned(**inputs).logits[1:, 4:],
        untuned(input_ids=tokens_BS[1:, :5]).logits,
        "transformers' padded row without temperature tuning: the padding is not at fault otherwise",
    )
    ours = pair.ours(tokens_BS, lengths_B=torch.tensor(lengths))
    for row, length in enumerate(lengths):
        assert_close(ours[row : row + 1, :length], alone[row], f"our row {row}")


def test_hf_null_chunk_is_a_type_error_and_ours_means_no_chunk() -> None:
    config = {**HF, "attention_chunk_size": None}
    tokens_BS = random_tokens(1, 19, below=90)
    with pytest.raises(TypeError):
        hf_model(config)(input_ids=tokens_BS)
    assert {spec.span for spec in from_hf(config).layers} == {"all"}
    pair = hf_pair(config)  # the reference's chunk is longer than any prompt
    pair.assert_same(tokens_BS)
    cache = pair.ours.new_cache(1, 19)
    pieces = [pair.ours(piece, cache=cache) for piece in tokens_BS.split(6, dim=1)]
    assert_close(torch.cat(pieces, dim=1), pair.run_reference(tokens_BS), "pieces")


def test_hf_refuses_an_integer_for_temperature_tuning_and_ours_reads_it_as_true() -> None:
    old = {**HF, "attn_temperature_tuning": 4}
    with pytest.raises(Exception, match="attn_temperature_tuning"):
        hf_model(old)
    assert from_hf(old) == from_hf(HF) and from_hf(old).temperature is not None
    assert from_hf({**HF, "attn_temperature_tuning": 0}).temperature is None


def test_absent_temperature_key_has_each_formats_own_default() -> None:
    """One model, two formats, no key: transformers has it on, Meta off."""
    from llama_models.llama4.args import ModelArgs
    from transformers import Llama4TextConfig

    hf = {key: value for key, value in HF.items() if key != "attn_temperature_tuning"}
    meta = {key: value for key, value in META.items() if key != "attn_temperature_tuning"}
    assert Llama4TextConfig.from_dict(hf).attn_temperature_tuning is True
    assert ModelArgs(**meta, max_seq_len=8, max_batch_size=1).attn_temperature_tuning is False
    assert from_hf(hf).temperature is not None
    assert from_meta(meta).temperature is None
    written = [to_hf(from_hf(hf)), to_hf(from_meta(meta)), to_meta(from_meta(meta))]
    assert [data["attn_temperature_tuning"] for data in written] == [True, False, False], "written out, never left open"


def test_meta_experts_pass_no_gradient_and_ours_do() -> None:
    """Meta detaches the experts' input: layers below learn nothing from them. Checked on the gradient of the layer's input."""
    pair = meta_pair(META)
    theirs, ours = pair.reference.layers[0].feed_forward, pair.ours.decoder.layers[0].ffn
    gradients = {}
    with torch.enable_grad():
        for name, run in (("theirs", theirs), ("ours", ours), ("shared alone", ours.shared)):
            x_BSD = torch.randn(1, 6, META["dim"], generator=torch.Generator().manual_seed(1)).requires_grad_()
            run(x_BSD).square().sum().backward()
            gradients[name] = x_BSD.grad
            if name == "theirs":
                assert theirs.router_DE.grad is None, "Meta's router learns after all"
        assert ours.router.weight.grad.abs().max() > 0
        x_BSD = torch.randn(1, 6, META["dim"], generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = ours(x_BSD).detach()  # Meta's gradient: 2 * out through the shared expert alone
        (ours.shared(x_BSD) * 2 * out).sum().backward()
    assert_close(gradients["theirs"], x_BSD.grad, "Meta's gradient is the shared expert's alone", GRADIENT)
    assert distance(gradients["ours"], gradients["theirs"]) > 0.1


def test_references_run_every_expert_on_every_token_and_ours_one() -> None:
    """Worked number of Scout's 16 experts: (16 + 1) / (1 + 1) = 8.5 times the needed work."""
    from test_long_context import Watch
    from transformers.models.llama4.modeling_llama4 import Llama4TextMoe

    config = {**HF, "num_local_experts": 16, "hidden_size": 24, "intermediate_size": 36}
    pair = hf_pair(config)
    theirs, ours = pair.text.layers[0].feed_forward, pair.ours.decoder.layers[0].ffn
    assert isinstance(theirs, Llama4TextMoe)
    x_BSD = torch.randn(1, 40, 24, generator=torch.Generator().manual_seed(1))
    router = 40 * 24 * 16
    with Watch() as watch_theirs:
        expected = theirs(x_BSD)[0].view_as(x_BSD)
    with Watch() as watch_ours:
        found = ours(x_BSD)
    assert_close(found, expected, "the mixture")
    assert watch_ours.work - router == 2 * 40 * 3 * 24 * 36
    assert (watch_theirs.work - router) / (watch_ours.work - router) == 8.5


def test_router_sigmoid_is_rounded_by_both_references_and_fp32_here() -> None:
    """bf16 scores: Meta's sigmoid runs in bf16, transformers rounds its fp32 one back; the logits are bf16 in both."""
    pair = hf_pair(HF)
    theirs, ours = pair.text.layers[0].feed_forward.router.bfloat16(), pair.ours.decoder.layers[0].ffn.bfloat16()
    x_ND = torch.randn(50, HF["hidden_size"], generator=torch.Generator().manual_seed(1)).bfloat16()
    scores_NE, logits_NE = theirs(x_ND)
    assert scores_NE.dtype == logits_NE.dtype == torch.bfloat16
    expert_N, score_N = ours.route(x_ND)
    assert score_N.dtype == torch.float32
    logits_fp64 = x_ND.double() @ ours.router.weight.double().T
    exact_N = torch.sigmoid(logits_fp64.amax(-1))
    assert torch.equal(expert_N, logits_fp64.argmax(-1))
    assert distance(score_N, exact_N) < 1e-6
    assert distance(scores_NE.amax(-1), exact_N) > 1e-4
    metas = meta_pair(META).reference.layers[0].feed_forward
    x_bf16 = torch.ones(1, 1, META["dim"], dtype=torch.bfloat16)
    seen = []
    with _Sigmoids(seen):
        metas.bfloat16()(x_bf16)
    assert seen == [torch.bfloat16]


def test_softmax_is_fp32_in_bf16_where_hf_eager_rounds() -> None:
    """One attention in bf16 against fp64 on the same bf16 inputs: transformers' eager path is the less exact."""
    from transformers.models.llama4.modeling_llama4 import eager_attention_forward

    from llama4.attention import _attend

    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 4, 64, 16, generator=generator).bfloat16() for _ in range(3))
    module = nn.Module()
    module.num_key_value_groups = 1
    theirs, weights = eager_attention_forward(module, q * 3, k, v, None, scaling=0.25)
    assert weights.dtype == torch.bfloat16, "transformers' eager softmax is upcast after all"
    ours = _attend((q * 3).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask=None, is_causal=False)
    scores = (q * 3).double() @ k.double().transpose(-1, -2) * 0.25
    exact = (torch.softmax(scores, dim=-1) @ v.double()).transpose(1, 2)
    our_error, their_error = ((x.double() - exact).norm() for x in (ours, theirs))
    assert our_error < 0.8 * their_error


def test_qk_norm_epsilon_is_the_models_1e_5_not_mlx_1e_6() -> None:
    """On small heads the two differ: a head of mean square 1e-6 becomes 0.30 with 1e-5, 0.71 with 1e-6."""
    spec = LayerSpec("rope", "chunk", "moe")
    config = Config.scout()
    x_BSHK = torch.full((1, 1, 1, 128), 1e-3)
    q_BSHK, _ = Rotary(config, spec)(x_BSHK, x_BSHK, Step((0,), (1,), 1, torch.device("cpu")))
    assert config.norm_eps == 1e-5
    assert float(q_BSHK[0, 0, 0, 0]) == pytest.approx(1e-3 / math.sqrt(1e-6 + 1e-5), rel=1e-5)
    assert f"{float(q_BSHK[0, 0, 0, 0]):.2f}" == "0.30"
    assert f"{float(rms_norm(x_BSHK, 1e-6)[0, 0, 0, 0]):.2f}" == "0.71"


@pytest.mark.parametrize("config", [Config.scout(), Config.maverick()], ids=["scout", "maverick"])
def test_nope_layers_are_3_7_11_not_torchtitans_0_4_8(config: Config) -> None:
    from transformers import Llama4TextConfig

    nope = [index for index, spec in enumerate(config.layers) if spec.position == "nope"]
    assert nope == list(range(3, 48, 4))
    assert [index for index, has_rope in enumerate(Llama4TextConfig().no_rope_layers) if not has_rope] == nope


def test_rope_by_position_in_the_chunk_gives_metas_logits() -> None:
    """Meta turns by the absolute position. Over five chunks, where fp32 angles are still exact, nothing differs."""
    pair = meta_pair({**META, "n_layers": 3, "nope_layer_interval": None})
    pair.assert_same(random_tokens(2, 5 * CHUNK + 3, below=90))
    freqs = rope.frequencies(16, 500000.0, None)
    inside = rope.rotation(torch.tensor([3]), freqs)
    assert distance(inside[0], rope.rotation(torch.tensor([CHUNK + 3]), freqs)[0]) > 0.1, "the angles do differ"


class _Sigmoids(torch.overrides.TorchFunctionMode):
    """Records the dtype of every sigmoid's input."""

    def __init__(self, seen: list[torch.dtype]) -> None:
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (torch.sigmoid, F.sigmoid):
            self.seen.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_padding_is_zeroed_where_the_references_embed_it() -> None:
    """A NaN in the padding token's embedding reaches transformers' real tokens, masked as they are; ours it does not."""
    pair = hf_pair(HF)
    tokens_BS = torch.tensor([[5, 6, 7, 8, 89, 89], [9, 10, 11, 12, 13, 14]])
    mask_BS = (tokens_BS != 89).long()
    expected = pair.reference(input_ids=tokens_BS[:1, :4]).logits
    for embedding in (pair.reference.model.embed_tokens, pair.ours.decoder.embedding):
        embedding.weight[89] = float("nan")
    theirs = pair.reference(input_ids=tokens_BS, attention_mask=mask_BS).logits
    assert theirs[0, :4].isnan().any()
    ours = pair.ours(tokens_BS, lengths_B=torch.tensor([4, 6]))
    assert_close(ours[:1, :4], expected, "the padded row")


def test_meta_batches_lose_patches_past_the_shortest_prompt_and_ours_keep_them() -> None:
    """Meta's loop writes image embeddings at its first step, which ends where the shortest prompt does."""
    args = {**drawn_configs.meta(5), "attention_chunk_size": None, "attn_temperature_tuning": False}
    pair = meta_pair(args)
    patch, side = pair.config.patch_id, pair.config.vision.tile_side
    tile = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    picture = [5, 6, 7, 8, 9, *[patch] * pair.config.vision.tokens_per_tile, 10, 11]
    text = [12, 13, 14, 15]
    nothing = tile[:0]
    alone = meta_prompt_logits(pair.reference, [picture], [tile], patch)[0]
    first = meta_prompt_logits(pair.reference, [picture, picture], [tile, tile], patch)[1]
    batched = meta_prompt_logits(pair.reference, [text, picture], [nothing, tile], patch)[1]
    assert_close(first, alone, "Meta's row beside one of its own length")
    assert distance(batched, alone) > 0.1, "Meta's row beside a shorter one"
    tokens_BS = torch.tensor([text + [PAD] * (len(picture) - len(text)), picture])
    ours = pair.ours(tokens_BS, images=tile, lengths_B=torch.tensor([len(text), len(picture)]), logits="last")
    assert_close(ours[1, 0], alone, "our row beside a shorter one")


def test_importing_metas_loop_leaves_pickles_untrusted() -> None:
    assert not {io.BytesIO, codecs.encode} & set(torch.serialization.get_safe_globals())


def test_a_square_router_is_still_transposed() -> None:
    """transformers #40609: with as many experts as dimensions, a router loaded untransposed raises no error."""
    experts = {
        "num_experts": 16,
        "capacity_factor": 1.0,
        "auto_scale_F": True,
        "top_k": 1,
        "interleave_moe_layer_step": 1,
    }
    pair = meta_pair({**META, "dim": 16, "n_heads": 2, "n_kv_heads": 1, "moe_args": experts})
    router_DE = pair.reference.layers[0].feed_forward.router_DE
    assert router_DE.shape == (16, 16) and distance(router_DE, router_DE.T) > 0.1
    pair.assert_same(random_tokens(2, 19, below=90))
