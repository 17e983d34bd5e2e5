"""Pins the ways to generate text: they agree with each other and with uncached forwards, alone or in a batch, and end rightly."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llm import CHUNK, forward, picture, script, speak_only, tiny_config, tiny_llm, tiny_tokenizer, with_picture

from llama4 import engine
from llama4.chat import Prompt
from llama4.errors import InputError
from llama4.generate import LLM, Completion
from llama4.model import Llama4

BYTES = {tiny_tokenizer().encode(chr(code))[0]: bytes([code]) for code in range(128)}
LETTERS = tuple(token for token, byte in BYTES.items() if byte.isalpha() or byte == b" ")
QUESTION = "What is this, and what is it for? Say it in a few words."


def byte_ids(text: str) -> list[int]:
    """One token a byte, unlike what `encode` would choose."""
    tokenizer = tiny_tokenizer()
    of_byte = {tokenizer.decode_bytes([token]): token for token in range(512)}
    return [of_byte[bytes([byte])] for byte in text.encode()]


def mixed_prompts() -> list[Any]:
    """Unequal lengths: below a chunk, over four chunks, pictures in the second and the last row."""
    return ["a", with_picture(QUESTION), QUESTION * 2, "Good evening", with_picture("x", seed=3)]


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> LLM:
    """A model that says letters and blanks only, so that one token is one character."""
    speak_only(monkeypatch, tiny_llm(), LETTERS)
    return tiny_llm()


@pytest.mark.parametrize("prompt", ["Hello", with_picture(QUESTION)], ids=["text", "picture"])
def test_greedy_is_the_argmax_of_a_growing_uncached_forward(prompt: Any) -> None:
    """40 tokens from prompts of other lengths: three chunk boundaries are crossed while decoding."""
    llm = tiny_llm()
    encoded = llm.encode(prompt)
    done = llm.run(prompt, max_new_tokens=40)
    logits_SV = forward(llm, [*encoded.ids, *done.ids], encoded.tiles)[len(encoded.ids) - 1 :]
    assert len(done.ids) == 40 > 3 * CHUNK and len(set(done.ids)) > 20
    assert done.ids == logits_SV[:40].argmax(-1).tolist()


def test_log_probabilities_are_those_of_the_model_whatever_is_drawn() -> None:
    """The model's own: before temperature and filters; the barred patch id aside, which has no probability."""
    llm = tiny_llm()
    encoded = llm.encode(with_picture(QUESTION))
    for options in ({}, {"temperature": 1.7, "top_k": 30, "seed": 4}):
        done = llm.run(encoded, max_new_tokens=30, **options)
        logits_SV = forward(llm, [*encoded.ids, *done.ids], encoded.tiles)[len(encoded.ids) - 1 : -1]
        expected_SV = torch.log_softmax(logits_SV.double(), dim=-1)
        expected = [float(row_V[token]) for row_V, token in zip(expected_SV, done.ids, strict=True)]
        assert len(done.logprobs) == len(done.ids) == 30
        assert done.logprobs == pytest.approx(
            expected, abs=2e-5
        )  # fp32 over logits of about 5, cached against uncached


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.9, "seed": 1}, {"temperature": 1.5, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "seed": 2}],
    ids=["greedy", "drawn", "filtered"],
)
@pytest.mark.parametrize("stop", [(), ("e", "zz")], ids=["no stop", "stop"])
def test_stream_generate_run_and_batch_say_the_same(letters: LLM, options: dict, stop: tuple[str, ...]) -> None:
    options = {"max_new_tokens": 35, "stop": stop, **options}
    done = letters.run("Hello", images=[picture()], **options)
    pieces = list(letters.stream("Hello", images=[picture()], **options))
    assert "".join(pieces) == done.text and all(pieces)
    assert letters.generate("Hello", images=[picture()], **options) == done.text
    assert letters.generate_batch(["Hello"], images=[[picture()]], **options) == [done.text]
    assert stop or len(pieces) == 35


def test_a_stream_comes_piece_by_piece_and_can_be_left(letters: LLM) -> None:
    stream = letters.stream("Hello", max_new_tokens=500)
    first = [next(stream) for _ in range(3)]
    stream.close()
    assert "".join(first) == letters.generate("Hello", max_new_tokens=3)


@pytest.mark.parametrize("size", [engine.PIECE, 7])
def test_a_batch_equals_its_rows_one_by_one(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """With pieces of 7 tokens, rows finish reading in different rounds; 40 new tokens cross chunks at different rounds."""
    llm = tiny_llm()
    cut = engine.cut
    monkeypatch.setattr(engine, "cut", lambda prompt, patch, tile, _: cut(prompt, patch, tile, size))
    together = llm.generate_batch(mixed_prompts(), max_new_tokens=40)
    assert together == [llm.generate(prompt, max_new_tokens=40) for prompt in mixed_prompts()]
    assert len(set(together)) == len(together)
    assert together[::-1] == llm.generate_batch(mixed_prompts()[::-1], max_new_tokens=40)


def test_rows_of_a_batch_end_on_their_own_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 0 says a stop token at once, row 1 a stop string, row 2 an end-of-message, row 3 runs to the limit."""
    llm, tokenizer = tiny_llm(), tiny_tokenizer()
    ids = [
        [tokenizer.eot_id, byte_ids("x")[0]],
        byte_ids("one, two! three"),
        [*byte_ids("bye"), tokenizer.eom_id, byte_ids("x")[0]],
        byte_ids("abcdefghijklmnopqrst"),
    ]
    script(monkeypatch, llm, *ids)
    texts = llm.generate_batch(["a", "b", "c", "d"], max_new_tokens=16, stop=["!"])
    assert texts == ["", "one, two", "bye", "abcdefghijklmnop"]


@pytest.mark.parametrize("name", ["<|eot|>", "<|eom|>", "<|end_of_text|>"])
def test_stop_tokens_end_the_answer_and_are_left_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    script(monkeypatch, tiny_llm(), [*byte_ids("Hi"), tiny_tokenizer().special_id(name)])
    done = tiny_llm().run("Hello")
    assert (done.text, done.ids, done.stop_reason) == ("Hi", byte_ids("Hi"), "stop_token")
    assert len(done.logprobs) == 2


def test_a_stop_string_across_tokens_ends_the_text_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = tiny_llm()
    script(monkeypatch, llm, byte_ids("So it goes.\n\nUser: more"))
    done = llm.run("Hello", stop=["\n\nUser:", "never"])
    assert (done.text, done.stop_reason) == ("So it goes.", "stop_string")
    assert done.ids == byte_ids("So it goes.\n\nUser:")  # the ids that were drawn; none after the stop string
    monkeypatch.undo()
    script(monkeypatch, llm, byte_ids("So it goes.\n\nUser: more"))
    assert list(llm.stream("Hello", stop="\n\nUser:")) == list("So it goes.")


def test_no_stop_strings_may_be_written_as_none() -> None:
    assert tiny_llm().run("Hello", stop=None, max_new_tokens=4) == tiny_llm().run("Hello", max_new_tokens=4)


def test_the_beginning_of_a_stop_string_is_given_back_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, tiny_llm(), [*byte_ids("one tw"), tiny_tokenizer().eot_id])
    done = tiny_llm().run("Hello", stop=["two"])
    assert (done.text, done.stop_reason) == ("one tw", "stop_token")


def test_no_forward_call_is_spent_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    llm, calls = tiny_llm(), []
    script(monkeypatch, llm, byte_ids("ab!cdef"))
    scripted = llm.model.decoder.logits
    monkeypatch.setattr(llm.model.decoder, "logits", lambda x_BSD: calls.append(None) or scripted(x_BSD))
    assert llm.generate("Hello", stop=["!"]) == "ab"
    assert len(calls) == 3


WORLD = "é日本語🙂👩‍👩‍👧 ن𝄞 end"


def test_a_stream_never_splits_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters of two, three and four bytes, one byte a token: each piece is one whole character."""
    script(monkeypatch, tiny_llm(), [*byte_ids(WORLD), tiny_tokenizer().eot_id])
    assert list(tiny_llm().stream("Hello")) == list(WORLD)


def test_a_character_cut_by_the_limit_becomes_a_replacement_character(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = tiny_llm()
    script(monkeypatch, llm, byte_ids("né🙂"))
    done = llm.run("Hello", max_new_tokens=6)  # n, two bytes of é, three of the four of the emoji
    assert (done.text, done.stop_reason) == ("né\ufffd", "length")
    assert done.ids == byte_ids("né🙂")[:-1]


def test_broken_bytes_stream_to_what_the_tokenizer_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any bytes at all: the pieces join to the decoded ids, none holds half a surrogate."""
    llm = tiny_llm()
    speak_only(monkeypatch, llm, range(256))
    for seed in range(4):
        options = {"max_new_tokens": 60, "temperature": 2.0, "seed": seed}
        done = llm.run("Hello", **options)
        assert done.text == tiny_tokenizer().decode(done.ids) == "".join(llm.stream("Hello", **options))
        assert done.text.encode().decode() == done.text


def test_the_patch_id_is_never_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even by a model that would say nothing else."""
    llm = tiny_llm()
    patch = llm.config.patch_id
    script(monkeypatch, llm, [patch])
    for options in ({}, {"temperature": 1.0, "seed": 0}):
        assert patch not in llm.run("Hello", max_new_tokens=8, **options).ids


def test_a_seed_repeats_an_answer_alone_and_in_a_batch() -> None:
    llm = tiny_llm()
    options = {"max_new_tokens": 12, "temperature": 1.0}
    answer = llm.generate("Hello", seed=3, **options)
    assert answer == llm.generate("Hello", seed=3, **options)
    assert answer != llm.generate("Hello", seed=4, **options)
    assert answer == llm.generate_batch(["Good evening to you", "Hello"], seed=3, **options)[1]
    state = torch.get_rng_state()
    assert llm.generate("Hello", **options) != llm.generate("Hello", **options)
    assert torch.equal(state, torch.get_rng_state())  # nobody else's random numbers are touched


def test_complete_has_no_chat_template() -> None:
    llm, tokenizer = tiny_llm(), tiny_tokenizer()
    ids = [tokenizer.bos_id, *tokenizer.encode("Once upon a time")]
    expected = llm.run(Prompt(ids, None), max_new_tokens=9)
    assert llm.complete("Once upon a time", max_new_tokens=9) == expected.text
    assert expected.ids == forward(llm, [*ids, *expected.ids])[len(ids) - 1 : -1].argmax(-1).tolist()
    with pytest.raises(InputError, match="prompt is empty"):
        llm.complete("")


def test_images_fill_open_places_and_special_tokens_in_text_stay_text() -> None:
    llm, content = tiny_llm(), [{"type": "text", "text": "left"}, {"type": "image"}, {"type": "text", "text": "right"}]
    encoded = llm.encode([{"role": "user", "content": content}], images=[picture()])
    filled = [content[0], {"type": "image", "image": picture()}, content[2]]
    assert llm.encode([{"role": "user", "content": filled}]).ids == encoded.ids
    assert not torch.equal(llm.encode("a", images=[picture(seed=8)]).tiles, llm.encode("a", images=[picture()]).tiles)
    hostile = llm.encode("<|patch|><|eot|>").ids
    assert hostile.count(llm.config.patch_id) == 0 and hostile.count(tiny_tokenizer().eot_id) == 1


def test_a_video_is_a_row_of_one_tile_images(tmp_path: Path) -> None:
    """An animation of six frames, of which three are taken, answers as the three frames given as single-tile pictures do."""
    llm = tiny_llm()
    frames = [picture(28, 28, seed=seed).quantize(64) for seed in range(6)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=40)
    video = {"type": "video", "video": tmp_path / "clip.gif", "frames": 3}
    text = {"type": "text", "text": "What happens?"}
    stills = [{"type": "image", "image": frames[number].convert("RGB")} for number in (1, 3, 5)]
    as_video = llm.encode([{"role": "user", "content": [video, text]}])
    as_stills = llm.encode([{"role": "user", "content": [*stills, text]}])
    assert as_video.ids == as_stills.ids and torch.equal(as_video.tiles, as_stills.tiles) and len(as_video.tiles) == 3
    assert llm.generate(as_video, max_new_tokens=5) == llm.generate(as_stills, max_new_tokens=5)


def test_pictures_and_their_order_change_the_answer() -> None:
    llm = tiny_llm()
    one, other = picture(seed=0), picture(seed=1)
    runs = [llm.run("a", images=images, max_new_tokens=8) for images in ([one, other], [other, one], [one])]
    for run, after in pairwise([*runs, runs[0]]):
        assert abs(run.logprobs[0] - after.logprobs[0]) > 1e-3


def bad_calls() -> list[tuple[str, Any]]:
    """What each bad call must say."""
    encoded = Prompt([1], None)
    return [
        ("prompt is empty", lambda llm: llm.generate("")),
        ("prompt is empty", lambda llm: llm.generate([{"role": "user", "content": ""}])),
        ("list of messages is empty", lambda llm: llm.generate([])),
        ("exceed the context of 600", lambda llm: llm.generate("Hello", max_new_tokens=600)),
        ("exceed the context of 600", lambda llm: llm.generate_batch(["a", "b " * 400], max_new_tokens=250)),
        ("max_new_tokens is 0", lambda llm: llm.generate("Hello", max_new_tokens=0)),
        ("temperature is nan", lambda llm: llm.stream("Hello", temperature=float("nan"))),
        ("top_p is 0", lambda llm: llm.run("Hello", top_p=0)),
        ("top_k is 0", lambda llm: llm.complete("Hello", top_k=0)),
        ("min_p is 2", lambda llm: llm.generate_batch(["Hello"], min_p=2)),
        ("seed is -1", lambda llm: llm.generate("Hello", seed=-1)),
        ("stop is", lambda llm: llm.stream("Hello", stop=[""])),
        ("stop is 5", lambda llm: llm.generate("Hello", stop=5)),
        ("images is a str", lambda llm: llm.generate("Hello", images="cat.png")),
        ("no image file", lambda llm: llm.generate("Hello", images=["no-such-cat.png"])),
        ("encoded already", lambda llm: llm.generate(encoded, images=[picture()])),
        ("outside the vocabulary", lambda llm: llm.generate(Prompt([2560], None))),
        ("takes a list of prompts", lambda llm: llm.generate_batch("Hello")),
        ("2 prompts and 1 lists of images", lambda llm: llm.generate_batch(["a", "b"], images=[None])),
    ]


@pytest.mark.parametrize(("says", "call"), bad_calls(), ids=[str(number) for number in range(len(bad_calls()))])
def test_bad_input_is_refused_at_the_call_in_one_sentence(says: str, call: Any) -> None:
    """At the call: a stream says so before its first piece is asked for."""
    with pytest.raises(InputError) as caught:
        call(tiny_llm())
    message = str(caught.value)
    assert says in message and message.endswith(".") and "\n" not in message


def test_an_empty_batch_has_no_answers() -> None:
    assert tiny_llm().generate_batch([]) == []


def test_a_text_model_answers_text_and_refuses_pictures() -> None:
    llm = tiny_llm(vision=False)
    encoded = llm.encode("Hello")
    done = llm.run("Hello", max_new_tokens=6)
    logits_SV = forward(llm, [*encoded.ids, *done.ids])
    assert done.ids == logits_SV[len(encoded.ids) - 1 : -1].argmax(-1).tolist()
    with pytest.raises(InputError, match="reads text only"):
        llm.generate("Hello", images=[picture()])
    with pytest.raises(InputError, match="no vision encoder"):
        llm.generate(tiny_llm().encode("Hello", images=[picture()]))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_are_an_error_and_not_an_answer(poison: float) -> None:
    model = Llama4(tiny_config())
    with torch.no_grad():
        model.decoder.norm.weight[3] = poison
    for options in ({}, {"temperature": 1.0}):
        with pytest.raises(InputError, match=r"NaN or infinite.*inspect MODEL --check"):
            LLM(model, tiny_tokenizer()).generate("Hello", **options)


def test_a_tokenizer_of_another_size_is_refused() -> None:
    model = Llama4(replace(tiny_config(), vocab_size=2561))
    with pytest.raises(InputError, match="2560 tokens and the model 2561"):
        LLM(model, tiny_tokenizer())


def test_a_completion_is_plain_data() -> None:
    done = tiny_llm().run("Hello", max_new_tokens=3)
    assert isinstance(done, Completion) and done.stop_reason == "length"
    assert [type(value) for value in (done.text, done.ids[0], done.logprobs[0])] == [str, int, float]
    assert done == tiny_llm().run("Hello", max_new_tokens=3)
