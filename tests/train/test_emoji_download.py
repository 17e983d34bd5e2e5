"""Pins llama4.train.emoji.download: what is fetched is what was pinned, a partial archive goes on where it stopped, and every bad
circumstance is one sentence that leaves no half archive under its final name. The registry is a server on this machine; npm is
played by a script that answers as npm 11 does.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from emoji_world import Registry, World, registry

from llama4.errors import InputError
from llama4.train.emoji import download
from llama4.train.emoji.download import fetch


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "served").mkdir()
    return World(tmp_path / "served")


@pytest.fixture
def server(world: World) -> Iterator[Registry]:
    with registry(world) as running:
        yield running


class Count:
    """Adds up what `advance` is told."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, amount: int) -> None:
        self.total += amount


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetches_once_and_checks(world: World, server: Registry, tmp_path: Path) -> None:
    package, count = world.packages["twitter"], Count()
    path = fetch(package, tmp_path / "d", f"{server.address}/", count)
    assert path.read_bytes() == world.path("twitter").read_bytes()
    assert count.total == package.size
    assert fetch(package, tmp_path / "d", server.address, count) == path
    assert server.requests == [("/@tiny/twitter/-/twitter-1.0.0.tgz", None)], "the second call asks nobody"
    assert left_in(tmp_path / "d") == ["tiny-twitter-1.0.0.tgz"]


def test_goes_on_where_it_stopped(world: World, server: Registry, tmp_path: Path) -> None:
    package, count, content = world.packages["twitter"], Count(), world.path("twitter").read_bytes()
    part = tmp_path / f"{package.archive}.part"
    part.write_bytes(content[:501])
    assert fetch(package, tmp_path, server.address, count).read_bytes() == content
    assert server.requests == [("/@tiny/twitter/-/twitter-1.0.0.tgz", "bytes=501-")]
    assert count.total == package.size


def test_a_connection_that_breaks_off_is_taken_up_again(world: World, server: Registry, tmp_path: Path) -> None:
    package, count, content = world.packages["twitter"], Count(), world.path("twitter").read_bytes()
    server.cut = [100, 50]
    assert fetch(package, tmp_path, server.address, count).read_bytes() == content
    assert [wanted for _, wanted in server.requests] == [None, "bytes=100-", "bytes=150-"]
    assert count.total == package.size


def test_what_came_is_kept_when_it_breaks_off_for_good(world: World, server: Registry, tmp_path: Path) -> None:
    package = world.packages["twitter"]
    server.cut = [100, 50, 25]
    with pytest.raises(InputError, match=r"ended \d+ bytes too early.*goes on where it stopped"):
        fetch(package, tmp_path, server.address, Count())
    assert (tmp_path / f"{package.archive}.part").read_bytes() == world.path("twitter").read_bytes()[:175]
    assert not (tmp_path / package.archive).exists()


def test_a_server_without_ranges_sends_the_whole(world: World, server: Registry, tmp_path: Path) -> None:
    package, count = world.packages["twitter"], Count()
    server.ranges = False
    (tmp_path / f"{package.archive}.part").write_bytes(b"x" * 77)
    path = fetch(package, tmp_path, server.address, count)
    assert path.read_bytes() == world.path("twitter").read_bytes()
    assert count.total == package.size


def test_a_part_that_is_whole_already_is_accepted(world: World, server: Registry, tmp_path: Path) -> None:
    package = world.packages["set"]
    (tmp_path / f"{package.archive}.part").write_bytes(world.path("set").read_bytes())
    assert fetch(package, tmp_path, server.address, Count()).exists()
    assert not (tmp_path / f"{package.archive}.part").exists()


@pytest.mark.parametrize("held", [b"", b"another beginning"])
def test_another_content_is_refused_and_deleted(world: World, server: Registry, tmp_path: Path, held: bytes) -> None:
    package, folder = world.packages["set"], tmp_path / "d"
    folder.mkdir()
    (folder / f"{package.archive}.part").write_bytes(held)
    if not held:
        package = dataclasses.replace(package, integrity=world.packages["old"].integrity)
    with pytest.raises(InputError, match=r"@tiny/set@1\.0\.0 is not what was pinned.*is deleted"):
        fetch(package, folder, server.address, Count())
    assert left_in(folder) == []


def test_a_damaged_archive_that_is_there_is_fetched_anew(world: World, server: Registry, tmp_path: Path) -> None:
    package = world.packages["set"]
    (tmp_path / package.archive).write_bytes(world.path("set").read_bytes()[:-5])
    assert fetch(package, tmp_path, server.address, Count()).read_bytes() == world.path("set").read_bytes()


def test_a_missing_package(world: World, server: Registry, tmp_path: Path) -> None:
    package = dataclasses.replace(world.packages["set"], version="9.9.9")
    with pytest.raises(InputError, match=r"has no @tiny/set@9\.9\.9 \(404 at http.*\)"):
        fetch(package, tmp_path / "d", server.address, Count())
    assert len(server.requests) == 1 and left_in(tmp_path / "d") == []


@pytest.mark.parametrize(("status", "tries"), [(403, 1), (503, download.ATTEMPTS)])
def test_other_refusals(world: World, server: Registry, tmp_path: Path, status: int, tries: int) -> None:
    server.status = status
    with pytest.raises(InputError, match=f"answers {status} to http"):
        fetch(world.packages["set"], tmp_path, server.address, Count())
    assert len(server.requests) == tries


def test_a_server_that_is_down(world: World, tmp_path: Path) -> None:
    with registry(world) as running:
        address = running.address
    with pytest.raises(InputError, match=r"cannot be fetched \(.*refused.*\): check the network"):
        fetch(world.packages["set"], tmp_path, address, Count())


def test_an_address_that_is_none(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'file:///etc' is no registry's address"):
        fetch(world.packages["set"], tmp_path, "file:///etc", Count())


def test_a_full_disk(world: World, server: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(InputError, match=r"The disk is full at .*: make room and run the same command again"):
        fetch(world.packages["set"], tmp_path / "d", server.address, Count())
    monkeypatch.undo()
    assert fetch(world.packages["set"], tmp_path / "d", server.address, Count()).exists(), "and then it goes on"


def test_a_folder_that_is_a_file(world: World, server: Registry, tmp_path: Path) -> None:
    (tmp_path / "d").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be written.*--into"):
        fetch(world.packages["set"], tmp_path / "d", server.address, Count())


def play_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    """Put a program `npm`, with this Python body, first on the path; it sees its arguments as `args`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "npm"
    program.write_text(f"#!{sys.executable}\nimport shutil, sys, json\nargs = sys.argv[1:]\n{lines}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


PACKS = """
place = next(a for a in args if a.startswith("--pack-destination=")).partition("=")[2]
assert args[:2] == ["pack", "@tiny/set@1.0.0"] and "--ignore-scripts" in args
shutil.copy({source!r}, place)
"""


def test_npm_packs(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play_npm(tmp_path / "bin", monkeypatch, PACKS.format(source=str(world.path("set"))))
    count = Count()
    path = fetch(world.packages["set"], tmp_path / "d", None, count)
    assert path.read_bytes() == world.path("set").read_bytes()
    assert count.total == world.packages["set"].size and left_in(tmp_path / "d") == [path.name]


def test_npm_packs_something_else(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play_npm(tmp_path / "bin", monkeypatch, PACKS.format(source=str(world.path("old"))))
    with pytest.raises(InputError, match="is not what was pinned"):
        fetch(world.packages["set"], tmp_path / "d", None, Count())
    assert left_in(tmp_path / "d") == []


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("E404", r"has no @tiny/set@1\.0\.0 \(E404\)"),
        ("ETARGET", "has no @tiny/set"),
        ("ENOTFOUND", r"npm cannot reach its registry for @tiny/set@1\.0\.0 \(ENOTFOUND\): check the network"),
        ("EINTEGRITY", "came damaged"),
        ("ENOSPC", "disk is full"),
        ("EWHATEVER", r"npm cannot fetch @tiny/set@1\.0\.0 \(EWHATEVER\)"),
    ],
)
def test_npm_fails(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, sentence: str) -> None:
    play_npm(tmp_path / "bin", monkeypatch, f"print(json.dumps(dict(error=dict(code={code!r})))); sys.exit(1)")
    with pytest.raises(InputError, match=sentence):
        fetch(world.packages["set"], tmp_path / "d", None, Count())
    assert left_in(tmp_path / "d") == []


def test_npm_is_missing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"npm.*is not found: install Node\.js, or name a registry: --registry URL"):
        fetch(world.packages["set"], tmp_path / "d", None, Count())
