"""Attention from a cache in splits: the reference's output, whatever each query sees and however many splits there are; no slot
that nobody sees is read; the same bits twice; no wait for the device."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import random
from kernel_machine import CUDA, DEVICE, NARROW
from llama4_kernels import attention_decode, decode_attention, reference

# Query heads, key/value heads, head width, slots seen by each query of each row; blocks are of 32 slots in the interpreter.
CASES = {
    "the first token": (5, 1, 16, [[1]]),
    "five heads share, as in Scout; rows of unequal length": (10, 2, 16, [[70], [3]]),
    "three heads share, as in the default model": (6, 2, 32, [[40], [41], [1]]),
    "a block exactly, and one slot more": (2, 1, 16, [[32], [33]]),
    "the whole buffer": (2, 2, 16, [[100]]),
    "a row that sees nothing": (4, 2, 16, [[0], [7]]),
    "three queries a row, each with its own end": (5, 1, 16, [[60, 61, 62], [1, 2, 3]]),
    "a query whose last slot is in an earlier split than another's": (2, 1, 16, [[5, 99]]),
    "as wide as Scout's heads": (5, 1, 128, [[37]]),
    "32 rows, as many as there may be": (32, 1, 16, [[45]]),
}
SLOTS = 100


def given(case: tuple, dtype: torch.dtype = NARROW) -> list[torch.Tensor]:
    """q, k, v, seen; slots that no query of a row sees hold NaN."""
    heads, kv_heads, width, seen = case
    seen_BS = torch.tensor(seen, device=DEVICE)
    q_BSHK = random(*seen_BS.shape, heads, width, dtype=dtype, seed=1, scale=2.0)
    k_BTGK, v_BTGK = (random(len(seen), SLOTS, kv_heads, width, dtype=dtype, seed=seed) for seed in (2, 3))
    for row, most in enumerate(seen_BS.amax(1).tolist()):
        k_BTGK[row, most:], v_BTGK[row, most:] = torch.nan, torch.nan
    return [q_BSHK, k_BTGK, v_BTGK, seen_BS]


def assert_near(found: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> None:
    """Weights and the output are rounded once each; fp32 sums in another order."""
    close = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    bound = close * max(1.0, float(exact.abs().max()))
    worst = float((found.double() - exact).abs().max())
    assert found.shape == exact.shape and worst <= bound, f"off by {worst}, {worst / bound:.1f} x the bound"


def exact_of(tensors: list[torch.Tensor]) -> torch.Tensor:
    return reference.decode_attention(*[x.double() for x in tensors[:3]], tensors[3])


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("splits", [1, 2, 8], ids="{} splits".format)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_decode_is_the_reference(case: tuple, splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One split; two; eight, of which most have no slot."""
    monkeypatch.setattr(attention_decode, "splits_of", lambda *_: splits)
    tensors = given(case)
    assert_near(decode_attention(*tensors), exact_of(tensors), NARROW)


@pytest.mark.usefixtures("poisoned")
def test_every_dtype_and_both_kinds_of_counts(dtype: torch.dtype) -> None:
    for integers in (torch.int64, torch.int32):
        tensors = given((6, 2, 16, [[40], [77]]), dtype)
        tensors[3] = tensors[3].to(integers)
        assert_near(decode_attention(*tensors), exact_of(tensors), dtype)


@pytest.mark.usefixtures("poisoned")
def test_scores_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block's scores 40 above the last one's: earlier blocks and earlier splits count for nothing, and nothing overflows."""
    monkeypatch.setattr(attention_decode, "splits_of", lambda *_: 2)
    q_BSHK, k_BTGK, v_BTGK, seen_BS = given((2, 1, 16, [[100]]), torch.float32)
    q_BSHK.zero_()[..., 0] = 4.0
    k_BTGK.zero_()[0, :, 0, 0] = torch.arange(100, device=DEVICE) // 32 * 40.0
    tensors = [q_BSHK, k_BTGK, v_BTGK, seen_BS]
    assert_near(decode_attention(*tensors), exact_of(tensors), torch.float32)


@pytest.mark.usefixtures("poisoned")
def test_the_caches_own_layout() -> None:
    """The first slots of a larger buffer, and heads before slots: the same bits as from a copy without gaps."""
    q_BSHK, k_BTGK, v_BTGK, seen_BS = given((6, 2, 16, [[40], [61]]))
    expected = decode_attention(q_BSHK, k_BTGK[:, :64].contiguous(), v_BTGK[:, :64].contiguous(), seen_BS)
    assert torch.equal(decode_attention(q_BSHK, k_BTGK[:, :64], v_BTGK[:, :64], seen_BS), expected)
    turned = v_BTGK[:, :64].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(decode_attention(q_BSHK, k_BTGK[:, :64], turned, seen_BS), expected)


def test_more_seen_than_there_is_reads_no_further() -> None:
    """A count beyond the buffer is taken as the buffer's end: behind it lies memory of somebody else."""
    q_BSHK, k_BTGK, v_BTGK, seen_BS = given((2, 1, 16, [[64]]))
    expected = decode_attention(q_BSHK, k_BTGK[:, :64], v_BTGK[:, :64], seen_BS)
    assert torch.equal(decode_attention(q_BSHK, k_BTGK[:, :64], v_BTGK[:, :64], seen_BS + 30), expected)


def test_splits_follow_from_the_buffer_and_the_card_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs for each of 132 multiprocessors, if that leaves a split its 256 slots; a power of two, 64 at most."""
    monkeypatch.setattr(attention_decode, "programs", lambda _: 132)
    device = torch.device(DEVICE)
    found = [
        attention_decode.splits_of(rows * 8, slots, device) for rows, slots in ((1, 2**20), (16, 2**20), (40, 2**20))
    ]
    assert found == [64, 4, 1]
    assert [attention_decode.splits_of(8, slots, device) for slots in (1, 256, 257, 8192)] == [1, 1, 2, 32]


def test_one_row_does_not_change_another() -> None:
    tensors = given((6, 2, 16, [[40], [61]]))
    expected = decode_attention(*tensors)
    tensors[1][1], tensors[3][1] = torch.nan, 100
    found = decode_attention(*tensors)
    assert torch.equal(found[0], expected[0]) and found[1].isnan().all()


def test_twice_the_same_bits() -> None:
    tensors = given((10, 2, 16, [[70], [3]]))
    assert torch.equal(decode_attention(*tensors), decode_attention(*tensors))


def test_no_rows() -> None:
    q_BSHK, k_BTGK, v_BTGK, seen_BS = given((2, 1, 16, [[4]]))
    assert decode_attention(q_BSHK[:0], k_BTGK[:0], v_BTGK[:0], seen_BS[:0]).shape == (0, 1, 2, 16)


def test_a_compiler_is_told_the_truth() -> None:
    tensors = given((2, 1, 16, [[40]]))
    tensors[1:3] = [x.nan_to_num() for x in tensors[1:3]]  # the check compares arguments, and NaN is not NaN
    torch.library.opcheck(attention_decode._decode, tuple(tensors), test_utils=("test_schema", "test_faketensor"))


WRONG = {
    "seen as int64 or int32 \\[2, 1\\]": lambda q, k, v, n: (q, k, v, n[:1]),
    "a count of slots for each query": lambda q, k, v, n: (q, k, v, n.float()),
    "at most 32 queries times heads": lambda q, k, v, n: (q.expand(2, 40, 6, 16), k, v, n.expand(2, 40)),
    "a multiple of key/value heads": lambda q, k, v, n: (q[:, :, :5], k, v, n),
    "the same for all": lambda q, k, v, n: (q.float(), k, v, n),
    "on one device": lambda q, k, v, n: (q, k, v, n.to("meta")),
}


@pytest.mark.parametrize("told", WRONG, ids=list(WRONG))
def test_what_it_cannot_take_is_told(told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told) as raised:
        decode_attention(*WRONG[told](*given((6, 2, 16, [[40], [61]]))))
    assert str(raised.value).count(". ") == 0 and str(raised.value).endswith(".")


@pytest.mark.skipif(not CUDA, reason="a CUDA graph needs a GPU")
def test_a_graph_of_it_holds_while_the_sequence_grows() -> None:
    q_BSHK, k_BTGK, v_BTGK, seen_BS = given((10, 2, 16, [[100], [100]]))
    decode_attention(q_BSHK, k_BTGK, v_BTGK, seen_BS)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out_BSHK = decode_attention(q_BSHK, k_BTGK, v_BTGK, seen_BS)
    for seen in ([[1], [50]], [[33], [0]], [[100], [64]]):
        seen_BS.copy_(torch.tensor(seen, device=DEVICE))
        graph.replay()
        assert torch.equal(out_BSHK, decode_attention(q_BSHK, k_BTGK, v_BTGK, seen_BS))
