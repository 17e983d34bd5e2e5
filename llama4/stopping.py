"""Stop strings in a stream: text is held back while it could still turn into a stop string.

    stop = ("\\n\\n",), pieces "Hi", "\\n", "\\nmore"   ->   emits "Hi", "", and stops: the second "\\n" completed it.
    pieces "Hi", "\\n", "there"                        ->   emits "Hi", "", "\\nthere".

The text ends where, read character by character, the first stop string is complete; of several complete at that place, the one
that began first counts. With stops "abc" and "b", "abc" shows "a": the "b" is complete before the "abc" is. So it does not
matter how the text was split into pieces, and no stop string need wait for a longer one.

What was emitted is never taken back, so the stream's pieces joined are the final text.
"""

from __future__ import annotations

from collections.abc import Sequence

from llama4.errors import InputError


def as_stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings as callers give them: one, several, or none. Raises InputError for anything else."""
    if isinstance(stop, str):
        return (stop,)
    if stop is not None and not isinstance(stop, Sequence | set | frozenset):
        raise InputError(f"stop is {stop!r}: pass non-empty strings.")
    return tuple(stop or ())


class StopStrings:
    """Filters one row's text. `push` returns what is safe to show; `stopped` says that a stop string has come."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        if any(not isinstance(text, str) or not text for text in stop):
            raise InputError(f"stop is {stop!r}: pass non-empty strings.")
        self.stop = stop
        self.held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Take new text, return what can be shown now; nothing more once a stop string has come."""
        if self.stopped:
            return ""
        self.held += text
        starts = ((self.held.find(text), text) for text in self.stop)
        found = [(start + len(text), start) for start, text in starts if start >= 0]
        if found:
            self.stopped = True
            _, start = min(found)
            shown, self.held = self.held[:start], ""
            return shown
        keep = self._pending()
        shown, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return shown

    def flush(self) -> str:
        """What was held back, when the stream ends without a stop string."""
        shown, self.held = self.held, ""
        return shown

    def _pending(self) -> int:
        """Characters at the end of the held text that begin a stop string."""
        longest = max((len(text) - 1 for text in self.stop), default=0)
        for length in range(min(longest, len(self.held)), 0, -1):
            if any(text.startswith(self.held[-length:]) for text in self.stop):
                return length
        return 0
