"""The mistakes that tests/mutations.py makes: what is replaced in the package, and which test must then fail.

They are the ones that implementations of Llama 4 have made (vLLM, transformers, llama.cpp, mlx, torchtitan, Meta's own decode)
and those that the architecture invites. docs/parity.md says where each comes from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """In `file` of the package, `old` (found exactly once) becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """One mistake, and the test that must fail with it."""

    name: str
    test: str  # below tests/parity
    edits: tuple[Edit, ...]


def _golden(test: str, case: str) -> str:
    return f"test_goldens.py::test_{test}[{case}]"


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "RoPE pairs (i, i + K/2) instead of neighbours",
        _golden("logits", "hf-guard"),
        (
            Edit(
                "rope.py",
                'rearrange(x.float(), "... (pair two) -> ... pair two", two=2)',
                'rearrange(x.float(), "... (two pair) -> ... pair two", two=2).contiguous()',
            ),
            Edit("rope.py", '"... pair two -> ... (pair two)"', '"... pair two -> ... (two pair)"'),
        ),
    ),
    Mutation(
        "RoPE scaling ignored",
        _golden("logits", "hf-scout"),
        (Edit("rope.py", "return freqs if scaling is None else scale_frequencies(freqs, scaling)", "return freqs"),),
    ),
    Mutation(
        "RoPE scaling without its blended band",
        _golden("logits", "hf-guard"),
        (Edit("rope.py", "blend.clamp(0.0, 1.0)", "blend.clamp(0.0, 1.0).ceil()"),),
    ),
    Mutation(
        "QK norm before the rotation",
        "test_ops_order.py::test_qk_norm_comes_after_the_rotation",
        (
            Edit(
                "attention.py",
                "        q_turned, k_turned = rope.rotate(q_BSHK, turn), rope.rotate(k_BSGK, turn)\n",
                "        q_turned, k_turned = q_BSHK, k_BSGK\n",
            ),
            Edit(
                "attention.py",
                "        return q_turned.to(q_BSHK.dtype), k_turned.to(k_BSGK.dtype)",
                "        q_turned, k_turned = rope.rotate(q_turned, turn), rope.rotate(k_turned, turn)\n"
                "        return q_turned.to(q_BSHK.dtype), k_turned.to(k_BSGK.dtype)",
            ),
        ),
    ),
    Mutation(
        "QK norm over all heads at once",
        _golden("logits", "hf-scout"),
        (
            Edit(
                "attention.py",
                "rms_norm(q_turned, config.norm_eps), rms_norm(k_turned, config.norm_eps)",
                "(rms_norm(x.flatten(-2), config.norm_eps).view_as(x) for x in (q_turned, k_turned))",
            ),
        ),
    ),
    Mutation(
        "QK norm missing",
        _golden("logits", "meta-scout"),
        (Edit("attention.py", "if config.qk_norm:\n            q_turned", "if False:\n            q_turned"),),
    ),
    Mutation(
        "chunk mask missing in decode (Meta's mistake)",
        _golden("decode_across_chunk_boundaries", "hf-maverick"),
        (
            Edit("cache.py", 'config.chunk if spec.span == "chunk" else max_tokens for', "max_tokens for"),
            Edit("attention.py", "out_BSHK = self.reach.cached(", "out_BSHK = Everything(QUERY_BLOCK).cached("),
        ),
    ),
    Mutation(
        "the old chunk's slots stay visible",
        _golden("decode_across_chunk_boundaries", "meta-maverick"),
        (
            Edit(
                "attention.py",
                "slots = max(start % self.chunk for start in piece.starts) + piece.width",
                "slots = cache.limit",
            ),
        ),
    ),
    Mutation(
        "chunk mask missing in prefill",
        _golden("logits", "hf-maverick"),
        (Edit("attention.py", "WithinChunk(config.chunk) if", "Everything(config.chunk) if"),),
    ),
    Mutation(
        "a long prompt leaves its first tokens in the chunk's cache, not its last",
        _golden("decode_across_chunk_boundaries", "hf-scout"),
        (Edit("cache.py", "columns += range(first - start, count)", "columns += range(end - first)"),),
    ),
    Mutation(
        "slots counted from the padded length",
        _golden("rows_of_unequal_length_in_one_batch", "hf-maverick"),
        (Edit("cache.py", "end = start + count\n", "end, count = start + self.width, self.width\n"),),
    ),
    Mutation(
        "NoPE on layers 0, 4, 8 (config.json)",
        _golden("logits", "hf-maverick"),
        (Edit("config_io/hf.py", "int((index + 1) % interval != 0)", "int(index % interval != 0)"),),
    ),
    Mutation(
        "NoPE on layers 0, 4, 8 (params.json)",
        _golden("logits", "meta-maverick"),
        (
            Edit("config_io/meta.py", '"nope" if number % nope_every == 0', '"nope" if number % nope_every == 1'),
            Edit("config_io/meta.py", '"all" if number % nope_every == 0', '"all" if number % nope_every == 1'),
        ),
    ),
    Mutation(
        "temperature by the column of the call, not the token's own position",
        _golden("rows_of_unequal_length_in_one_batch", "meta-maverick"),
        (
            Edit(
                "attention.py",
                "temperature_scale(step.positions_BS, self.temperature)",
                "temperature_scale(torch.arange(step.width)[None], self.temperature)",
            ),
        ),
    ),
    Mutation(
        "temperature missing",
        _golden("logits", "hf-maverick"),
        (Edit("attention.py", "if self.temperature is None:", "if True:"),),
    ),
    Mutation(
        "score on the expert's output instead of its input",
        _golden("logits", "hf-maverick"),
        (
            Edit("moe.py", "scored_ND = (x_ND * score_N[:, None]).to(x_ND.dtype)", "scored_ND = x_ND"),
            Edit(
                "moe.py",
                "sorted_ND = self.experts(scored_ND[order_N], group_ends_E)",
                "sorted_ND = self.experts(scored_ND[order_N], group_ends_E) * score_N[order_N][:, None]",
            ),
        ),
    ),
    Mutation(
        "score by softmax over the experts instead of sigmoid",
        _golden("logits", "hf-scout"),
        (
            Edit(
                "moe.py",
                "return expert_N, torch.sigmoid(logit_N)",
                "return expert_N, self.router(x_ND).softmax(-1).amax(-1)",
            ),
        ),
    ),
    Mutation(
        "gate and up swapped in the experts",
        _golden("logits", "meta-scout"),
        (Edit("moe.py", "gate_NF, up_NF =", "up_NF, gate_NF ="),),
    ),
    Mutation(
        "gate and up swapped while Meta's experts are loaded",
        _golden("logits", "meta-maverick"),
        (
            Edit(
                "checkpoint/names.py",
                'experts.w1", (_GATE_UP,), split=2, half=0',
                'experts.w1", (_GATE_UP,), split=2, half=1',
            ),
            Edit(
                "checkpoint/names.py",
                'experts.w3", (_GATE_UP,), split=2, half=1',
                'experts.w3", (_GATE_UP,), split=2, half=0',
            ),
        ),
    ),
    Mutation(
        "router reshaped instead of transposed while Meta's file is loaded",
        _golden("logits", "meta-maverick"),
        (
            Edit(
                "checkpoint/transforms.py",
                'piece = rearrange(piece, "d e -> e d")',
                "piece = piece.reshape(target.shape)",
            ),
        ),
    ),
    Mutation(
        "tokens left in their experts' order",
        _golden("logits", "hf-maverick"),
        (Edit("moe.py", "return torch.empty_like(sorted_ND).index_copy(0, order_N, sorted_ND)", "return sorted_ND"),),
    ),
    Mutation(
        "shared expert missing",
        _golden("logits", "meta-maverick"),
        (Edit("moe.py", "self.shared(x_ND) + self.routed(", "self.routed("),),
    ),
    Mutation(
        "class token first",
        _golden("encoded_tiles_reach_the_stream", "hf-scout"),
        (
            Edit(
                "vision.py",
                'torch.cat((x_RPC, repeat(self.class_embedding, "c -> r 1 c", r=tiles.shape[0])), dim=1)',
                'torch.cat((repeat(self.class_embedding, "c -> r 1 c", r=tiles.shape[0]), x_RPC), dim=1)',
            ),
            Edit("vision.py", "self.norm_post(x_RPC)[:, :-1]", "self.norm_post(x_RPC)[:, 1:]"),
        ),
    ),
    Mutation(
        "GELU once in the adapter",
        _golden("encoded_tiles_reach_the_stream", "meta-scout"),
        (Edit("vision.py", "F.gelu(self.fc2(F.gelu(self.fc1(x))))", "self.fc2(F.gelu(self.fc1(x)))"),),
    ),
    Mutation(
        "pixel shuffle column by column",
        _golden("encoded_tiles_reach_the_stream", "hf-scout"),
        (Edit("vision.py", "r (y x) (i j c)", "r (y x) (j i c)"),),
    ),
    Mutation(
        "vision RoPE with rows and columns swapped",
        _golden("encoded_tiles_reach_the_stream", "meta-scout"),
        (
            Edit(
                "rope.py",
                "(columns[:, None] * freqs, rows[:, None] * freqs)",
                "(rows[:, None] * freqs, columns[:, None] * freqs)",
            ),
        ),
    ),
    Mutation(
        "vision RoPE counted from 0",
        _golden("encoded_tiles_reach_the_stream", "hf-scout"),
        (
            Edit(
                "rope.py",
                "patch % vision.grid + 1, patch // vision.grid + 1",
                "patch % vision.grid, patch // vision.grid",
            ),
        ),
    ),
    Mutation(
        "tiles filled in backwards",
        _golden("logits", "hf-scout"),
        (Edit("fusion.py", "self.projection(encoded)", "self.projection(encoded.flip(0))"),),
    ),
)
