"""Pins the static decode step: token for token the plain one, at every length, and fit to be recorded.

There is no CUDA graph here, so a stand-in records: torch's tracer, which writes down every operator of one step with the tensors
that it ran on, and replays those. As a graph does, it keeps whatever the host put in (a position, a shape, an address) as it was
when it was recorded, and refuses a step that reads a number back from the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy

import pytest
import torch
from small_models import FP32, assert_close
from tiny_llm import CHUNK, picture, speak_only, tiny_llm, tiny_tokenizer, with_picture
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from llama4 import generate, graph, ops, session
from llama4.cache import StaticStep
from llama4.chat import Prompt
from llama4.engine import decode, prefill
from llama4.errors import InputError
from llama4.evaluation.experts import tallied
from llama4.generate import LLM
from llama4.graph import Plain, Replay, Static

pytestmark = pytest.mark.filterwarnings("error:Decoding runs without a CUDA graph")
LENGTHS = (3, 17, 11)  # chunks of 13: no row's boundary falls on another's


def traced(step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    """Record `step` as a list of operators, constants and addresses included; the result has one address too."""
    nothing = torch.zeros(())  # the tracer wants an argument
    operators = make_fx(lambda _: step())(nothing)
    held = step()
    return lambda: held.copy_(operators(nothing)), held


def every_expert(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> Tensor:
    """The grouped matmul without a wait, in the shapes that it has for any routing: every expert on every row."""
    expert_N = torch.searchsorted(group_ends_E, torch.arange(len(x_ND)), right=True)
    every_END = torch.einsum("nd,edf->enf", x_ND, w_EDF)
    return every_END.gather(0, expert_N[None, :, None].expand(1, -1, w_EDF.shape[2]))[0]


@pytest.fixture
def unwaiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts as a card has them: the CPU's own loop asks for the group sizes."""
    monkeypatch.setattr(ops, "grouped_matmul", every_expert)


@pytest.fixture(params=["launched", "traced"])
def record(request: pytest.FixtureRequest) -> graph.Record | None:
    """The static step one by one, and recorded."""
    if request.param == "traced":
        request.getfixturevalue("unwaiting")
    return traced if request.param == "traced" else None


def prompts() -> list[Prompt]:
    """Three of unequal lengths, none alike."""
    return [Prompt(list(range(20 + length, 20 + 2 * length)), None) for length in LENGTHS]


def both(record: graph.Record | None, given: list[Prompt], max_tokens: int = 90) -> tuple[Plain, Static, Tensor]:
    """A plain and a static feed that have read the same prompts, and the logits behind these."""
    model = tiny_llm().model
    plain = Plain(model, model.new_cache(len(given), max_tokens))
    static = Static(model, model.new_cache(len(given), max_tokens), record)
    logits_BV = prefill(model, plain.cache, given)
    assert torch.equal(prefill(model, static.cache, given), logits_BV)
    return plain, static, logits_BV


@torch.inference_mode()
@pytest.mark.parametrize("first", [0, 1, 2])
def test_every_step_is_the_plain_one(record: graph.Record | None, first: int) -> None:
    """45 tokens a row, over three chunks and through growing buffers; one row rests, and two end on the way."""
    plain, static, logits_BV = both(record, prompts()[first:])
    rows = len(logits_BV)
    for turn in range(45):
        tokens = [int(token) for token in logits_BV.argmax(-1)]
        over = [row > 0 and turn > 10 * row for row in range(rows)]
        given = [None if gone or (turn == 5 and row == 0) else tokens[row] for row, gone in enumerate(over)]
        expected_BV, found_BV = plain(given), static(given)
        alive = [row for row, token in enumerate(given) if token is not None]
        assert_close(found_BV[alive], expected_BV[alive], f"turn {turn}", FP32)
        assert torch.equal(found_BV[alive].argmax(-1), expected_BV[alive].argmax(-1))
        assert torch.equal(static.cache.lengths_B, plain.cache.lengths_B)
        logits_BV = expected_BV.clone()


@torch.inference_mode()
def test_the_buffers_hold_what_the_plain_ones_do(record: graph.Record | None) -> None:
    """A row without a token writes nothing, not even where its next token will go."""
    plain, static, _ = both(record, prompts())
    for turn in range(30):
        given = [None if turn % 3 == 1 else 5 + turn, 7, None if turn > 4 else 9]
        plain(given), static(given)
    for ours, theirs in zip(static.cache.layers, plain.cache.layers, strict=True):
        slots = min(ours.k_BTGK.shape[1], theirs.k_BTGK.shape[1])
        assert slots >= min(ours.limit, 47)
        assert_close(ours.k_BTGK[:, :slots], theirs.k_BTGK[:, :slots], "keys", FP32)
        assert_close(ours.v_BTGK[:, :slots], theirs.v_BTGK[:, :slots], "values", FP32)


@torch.inference_mode()
@pytest.mark.usefixtures("unwaiting")
def test_it_is_recorded_again_when_a_buffer_has_moved_and_only_then() -> None:
    times: list[int] = []

    def counting(step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        times.append(int(static.cache.lengths_B.max()))
        return traced(step)

    _, static, _ = both(counting, prompts())
    for _ in range(60):
        static([5, 6, 7])
    assert times == [17, 34, 68]  # from 17 slots to 34, to 68, to the limit of 90
    prefill(static.model, static.cache, [Prompt([1] * 5, None)] * 3)  # a further turn of the conversation
    static([5, 6, 7])
    assert len(times) == 3


@torch.inference_mode()
def test_a_step_may_run_again_and_changes_nothing_then() -> None:
    """A recording warms up with steps of its own."""
    _, static, _ = both(None, prompts())
    logits_BV = static([5, 6, None]).clone()
    kept = [layer.k_BTGK.clone() for layer in static.cache.layers]
    assert torch.equal(static.step(), logits_BV)
    assert all(torch.equal(layer.k_BTGK, before) for layer, before in zip(static.cache.layers, kept, strict=True))


@torch.inference_mode()
def test_no_number_comes_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values run the step, and nothing asks for one. The plain call does, and so do a CPU's experts."""
    plain, static, _ = both(None, prompts())
    static([5, 6, 7])
    with pytest.raises(DataDependentOutputException), FakeTensorMode(allow_non_fake_inputs=True):
        plain([5, 6, 7])
    with pytest.raises(DataDependentOutputException), FakeTensorMode(allow_non_fake_inputs=True):
        static.step()
    monkeypatch.setattr(ops, "grouped_matmul", every_expert)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert static.step().shape == (3, tiny_llm().config.vocab_size)


def test_the_host_puts_in_no_number_that_changes() -> None:
    """What the step is made of has the shapes of the buffers: nothing else is in it."""
    step = StaticStep(torch.tensor([2, 5]), torch.tensor([True, True]))
    assert step.positions_BS.tolist() == [[2], [5]]
    cache = tiny_llm().model.new_cache(2, 30)
    cache.reserve(4)
    layer = next(layer for layer in cache.layers if layer.period == CHUNK)
    assert [part.tolist() for part in layer._slots(StaticStep(torch.tensor([2, CHUNK + 1]), step.alive_B))] == [
        [0, 1],
        [2, 1],
    ]


@torch.inference_mode()
def test_what_cannot_be_recorded_is_told_once_and_runs_plainly() -> None:
    def refusing(_: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    plain, static, _ = both(refusing, prompts())
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        found_BV = static([5, 6, None])
    assert torch.equal(found_BV, plain([5, 6, None]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            assert torch.equal(static([5, None, 7]), plain([5, None, 7]))
    assert torch.equal(static.cache.lengths_B, plain.cache.lengths_B)


@torch.inference_mode()
def test_a_full_cache_is_refused_before_anything_is_written(record: graph.Record | None) -> None:
    _, static, _ = both(record, prompts(), max_tokens=18)
    static([5, 6, 7])
    kept = [layer.k_BTGK.clone() for layer in static.cache.layers]
    with pytest.raises(InputError, match="The cache holds 18 tokens a row"):
        static([5, 6, 7])
    assert static.cache.lengths_B.tolist() == [4, 18, 12]
    assert all(torch.equal(layer.k_BTGK, before) for layer, before in zip(static.cache.layers, kept, strict=True))
    static([5, None, 7])  # the others have room, and the full row's slot is nobody else's
    assert static.cache.lengths_B.tolist() == [5, 18, 13]


@torch.inference_mode()
def test_a_row_that_is_over_may_fill_a_cache_shorter_than_a_chunk(record: graph.Record | None) -> None:
    """Behind its last slot is none: what the row reads then is one that there is."""
    model, given = tiny_llm().model, [Prompt([5, 6, 7, 8, 9, 10], None), Prompt([5, 6], None)]
    plain, static = Plain(model, model.new_cache(2, 6)), Static(model, model.new_cache(2, 6), record)
    for feed in (plain, static):
        prefill(model, feed.cache, given)
    for token in (7, 8, 9):
        assert_close(static([None, token])[1:], plain([None, token])[1:], f"token {token}", FP32)
    for ours, theirs in zip(static.cache.layers, plain.cache.layers, strict=True):
        assert_close(ours.k_BTGK[:, :6], theirs.k_BTGK[:, :6], "keys", FP32)


@pytest.fixture
def on_a_card(monkeypatch: pytest.MonkeyPatch, record: graph.Record | None) -> Iterator[Callable[[], list[Static]]]:
    """Called, lets `generate` and `Session` decode as on a card; gives the list of the feeds that will be made."""
    made: list[Static] = []

    def feed_for(model: object, batch_size: int, max_tokens: int) -> Static:
        made.append(Static(model, model.new_cache(batch_size, max_tokens), record))
        return made[-1]

    def begin() -> list[Static]:
        for module in (generate, session):
            monkeypatch.setattr(module, "feed_for", feed_for)
        return made

    yield begin
    tiny_llm().spare.clear()


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> LLM:
    """A model that says letters only."""
    ids = [tiny_tokenizer().encode(letter)[0] for letter in "abcdefghijklmnopqrstuvwxyz"]
    speak_only(monkeypatch, tiny_llm(), ids)
    return tiny_llm()


def mixed() -> list[object]:
    """Unequal lengths, pictures in the second and the last row."""
    question = "What is this, and what is it for? Say it in a few words."
    return ["a", with_picture(question), question * 2, with_picture("x", seed=3)]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.2, "top_p": 0.9, "seed": 3}], ids=["greedy", "drawn"])
def test_answers_are_the_plain_ones(letters: LLM, on_a_card: Callable[[], list[Static]], options: dict) -> None:
    """Batches and single prompts, pictures in them, 40 tokens over three chunks; rows end apart by a stop string."""
    asked = {"max_new_tokens": 40, "stop": ["e"], **options}
    expected = [letters.run(prompt, **asked) for prompt in mixed()]
    assert len({len(done.ids) for done in expected}) > 1
    made = on_a_card()
    assert letters.generate_batch(mixed(), **asked) == [done.text for done in expected]
    for prompt, done in zip(mixed(), expected, strict=True):
        found = letters.run(prompt, **asked)
        assert (found.text, found.ids, found.stop_reason) == (done.text, done.ids, done.stop_reason)
        assert found.logprobs == pytest.approx(done.logprobs, abs=2e-5)
    assert [len(feed.cache.lengths_B) for feed in made] == [4, 1]


def test_one_cache_for_each_size_of_a_batch(letters: LLM, on_a_card: Callable[[], list[Static]]) -> None:
    """Two answers at one time do not share a cache; a later one finds what they left, and starts from nothing."""
    alone, made = letters.generate("Good evening", max_new_tokens=12), on_a_card()
    first, second = (letters.stream(text, max_new_tokens=12) for text in ("Hello", "Good evening"))
    together = [(next(first, ""), next(second, "")) for _ in range(13)]
    assert len(made) == 2 and made[0].cache is not made[1].cache
    assert "".join(piece for _, piece in together) == alone
    assert letters.generate("Good evening", max_new_tokens=12) == alone and len(made) == 2
    for rows in range(2, 7):
        letters.generate_batch(["Hello"] * rows, max_new_tokens=2)
    assert sorted(letters.spare) == [3, 4, 5, 6] and generate.SPARE == 4


def test_a_failed_answer_leaves_nothing_behind(
    letters: LLM, on_a_card: Callable[[], list[Static]], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_card()
    letters.generate("Hello", max_new_tokens=2)
    assert list(letters.spare) == [1]
    monkeypatch.setattr(letters.model.decoder, "logits", lambda x_BSD: x_BSD.new_full((1, 1, 2560), float("nan")))
    with pytest.raises(InputError, match="NaN or infinite"):
        letters.generate("Hello", max_new_tokens=2)
    assert not letters.spare


def test_a_stream_that_is_left_keeps_its_recording(letters: LLM, on_a_card: Callable[[], list[Static]]) -> None:
    made = on_a_card()
    for _ in range(3):
        stream = letters.stream("Hello", max_new_tokens=9)
        next(stream)
        stream.close()
    assert len(made) == 1 and list(letters.spare) == [1]


def test_a_model_that_has_changed_is_recorded_anew(
    on_a_card: Callable[[], list[Static]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other weights in the same model, and other kernels; within a conversation too."""
    llm = LLM(deepcopy(tiny_llm().model), tiny_tokenizer())

    def answers() -> list[list[int]]:
        return [llm.run("Hello", max_new_tokens=9).ids]

    made, before = on_a_card(), answers()
    conversation = session.Session(llm)
    list(conversation.say("Hello", 2))
    head = llm.model.decoder.head
    head.weight = nn.Parameter(-head.weight.detach(), requires_grad=False)
    after = answers()
    assert after != before and after == [LLM(llm.model, llm.tokenizer).run("Hello", max_new_tokens=9).ids]
    list(conversation.say("Go on", 2))
    assert made[1].stands == made[0].stands
    monkeypatch.setattr(ops, "backend", lambda: "another")
    made[0].begin()
    assert made[0].recorded is None and made[0].held == 0


def test_who_watches_the_model_sees_every_token(letters: LLM, on_a_card: Callable[[], list[Static]]) -> None:
    """A replay runs no hooks, so the plain call runs while there are any; the same cache goes on without them."""
    on_a_card()
    before = letters.run("Hello", max_new_tokens=12)
    with tallied(letters.model) as tally:
        during = letters.run("Hello", max_new_tokens=12)
    assert during.ids == before.ids == letters.run("Hello", max_new_tokens=12).ids
    fed = len(letters.encode("Hello").ids) + len(during.ids) - 1  # nobody reads what the last token would bring
    assert {int(tally.load(layer, "all").sum()) for layer in tally.counts} == {fed}


def test_a_conversation_goes_on_where_it_was(letters: LLM, on_a_card: Callable[[], list[Static]]) -> None:
    turns = ["Hello", [{"type": "image", "image": picture()}, {"type": "text", "text": "What is this?"}], "Go on"]

    def talk() -> list[str]:
        conversation = session.Session(letters)
        return ["".join(conversation.say(content, 20)) for content in turns]

    expected, made = talk(), on_a_card()
    assert talk() == expected and len(made) == 1


def test_without_a_feed_decode_is_plain() -> None:
    model = tiny_llm().model
    plain, _, logits_BV = both(None, prompts())
    caches = [plain.cache, model.new_cache(3, 90)]
    prefill(model, caches[1], prompts())
    pick = lambda row, logits_V: int(logits_V.argmax())  # noqa: E731
    assert list(decode(model, caches[0], logits_BV, 9, pick, plain)) == list(
        decode(model, caches[1], logits_BV, 9, pick)
    )
