"""Files are written beside and renamed: whatever fails half-way, nothing is lost and nothing is half there.

with replacing(folder) as part:
    part("config.json").write_text(…)          into .config.json.4711.part; renamed when the block has ended well
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llama4.errors import InputError


@contextmanager
def replacing(folder: Path) -> Iterator[Callable[[str], Path]]:
    """Write several files of a folder so that all appear at the end, or none does and the old ones stay.

    Gives a function from a file's name to the path to write in its stead; the files move into place, in the order of these
    calls, once the block has ended well.
    """
    parts: dict[str, Path] = {}

    def part(name: str) -> Path:
        parts[name] = folder / f".{name}.{os.getpid()}.part"
        return parts[name]

    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield part
        for path in parts.values():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        for name, path in parts.items():
            path.replace(folder / name)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}): make room or choose another place."
        ) from error
    finally:
        for path in parts.values():
            path.unlink(missing_ok=True)
