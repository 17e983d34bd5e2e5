"""Pins tool calls as text: what is written is read back in every form, and nothing else is taken for a call, or run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama4.errors import InputError
from llama4.tools import TOOL_FORMATS, ToolCall, as_tool_call, describe_tools, parse_tool_calls, write_tool_call


def test_the_tool_description_is_the_templates_to_the_letter() -> None:
    assert describe_tools([]) == (
        "Environment: ipython\nYou have access to the following functions. To call a function, please respond with JSON "
        'for a function call.Respond in the format {"name": function name, "parameters": dictionary of argument name and '
        "its value}.Do not use variables.\n\n"
    )


names = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True).map(lambda name: f"f_{name}")
texts = st.text() | st.sampled_from(["<|python_start|>", "a<|python_end|>b", "<|eot|>", "</function>", "[f(x=1)]"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
calls = st.builds(ToolCall, names, st.dictionaries(names, values, max_size=4))


@given(st.lists(calls, min_size=1, max_size=3), st.sampled_from(TOOL_FORMATS), st.booleans())
@settings(max_examples=600, deadline=None)
def test_what_is_written_is_read_back(drawn: list[ToolCall], form: str, wrapped: bool) -> None:
    text = "".join(write_tool_call(call, form) for call in drawn)
    if wrapped:
        text = (
            f"<|python_start|>Thinking.<|python_end|>{text}"
            if form == "hf"
            else f"<|python_start|>{text}<|python_end|>"
        )
    assert parse_tool_calls(text) == drawn


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[get(city=\"SF\"), get(city='Rome')]", [("get", {"city": "SF"}), ("get", {"city": "Rome"})]),
        ("[a.b(x=-1.5, y=[1, (2, 3)], z={'k': None})]", [("a.b", {"x": -1.5, "y": [1, [2, 3]], "z": {"k": None}})]),
        ("[f(x=true, y=null)]\n[g()]", [("f", {"x": True, "y": None}), ("g", {})]),
        ('{"name": "f", "parameters": {}}; {"name": "g", "arguments": {"a": 1}}', [("f", {}), ("g", {"a": 1})]),
        ('[{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]', [("f", {"a": 1})]),
        ('Sure: <function=f>{"a": {"b": "}</function>"}}</function>', [("f", {"a": {"b": "}</function>"}})]),
        ('Let me see. <|python_start|>[f(a="é")]<|python_end|><|eom|>', [("f", {"a": "é"})]),
        ('  <|python_start|>{"name": "f", "parameters": {"a": 1}}<|eot|> \n', [("f", {"a": 1})]),
        ("<|python_start|><|python_end|>[f()]", [("f", {})]),
    ],
)
def test_answers_that_call_tools(text: str, expected: list[tuple[str, dict]]) -> None:
    assert parse_tool_calls(text) == [ToolCall(*call) for call in expected]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The weather is fine.",
        "[1, 2, 3]",
        "[]",
        "{}",
        "[[f()]]",
        "See [f(a=1)] for more.",
        "f(a=1)",
        '{"name": "Ada", "age": 36}',
        '{"name": 3, "parameters": {}}',
        '{"name": "f", "parameters": [1]}',
        '{"name": "f", "parameters": {"a": 1}} and so on',
        '{"name": "f", "parameters": {"a": NaN}}',
        '[{"name": "f", "parameters": {}}, 3]',
        "[f(1)]",
        "[f(a=1, a=2)]",
        "[f(**{'a': 1})]",
        "[f(a=b)]",
        "[f(a=1+1)]",
        "[f(a=g())]",
        "[f(a={1: 2})]",
        "[f(a={**b})]",
        "[f(a=b'x')]",
        "[f(a=-True)]",
        "[f(a=...)]",
        "[(lambda: 0)()]",
        "[f(a=1)",
        "x = [f(a=1)]",
        "<function=f>(a=1)</function>",
        "<function=f>{'a': 1}</function>",
        "<|python_start|>print(1)<|python_end|>",
        'brave_search.call(query="x")',
        "[" * 10_000,
        "[" + "-" * 200_000 + "1]",
        '{"a":' * 100_000,
        "[f(a=\0)]",
        "[f(a=" + "9" * 5000 + ")]",
    ],
)
def test_answers_that_call_nothing(text: str) -> None:
    assert parse_tool_calls(text) == []


def test_parsing_runs_nothing(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    assert parse_tool_calls(f"[f(a=open({str(witness)!r}, 'w'))]") == []
    assert parse_tool_calls(f"[f(a=[__import__('os').mkdir({str(witness)!r})])]") == []
    assert not witness.exists()


@given(st.text() | st.text(alphabet="[]{}()=,\"\\'<>|f:a1 \n"))
@settings(max_examples=500, deadline=None)
def test_parsing_never_fails_on_text(text: str) -> None:
    assert isinstance(parse_tool_calls(text), list)


@pytest.mark.parametrize(
    ("call", "form"),
    [
        (ToolCall("not a name", {}), "python_list"),
        (ToolCall("f", {"not a name": 1}), "python_list"),
        (ToolCall("f", {"class": 1}), "python_list"),
        (ToolCall("a>b", {}), "function_tag"),
        (ToolCall("f", {}), "xml"),
    ],
)
def test_calls_that_a_form_cannot_spell(call: ToolCall, form: str) -> None:
    with pytest.raises(InputError):
        write_tool_call(call, form)


@pytest.mark.parametrize(
    "call",
    [
        3,
        {},
        {"name": ""},
        {"arguments": {}},
        {"name": "f", "arguments": [1]},
        {"name": "f", "arguments": "not json"},
        {"name": "f", "arguments": '{"a": NaN}'},
        {"name": "f", "arguments": {"a": float("inf")}},
        {"name": "f", "arguments": {"a": object()}},
        ToolCall("f", {"a": b"bytes"}),
    ],
)
def test_calls_that_are_not_calls(call: Any) -> None:
    with pytest.raises(InputError):
        as_tool_call(call)
