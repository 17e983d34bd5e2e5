"""Pins where a text ends that has stop strings, and that the place does not depend on how the text came in pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama4.errors import InputError
from llama4.stopping import StopStrings

# Two letters make overlaps, self-overlaps and near misses common; an accent and an emoji stand for the rest of Unicode.
texts = st.text("abé🙂", max_size=30)
stop_lists = st.lists(st.text("abé🙂", min_size=1, max_size=5), max_size=4).map(tuple)


def by_definition(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Read character by character: the first place where a stop string is complete ends it, before the longest of those."""
    for end in range(1, len(text) + 1):
        complete = [one for one in stop if text[:end].endswith(one)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


def streamed(pieces: list[str], stop: tuple[str, ...]) -> tuple[str, bool]:
    """What a `StopStrings` shows of the pieces, and whether it stopped."""
    watch = StopStrings(stop)
    shown = "".join(watch.push(piece) for piece in pieces)
    return shown + watch.flush(), watch.stopped


@st.composite
def splits(draw: st.DrawFn) -> list[str]:
    """A text in pieces, some of them empty."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[first:last] for first, last in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=600, deadline=None)
@given(splits(), stop_lists)
@example(["abc"], ("abc", "b"))
@example(["a", "b", "c"], ("abc", "b"))
@example(["ab"], ("b", "ab"))
@example(["aa", "ab"], ("aab",))
def test_any_splitting_gives_the_definition(pieces: list[str], stop: tuple[str, ...]) -> None:
    expected = by_definition("".join(pieces), stop)
    assert streamed(pieces, stop) == expected
    assert streamed(list("".join(pieces)), stop) == expected


@settings(max_examples=300, deadline=None)
@given(splits(), stop_lists)
def test_what_is_shown_is_never_taken_back_nor_held_without_need(pieces: list[str], stop: tuple[str, ...]) -> None:
    """After each piece all is shown but the longest end that a stop string begins with."""
    watch, come, shown = StopStrings(stop), "", ""
    for piece in pieces:
        come += piece
        shown += watch.push(piece)
        if watch.stopped:
            break
        held = [length for length in range(1, len(come) + 1) if any(one.startswith(come[-length:]) for one in stop)]
        assert shown == come[: len(come) - max(held, default=0)]


def test_the_example_of_the_docstring() -> None:
    watch = StopStrings(("\n\n",))
    assert [watch.push(piece) for piece in ("Hi", "\n", "\nmore")] == ["Hi", "", ""] and watch.stopped
    watch = StopStrings(("\n\n",))
    assert [watch.push(piece) for piece in ("Hi", "\n", "there")] == ["Hi", "", "\nthere"] and not watch.stopped


def test_nothing_is_shown_after_the_stop() -> None:
    watch = StopStrings(("x",))
    assert watch.push("axb") == "a"
    assert watch.push("c") == "" and watch.flush() == ""


def test_a_stop_that_never_comes_is_given_back_by_flush() -> None:
    watch = StopStrings(("END",))
    assert watch.push("the EN") == "the "
    assert watch.flush() == "EN" and not watch.stopped


@pytest.mark.parametrize("stop", [("",), ("a", ""), (3,), (None,)])
def test_stop_strings_must_be_non_empty_strings(stop: tuple) -> None:
    with pytest.raises(InputError, match="non-empty strings"):
        StopStrings(stop)
