"""Typed reading of one JSON object: each question names the key, and each wrong answer is one sentence.

    fields = Fields(data, "text_config")
    fields.integer("hidden_size", 5120)      # 5120 when the key is absent; InputError when it is "5k", null or 12.5

JSON knows one kind of number, so 8192.0 passes for an integer; `true` does not pass for 1.
"""

from __future__ import annotations

import json
import math
from typing import Any

from llama4.errors import InputError

_REQUIRED = object()


class Fields:
    """The keys of one JSON object, `data`, that messages call `name`."""

    def __init__(self, data: Any, name: str) -> None:
        if not isinstance(data, dict):
            raise InputError(f"{name} is {_shown(data)} where a JSON object belongs: correct it.")
        self.data = data
        self.name = name

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.data.get(key) is not None

    def integer(self, key: str, default: int | object = _REQUIRED) -> int:
        """A whole number; absent means `default`, and without one it must be there."""
        value = self._value(key, default)
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole:
            raise self._wrong(key, value, "a whole number")
        return int(value)

    def integer_or_null(self, key: str, default: int) -> int | None:
        """A whole number, or None for a null; absent means `default`."""
        return None if self.data.get(key, default) is None else self.integer(key, default)

    def number(self, key: str, default: float | object = _REQUIRED) -> float:
        """A finite number, as float."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(key, value, "a finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false; a number counts as the files' old way of writing it (`attn_temperature_tuning: 4`)."""
        value = self._value(key, default)
        if not isinstance(value, bool | int):
            raise self._wrong(key, value, "true or false")
        return bool(value)

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers; empty when the key is absent or null."""
        value = self.data.get(key)
        items = [] if value is None else value
        if not isinstance(items, list) or any(isinstance(item, bool) or not isinstance(item, int) for item in items):
            raise self._wrong(key, value, "a list of whole numbers")
        return items

    def side(self, key: str, default: int | object = _REQUIRED) -> int:
        """The side of a square, written as one number, as [side, side] or as {"height": side, "width": side}."""
        value = self.data.get(key)
        if isinstance(value, dict):
            value = [value.get("height"), value.get("width")]
        if not isinstance(value, list):
            return self.integer(key, default)
        if len(value) != 2 or value[0] != value[1] or not isinstance(value[0], int):
            raise self._wrong(key, self.data[key], "a square: the same whole number twice")
        return value[0]

    def inner(self, key: str) -> Fields:
        """The object under `key`; absent or null reads as an empty one."""
        value = self.data.get(key)
        return Fields({} if value is None else value, key)

    def expect(self, key: str, wanted: Any) -> None:
        """Refuse a value other than `wanted`, the only one that the architecture has; absent and null pass."""
        if self.has(key) and self.data[key] != wanted:
            raise InputError(
                f"{self.name} has {key} {_shown(self.data[key])}, and only {_shown(wanted)} is supported: "
                "this checkpoint belongs to another architecture."
            )

    def _value(self, key: str, default: Any) -> Any:
        if key in self.data:
            return self.data[key]
        if default is _REQUIRED:
            raise InputError(f"{self.name} has no {key}: add it.")
        return default

    def _wrong(self, key: str, value: Any, wanted: str) -> InputError:
        return InputError(f"{self.name} has {key} {_shown(value)} where {wanted} belongs: correct it.")


def _shown(value: Any) -> str:
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
