"""Pins a conversation: its turns are those of one long prompt, and leaving one half-way, or failing in it, loses nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_llm import forward, picture, script, speak_only, tiny_llm, tiny_tokenizer
from torch import Tensor

from llama4 import chat
from llama4.chat import Prompt
from llama4.errors import InputError
from llama4.generate import LLM
from llama4.sampling import Sampling
from llama4.session import Session

EOT = tiny_tokenizer().eot_id
LETTERS = [tiny_tokenizer().encode(letter)[0] for letter in "abcdefghijklmnopqrstuvwxyz"]
LOOK = [{"type": "image", "image": picture()}, {"type": "text", "text": "What is this?"}]


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> LLM:
    """A model that says letters only, one a token: an answer's text has as many characters as ids."""
    speak_only(monkeypatch, tiny_llm(), LETTERS)
    return tiny_llm()


def say(session: Session, content: str | list[dict], budget: int = 20) -> str:
    """One turn, read to its end."""
    return "".join(session.say(content, budget))


def user(ids: list[int], content: str | list[dict]) -> list[int]:
    """`ids`, then the ids of a user message and the assistant's header, as a prompt of its own would have them."""
    encoded = chat.encode(tiny_tokenizer(), [{"role": "user", "content": content}], vision=tiny_llm().config.vision)
    return [*ids, *(encoded.ids[1:] if ids else encoded.ids)]


def test_turns_are_those_of_one_long_prompt(llm: LLM) -> None:
    """Three turns, pictures in the second and third, against a fresh run on all ids so far."""
    session, ids, tiles = Session(llm), [], []
    for content in (
        "Hello",
        LOOK,
        [{"type": "image", "image": picture(seed=2)}, {"type": "text", "text": "And this?"}],
    ):
        ids = user(ids, content)
        if not isinstance(content, str):
            tiles.append(llm.encode([{"role": "user", "content": content}]).tiles)
        answer = say(session, content)
        done = llm.run(Prompt(ids, torch.cat(tiles) if tiles else None), max_new_tokens=20)
        assert answer == done.text and len(answer) == 20
        ids = [*ids, *done.ids, EOT]
        assert session.ids == ids
    assert session.ids.count(tiny_tokenizer().bos_id) == 1


def test_ids_are_those_of_the_chat_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the answer is what the tokenizer would have written, ids equal a full encoding of the same messages."""
    tokenizer = tiny_tokenizer()
    script(monkeypatch, tiny_llm(), [*tokenizer.encode("Good evening"), EOT, *tokenizer.encode("Bye"), EOT])
    session = Session(tiny_llm(), system="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}]
    for question, answer in (("Hello", "Good evening"), ("And now?", "Bye")):
        assert say(session, question) == answer
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    assert session.ids == chat.encode(tokenizer, messages, add_generation_prompt=False).ids


def test_each_turn_reads_only_what_is_new(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    session, widths = Session(llm), []
    run = llm.model.decoder.forward

    def watched(x_BSD: Tensor, *rest: object) -> Tensor:
        widths.append(x_BSD.shape[1])
        return run(x_BSD, *rest)

    monkeypatch.setattr(llm.model.decoder, "forward", watched)
    say(session, LOOK, 30)
    before, widths[:] = len(session.ids), []
    say(session, "b", 3)
    # the second message, the first answer's end-of-turn, and its last token, which was drawn but not yet read
    assert widths == [len(user([1], "b")) - 1 + 2, 1, 1]
    assert len(session.ids) == before + len(user([1], "b")) - 1 + 4


@pytest.mark.parametrize("heard", [0, 1, 7])
@pytest.mark.parametrize("leave", ["close", "drop", "say"])
def test_an_answer_left_half_way_stays_as_far_as_it_came(llm: LLM, heard: int, leave: str) -> None:
    """After 0 pieces (nobody began to listen) or more; closed, dropped, or just not listened to any longer."""
    session = Session(llm)
    say(session, LOOK)
    ids, tiles = session.ids, torch.cat(session.tiles)
    pieces = session.say("Tell me a story", 30)
    spoken = [next(pieces) for _ in range(heard)]
    cache = session.cache
    if leave == "close":
        pieces.close()
    if leave == "drop":
        del pieces
    answer = say(session, "Go on")
    spoken_ids = [tiny_tokenizer().encode(letter)[0] for letter in spoken]
    expected = user([*user(ids, "Tell me a story"), *spoken_ids, EOT], "Go on")
    assert session.ids[: len(expected)] == expected
    assert answer == llm.generate(Prompt(expected, tiles), max_new_tokens=20)
    assert session.cache is cache  # left between two forward calls, so nothing was read twice
    if leave == "say":
        assert list(pieces) == []  # the old answer has ended


def breaking(monkeypatch: pytest.MonkeyPatch, llm: LLM, call: int, error: BaseException) -> None:
    """Let the given forward call fail when half of its layers have written to the cache."""
    layer, calls = llm.model.decoder.layers[2], []
    run: Callable[..., Tensor] = layer.forward

    def broken(*inputs: object) -> Tensor:
        calls.append(None)
        if len(calls) == call:
            raise error
        return run(*inputs)

    monkeypatch.setattr(layer, "forward", broken)


@pytest.mark.parametrize("call", [1, 2, 9], ids=["prefill", "first token", "eighth token"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")], ids=["Ctrl-C", "failure"])
def test_a_turn_that_breaks_inside_the_model_leaves_a_whole_conversation(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException
) -> None:
    session = Session(llm)
    say(session, LOOK)
    ids, tiles = session.ids, torch.cat(session.tiles)
    spoken = []
    with monkeypatch.context() as patch:
        breaking(patch, llm, call, error)
        with pytest.raises(type(error)):
            spoken.extend(session.say("Tell me a story", 30))
    spoken_ids = [tiny_tokenizer().encode(letter)[0] for letter in spoken]
    expected = [*user(ids, "Tell me a story"), *spoken_ids, EOT]
    assert session.ids == expected
    answer = say(session, "Go on")
    assert answer == llm.generate(Prompt(user(expected, "Go on"), tiles), max_new_tokens=20)


def test_the_end_is_the_token_that_the_model_said(monkeypatch: pytest.MonkeyPatch) -> None:
    end_of_message = tiny_tokenizer().eom_id
    script(monkeypatch, tiny_llm(), [LETTERS[0], end_of_message])
    session = Session(tiny_llm())
    assert say(session, "Hello") == "a"
    assert session.ids[-2:] == [LETTERS[0], end_of_message]


def test_reset_forgets_all_but_the_system_message(llm: LLM) -> None:
    session = Session(llm, system="Answer in verse.")
    first = say(session, LOOK)
    pieces = session.say("And?", 30)
    next(pieces)
    session.reset()
    assert session.ids == [] and session.tiles == [] and int(session.cache.lengths_B[0]) == 0
    assert list(pieces) == []
    assert say(session, LOOK) == first
    assert session.ids.count(tiny_tokenizer().bos_id) == 1


def test_a_full_context_is_said_and_changes_nothing() -> None:
    llm = tiny_llm(max_context=60)
    session = Session(llm)
    answer = say(session, "Hello", 1000)  # ends where the context does
    assert len(session.ids) == 61 and answer
    logits_SV = forward(llm, session.ids[:59])
    assert logits_SV[-1].argmax() == session.ids[59]
    ids = list(session.ids)
    for _ in range(2):
        with pytest.raises(InputError, match=r"leave no room in the context of 60.*\(/reset\)"):
            session.say("More")
        assert session.ids == ids and session.tiles == []
    session.reset()
    assert say(session, "Hello", 1000) == answer


def test_bad_input_is_said_at_the_call_and_changes_nothing(llm: LLM) -> None:
    session = Session(llm)
    say(session, LOOK)
    ids, tiles = list(session.ids), list(session.tiles)
    for says, call in (
        ("max_new_tokens is 0", lambda: session.say("a", 0)),
        ("seed is -1", lambda: session.say("a", 5, Sampling(1.0), -1)),
        ("prompt is empty", lambda: session.say("")),
        ("carries no picture", lambda: session.say([{"type": "image"}])),
        ("no image file", lambda: session.say([{"type": "image", "image": "no-such-cat.png"}])),
    ):
        with pytest.raises(InputError, match=says):
            call()
        assert session.ids == ids and session.tiles == tiles
    assert say(session, "a") == llm.generate(Prompt(user(ids, "a"), torch.cat(tiles)), max_new_tokens=20)


def test_drawing_is_repeatable(llm: LLM) -> None:
    def talk(seed: int) -> list[str]:
        session = Session(llm)
        return ["".join(session.say(text, 10, Sampling(1.5), seed)) for text in ("Hello", "Go on")]

    assert talk(1) == talk(1) != talk(2)
