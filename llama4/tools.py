"""Tool calls as text: written in one of four official forms, and read back from all of them.

    json          {"type": "function", "name": "weather", "parameters": {"city": "Paris"}}
    function_tag  <function=weather>{"city": "Paris"}</function>
    python_list   [weather(city="Paris")]
    hf            {"name": "weather", "parameters": {"city": "Paris"}}

The first three are Meta's (`llama_models/llama3/tool_utils.py`, which Llama 4's chat format uses), the last is that of
the chat template in Hugging Face's conversion script; `python_list` is the one that Meta's prompt guide for Llama 4 asks
the model for. What is written for one call is Meta's text to the letter, with two exceptions, where Meta's cannot be
read back: in `python_list` a string that holds a quote, a backslash or a line break is escaped, and a dictionary is a
Python one, not `{key=value}`.

Reading takes what models really answer: several calls in one list, lists or objects in a row, nested arguments, text
between `<|python_start|>` and `<|python_end|>`. It is all or nothing (half a call is not a call), and nothing is ever
evaluated: a Python list is parsed into a syntax tree, of which only literals are accepted. Llama 3's built-in tools
(`brave_search.call(query="…")`, bare code) are not among Llama 4's forms and are left as text.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llama4.errors import InputError

TOOL_FORMATS = ("json", "function_tag", "python_list", "hf")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse)  # NaN and Infinity, which Python would take
_FUNCTION_TAG = re.compile(r"<function=([^<>\s]+)>\s*")
_START, _END = "<|python_start|>", "<|python_end|>"
_ENDS = ("<|eot|>", "<|eom|>", "<|end_of_text|>")


@dataclass(frozen=True)
class ToolCall:
    """A call of the function `name` with keyword arguments of JSON's types."""

    name: str
    arguments: dict[str, Any]


class _NotACallError(Exception):
    """The text is an ordinary answer."""


# Writing


def as_tool_call(value: Any) -> ToolCall:
    """A `ToolCall` from `{"name", "arguments"}` or OpenAI's `{"function": {...}}`; arguments may be a JSON string.

    Raises `InputError` when a name is missing or the arguments are not a dictionary of JSON values.
    """
    if isinstance(value, ToolCall):
        value = {"name": value.name, "arguments": value.arguments}
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise InputError(f'The tool call {value!r} has no name: write it as {{"name": …, "arguments": {{…}}}}.')
    try:
        arguments = value.get("arguments", {})
        plain = _JSON.decode(arguments if isinstance(arguments, str) else json.dumps(arguments, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict):
        raise InputError(
            f"The arguments of the tool call {value['name']} are not a dictionary of JSON values: correct them."
        )
    return ToolCall(value["name"], plain)


def write_tool_call(call: ToolCall, form: str = "json") -> str:
    """The text of one call in one of `TOOL_FORMATS`. Raises `InputError` for a name that the form cannot spell."""
    if form == "json":
        return json.dumps({"type": "function", "name": call.name, "parameters": call.arguments})
    if form == "hf":
        return json.dumps({"name": call.name, "parameters": call.arguments}, ensure_ascii=False)
    if form == "function_tag":
        if not _FUNCTION_TAG.fullmatch(f"<function={call.name}>"):
            raise InputError(f"The tool name {call.name!r} does not fit into a function tag: use the json form.")
        return f"<function={call.name}>{json.dumps(call.arguments)}</function>"
    if form == "python_list":
        for name in (*call.name.split("."), *call.arguments):
            if not name.isidentifier() or keyword.iskeyword(name):
                raise InputError(f"{name!r} in the tool call {call.name} is not a Python name: use the json form.")
        return f"[{call.name}({', '.join(f'{key}={_python(value)}' for key, value in call.arguments.items())})]"
    raise InputError(f"The tool format {form!r} is unknown: choose one of {', '.join(TOOL_FORMATS)}.")


def _python(value: Any) -> str:
    """A JSON value as a Python literal; a JSON string is one already."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(_python, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_python(key)}: {_python(item)}' for key, item in value.items())}}}"
    return str(value)


def describe_tools(tools: Sequence[dict[str, Any]]) -> str:
    """What stands in front of the system message when tools are offered, and ends in an empty line.

    This is the system-message form of the chat template in Hugging Face's conversion script (`tools_in_user_message` off),
    word for word, missing spaces included: the model knows the wording. A tool is `{"name", "description", "parameters"}`
    or OpenAI's `{"type": "function", "function": {...}}`, written as it is given. Raises `InputError` for one without a
    name.
    """
    if not isinstance(tools, list | tuple):
        raise InputError(f"tools is a {type(tools).__name__}: pass a list of function definitions.")
    text = (
        "Environment: ipython\n"
        "You have access to the following functions. To call a function, please respond with JSON for a function call."
        'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
        "Do not use variables.\n\n"
    )
    for number, tool in enumerate(tools):
        definition = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(definition, dict) or not isinstance(definition.get("name"), str):
            raise InputError(
                f"tools[{number}] is not a function definition: give it a name, a description and parameters."
            )
        try:
            text += json.dumps(tool, ensure_ascii=False, indent=4) + "\n\n"
        except (TypeError, ValueError, RecursionError):
            raise InputError(f"tools[{number}] ({definition['name']}) is not plain JSON: use a JSON schema.") from None
    return text


# Reading


def parse_tool_calls(text: str) -> list[ToolCall]:
    """The calls in a model's answer, in order; [] when it is an ordinary answer. Never evaluates, never raises on text."""
    if not isinstance(text, str):
        raise InputError(f"The answer to parse is a {type(text).__name__}: pass a str.")
    for candidate in _candidates(text):
        for read in (_read_function_tags, _read_json, _read_python_lists):
            try:
                return read(candidate)
            except (_NotACallError, ValueError, SyntaxError, RecursionError, MemoryError):
                continue  # the last four are what json and ast raise on text that is not theirs
    return []


def _candidates(text: str) -> Iterator[str]:
    """Where calls may stand: behind `<|python_end|>` (Hugging Face), inside the python tokens, or all of the text."""
    text = text.strip()
    for end in _ENDS:
        text = text.removesuffix(end).rstrip()
    if not text.startswith(_START):  # or the token stands inside an argument
        yield text
    _, started, rest = text.partition(_START)
    if not started:
        return
    if rest.endswith(_END):
        yield rest.removesuffix(_END).strip()
    inside, ended, behind = rest.partition(_END)
    if ended:
        yield behind.strip()
    yield inside.strip()


def _read_function_tags(text: str) -> list[ToolCall]:
    calls = []
    position = 0
    while tag := _FUNCTION_TAG.search(text, position):
        arguments, position = _JSON.raw_decode(text, tag.end())
        calls.append(_checked(tag[1], arguments))
    if not calls:
        raise _NotACallError
    return calls


def _read_json(text: str) -> list[ToolCall]:
    """Objects in a row, with white space, commas or semicolons between them, or lists of such objects."""
    calls = []
    position = 0
    while position < len(text):
        value, position = _JSON.raw_decode(text, position)
        calls += [_json_call(item) for item in (value if isinstance(value, list) else [value])]
        while position < len(text) and (text[position].isspace() or text[position] in ",;"):
            position += 1
    if not calls:
        raise _NotACallError
    return calls


def _json_call(value: Any) -> ToolCall:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        raise _NotACallError
    return _checked(value.get("name"), value.get("parameters", value.get("arguments")))


def _checked(name: Any, arguments: Any) -> ToolCall:
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise _NotACallError
    return ToolCall(name, arguments)


def _read_python_lists(text: str) -> list[ToolCall]:
    if not text.startswith("["):
        raise _NotACallError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an unknown escape such as "\\d" in the model's text
        statements = ast.parse(text).body
    calls = []
    for statement in statements:
        if not isinstance(statement, ast.Expr):
            raise _NotACallError
        calls += [_python_call(node) for node in _listed(statement.value)]
    if not calls:
        raise _NotACallError
    return calls


def _listed(node: ast.expr) -> list[ast.expr]:
    """The items of `[a, b]`, and of `[a][b]`, which Meta writes for two calls and Python reads as a subscript."""
    if isinstance(node, ast.Subscript):
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return _listed(node.value) + items
    if not isinstance(node, ast.List):
        raise _NotACallError
    return node.elts


def _python_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args:
        raise _NotACallError
    arguments = {str(word.arg): _literal(word.value) for word in node.keywords if word.arg is not None}
    if len(arguments) != len(node.keywords):  # a name given twice, or **arguments
        raise _NotACallError
    return ToolCall(_dotted(node.func), arguments)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if not isinstance(node, ast.Name):
        raise _NotACallError
    return node.id


def _literal(node: ast.expr) -> Any:
    """The value of a literal of JSON's types; also JSON's spellings true, false and null."""
    match node:
        case ast.Constant(value=None | str() | int() | float()):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if not isinstance(
            number, bool
        ):
            return -number
        case ast.Name(id="true" | "false" | "null"):
            return {"true": True, "false": False, "null": None}[node.id]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            names = [_literal(key) if key is not None else None for key in keys]
            if all(isinstance(name, str) for name in names):
                return {name: _literal(value) for name, value in zip(names, values, strict=True)}
    raise _NotACallError
