"""`python -m llama4.train.emoji`: from nothing to the emoji data, one command; run again, it goes on where it stopped."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from tqdm import tqdm

from llama4.errors import InputError
from llama4.train.emoji.build import Bar, build
from llama4.train.emoji.dataset import ARTISTS, BUILD_COMMAND, DEFAULT_FOLDER


def progress(what: str, total: int, unit: str) -> AbstractContextManager[Bar]:
    """A bar on stderr; nothing where that is no terminal."""
    return tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B", disable=None, leave=False)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog=BUILD_COMMAND,
        description="Fetch, render and write the emoji data: pictures by eleven sets of artists, names in sixteen languages. "
        "About 140 MB to fetch, 2.7 GB on the disk with them, three minutes on two cores.",
    )
    made.add_argument("--into", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="default: %(default)s")
    made.add_argument(
        "--only", nargs="+", choices=ARTISTS, default=list(ARTISTS), metavar="ARTIST", help=f"of {', '.join(ARTISTS)}"
    )
    made.add_argument("--registry", metavar="URL", help="fetch from this npm registry over HTTP, without npm")
    made.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="rendering processes; default: %(default)s"
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all is built, 2 on bad circumstances, 130 on Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        if options.workers < 1:
            raise InputError(f"--workers is {options.workers}: at least one process renders.")
        build(options.into, options.only, options.registry, options.workers, progress, print)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; what is finished is kept: run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
