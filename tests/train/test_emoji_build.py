"""Pins llama4.train.emoji.build and its command: what the folder holds, that a run ended at any moment goes on where it
stopped, that nothing finished is done twice and whatever has changed is built again, and that bad circumstances end in one
sentence. All on a small world of packages (emoji_world.py), served from this machine.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from emoji_world import NAMED, Registry, World, registry, tarball

from llama4.errors import InputError
from llama4.train.emoji import __main__ as command
from llama4.train.emoji import artists, build
from llama4.train.emoji.dataset import ARTISTS, open_dataset
from llama4.train.emoji.download import integrity

pytest.importorskip("resvg_py", reason="the renderer is not installed")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "served").mkdir()
    made = World(tmp_path / "served")
    made.install(monkeypatch)
    return made


@pytest.fixture
def server(world: World) -> Iterator[Registry]:
    with registry(world) as running:
        yield running


def built(folder: Path, server: Registry, *only: str, workers: int = 1) -> list[str]:
    """Build, and return the lines that it says."""
    lines: list[str] = []
    build.build(folder, only or ARTISTS, server.address, workers, say=lines.append)
    return lines


def rebuilt(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines if ":" in line and "complete" not in line]


def test_what_a_build_makes(server: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert rebuilt(built(folder, server)) == ["names", *ARTISTS]
    data = open_dataset(folder, need=ARTISTS)
    assert [emoji.emoji for emoji in data.emoji] == list(NAMED)
    noto = data.artists["noto"]
    assert noto.pixels.shape == (3, 128, 128, 4) and noto.index.tolist() == [0, 1, 3], "the empty sun is left out"
    assert noto.picture(0).getpixel((3, 3)) == (160, 90, 30, 255) and noto.picture(0).getpixel((100, 3))[3] == 0
    assert noto.picture(2).getpixel((3, 3))[3] == 0, "the apple is the dog's alias, mirrored"
    assert data.artists["blob"].index.tolist() == [1, 2, 3], "versus by noto's alias, the others by their own names"
    late = data.artists["streamline"]
    assert late.index.tolist() == [1, 1] and [late.picture(n).getpixel((3, 3))[0] for n in (0, 1)] == [1, 2], "in order"
    google = data.artists["noto-2017"]
    assert google.pixels.shape == (1, 128, 128, 4) and google.index.tolist() == [0], "scaled; an empty one is left out"
    assert np.abs(google.pixels[0].astype(int) - (160, 90, 30, 128)).max() <= 1, "straight alpha, through premultiplied"
    again = data.artists["noto-redrawn"]
    assert again.index.tolist() == [0, 0, 0, 1, 1, 1, 3, 3, 3] and again.pixels.shape == (9, 128, 128, 4)
    changed = [(again.pixels[n] != noto.pixels[n // 3]).any() for n in range(9)]
    assert sum(changed) > 5, "this world's colours, rgb(…), stay as they are, but most parts are moved or outlined"
    assert again.pixels[6, 64, 96, 3] and not again.pixels[6, 64, 20, 3], "of the apple as it is drawn, mirrored"
    three, twemoji = data.artists["fluent-3d"], data.artists["twemoji"]
    assert three.pixels.shape == (2, 128, 128, 4) and three.index.tolist() == [0, 2]
    assert np.abs(three.pixels[0].astype(int) - (160, 90, 30, 128)).max() <= 1, "straight alpha"
    assert twemoji.pixels.shape == (4, 64, 64, 4) and (twemoji.pixels[3] == (220, 0, 20, 128)).all()
    licences = (folder / "LICENCES.md").read_text()
    assert "The licence of the names" in licences and "The licence of the list" in licences
    assert all(f"`{artist}`" in licences for artist in ARTISTS) and "held out" in licences
    assert (
        "`streamline` (training, in `vary` and the stages behind it)" in licences and "`blob` (validation)" in licences
    )
    assert "`noto-2017` (training, in `settle` and the stages behind it)" in licences
    assert "`noto-redrawn` (training, in `redraw`)" in licences
    assert not list(folder.glob(".*")), "no part is left lying about"


@pytest.mark.parametrize("artist", ["noto", "noto-2017", "noto-redrawn", "twemoji"])
def test_the_number_of_processes_changes_nothing(server: Registry, tmp_path: Path, artist: str) -> None:
    """Of drawings, of pictures that are scaled, of drawings that are redrawn, and of pictures that stay as they come."""
    for workers in (1, 2):
        built(tmp_path / str(workers), server, artist, workers=workers)
    for file in ("pixels.npy", "index.npy"):
        assert (tmp_path / "1" / artist / file).read_bytes() == (tmp_path / "2" / artist / file).read_bytes()


def test_a_drawing_that_fails_is_counted(server: Registry, tmp_path: Path) -> None:
    lines = built(tmp_path, server, "noto")
    assert lines[-1] == "noto: 3 pictures (1 could not be rendered and are left out)"


def test_only_one_artist(server: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert rebuilt(built(folder, server, "twemoji")) == ["names", "twemoji"]
    assert list(open_dataset(folder).artists) == ["twemoji"]
    with pytest.raises(InputError, match=r"lacks the pictures of noto: run `python -m .*--only noto`"):
        open_dataset(folder, need=["noto"])
    assert rebuilt(built(folder, server, "noto")) == ["noto"]
    assert list(open_dataset(folder).artists) == ["noto", "twemoji"]
    assert json.loads((folder / "manifest.json").read_text())["asked_for"] == ["noto", "twemoji"]


def test_a_second_run_asks_nobody(server: Registry, tmp_path: Path) -> None:
    built(tmp_path, server)
    asked = len(server.requests)
    assert built(tmp_path, server) == [f"{tmp_path} is complete: nothing to do."]
    assert len(server.requests) == asked == 7


def kill_after(line: str, folder: Path, address: str) -> None:
    """In a process of its own: build, and end by SIGKILL once this part is done."""
    build.build(
        folder,
        registry=address,
        say=lambda said: os.kill(os.getpid(), signal.SIGKILL) if said.startswith(line) else None,
    )


@pytest.mark.parametrize(("line", "rest"), [("names", list(ARTISTS)), ("fluent-3d", list(ARTISTS[3:]))])
def test_a_killed_build_goes_on(server: Registry, tmp_path: Path, line: str, rest: list[str]) -> None:
    folder = tmp_path / "data"
    process = multiprocessing.get_context("fork").Process(target=kill_after, args=(line, folder, server.address))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(InputError, match=f"{rest[0]}.*goes on where it stopped"):
        open_dataset(folder)
    asked = len(server.requests)
    assert rebuilt(built(folder, server)) == rest
    assert len(server.requests) == asked, "what was fetched is not fetched again"
    assert list(open_dataset(folder).artists) == list(ARTISTS)


def test_what_a_kill_leaves_lying_about_is_replaced(server: Registry, tmp_path: Path) -> None:
    (tmp_path / ".noto.part").mkdir(parents=True)
    (tmp_path / ".noto.part" / "pixels.npy").write_bytes(b"half")
    (tmp_path / ".noto.part" / "rubbish").write_bytes(b"of a killed run")
    (tmp_path / "noto").mkdir()
    (tmp_path / "noto" / "rubbish").write_bytes(b"of another build")
    built(tmp_path, server, "noto")
    assert sorted(path.name for path in (tmp_path / "noto").iterdir()) == ["index.npy", "pixels.npy"]
    assert not (tmp_path / ".noto.part").exists()


def test_an_interrupted_rendering_goes_on(
    server: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stop:
        def update(self, amount: int) -> None:
            raise KeyboardInterrupt

    @contextmanager
    def progress(what: str, total: int, unit: str) -> Iterator[object]:
        with build.no_progress(what, total, unit) as quiet:
            yield Stop() if what == "fluent" else quiet

    words = ["--into", str(tmp_path), "--registry", server.address, "--workers", "2"]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(command, "progress", progress)
        assert command.main(words) == 130
    assert "run the same command again to go on" in capsys.readouterr().err
    assert command.main(words) == 0
    assert capsys.readouterr().out.startswith("fluent: 3 pictures"), "noto was finished and stays"


def test_a_changed_recipe_is_built_again(
    world: World, server: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(tmp_path, server, "noto", "blob", "twemoji")
    monkeypatch.setitem(artists.BY_HAND, "blob", {"sunny": ""})
    assert rebuilt(built(tmp_path, server, "noto", "blob", "twemoji")) == ["blob"]
    assert open_dataset(tmp_path).artists["blob"].index.tolist() == [1, 3]
    built(tmp_path, server, "blob-redrawn")
    assert open_dataset(tmp_path).artists["blob-redrawn"].index.tolist() == [1, 1, 1, 3, 3, 3], "by the same table"
    (tmp_path / "noto" / "index.npy").unlink()
    assert rebuilt(built(tmp_path, server, "noto", "blob", "twemoji")) == ["noto"]
    monkeypatch.setattr(build, "RECIPE", build.RECIPE + 1)
    assert rebuilt(built(tmp_path, server, "noto", "twemoji")) == ["names", "noto", "twemoji"]
    assert list(open_dataset(tmp_path).artists) == ["noto", "twemoji"], "blob's index belongs to other names"


def test_the_licences_of_pictures_built_by_an_older_recipe_stay(
    server: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They still lie in the folder, and a trainer would open them."""
    built(tmp_path, server, "blob", "noto")
    monkeypatch.setitem(artists.BY_HAND, "blob", {"sunny": ""})
    assert rebuilt(built(tmp_path, server, "streamline")) == ["streamline"]
    assert set(open_dataset(tmp_path).artists) == {"noto", "blob", "streamline"}
    licences = (tmp_path / "LICENCES.md").read_text()
    assert all(f"## @tiny/{package} 1.0.0" in licences for package in ("set", "old", "again"))


def test_what_was_built_before_drawings_could_be_numbered_or_scaled_stays(server: Registry, tmp_path: Path) -> None:
    """`asdict` of a source as it was then: without those fields."""
    built(tmp_path, server, "noto")
    source = dataclasses.asdict(build.SOURCES["noto"])
    assert source.pop("numbered") is False and source.pop("side") == 128 and source.pop("redrawn_of") == ""
    packages = [package for package in (build.SOURCES["noto"].package, build.SOURCES["noto"].codes) if package]
    emoji = hashlib.sha256((tmp_path / "emoji.json").read_bytes()).hexdigest()
    before = build._recipe("noto", packages, source=source, by_hand={}, emoji=emoji)
    assert json.loads((tmp_path / "manifest.json").read_text())["parts"]["noto"]["recipe"] == before
    numbered = dataclasses.replace(build.SOURCES["noto"], numbered=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.SOURCES, "noto", numbered)
        assert rebuilt(built(tmp_path, server, "noto")) == ["noto"]


@pytest.mark.parametrize("number", ["SEED", "VERSIONS"])
def test_what_was_redrawn_otherwise_is_built_again(
    server: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    built(tmp_path, server, "noto", "noto-redrawn")
    monkeypatch.setattr(build, number, 2)
    assert rebuilt(built(tmp_path, server, "noto", "noto-redrawn")) == ["noto-redrawn"]


def test_a_damaged_manifest_means_everything_anew(server: Registry, tmp_path: Path) -> None:
    built(tmp_path, server, "noto")
    (tmp_path / "manifest.json").write_text('{"parts": ')
    with pytest.raises(InputError, match=r"manifest\.json cannot be read"):
        open_dataset(tmp_path)
    assert rebuilt(built(tmp_path, server, "noto")) == ["names", "noto"]


@pytest.mark.parametrize("damage", ["cut", "rubbish", "no such member", "no JSON"])
def test_a_corrupt_archive_is_deleted(
    world: World, server: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """The pinned hash is that of the damaged archive here: what npm would call published broken."""
    path, old = world.path("set"), world.packages["set"]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-150])
    elif damage == "rubbish":
        path.write_bytes(b"\x1f\x8b no archive" * 50)
    else:
        tarball(path, {"icons.json": b"{"} if damage == "no JSON" else {"README.md": b"empty"})
    world.packages["set"] = dataclasses.replace(old, integrity=integrity(path))
    world.install(monkeypatch)
    with pytest.raises(InputError, match=r"damaged archive.*is deleted|holds no package/icons\.json|is no JSON"):
        built(tmp_path / "data", server, "noto")
    if damage in ("cut", "rubbish"):
        assert not (tmp_path / "data/downloads" / old.archive).exists()
    assert not (tmp_path / "data/noto").exists()


@pytest.mark.parametrize("where", ["arrays", "texts"])
def test_a_full_disk_loses_nothing(
    server: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    built(tmp_path, server, "noto")
    before = (tmp_path / "noto/pixels.npy").read_bytes()

    def full(*words: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(*((build.np, "save", full) if where == "arrays" else (Path, "write_text", full)))
        broken.setattr(build, "RECIPE", 99)
        words = ["--into", str(tmp_path), "--registry", server.address, "--only", "noto"]
        assert command.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "make room" in said
    assert (tmp_path / "noto/pixels.npy").read_bytes() == before
    assert not list(tmp_path.glob(".*"))
    built(tmp_path, server, "noto")


def test_the_command_says_one_sentence(server: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.status = 404
    assert command.main(["--into", str(tmp_path), "--registry", server.address]) == 2
    said = capsys.readouterr()
    assert (
        said.out == ""
        and said.err.startswith("error: The registry has no @tiny/cldr@1.0.0")
        and said.err.count("\n") == 1
    )
    assert command.main(["--workers", "0"]) == 2
    with pytest.raises(SystemExit) as wrong:
        command.main(["--only", "nobody"])
    assert wrong.value.code == 2


def test_a_missing_renderer(server: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(InputError, match=r"resvg-py.*is missing: pip install 'llama4\[train\]'"):
        built(tmp_path, server, "noto", "twemoji")
    assert server.requests == [], "it is said before anything is fetched"
    built(tmp_path, server, "twemoji", "fluent-3d")
    assert list(open_dataset(tmp_path).artists) == ["fluent-3d", "twemoji"], "pictures need no renderer"


def test_everything_imports_without_the_renderer() -> None:
    modules = sorted(path.stem for path in Path(build.__file__).parent.glob("*.py"))
    assert {"artists", "build", "dataset", "__main__"} <= set(modules)
    code = "import sys; sys.modules['resvg_py'] = None\n" + "".join(f"import llama4.train.emoji.{m}\n" for m in modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_manifest_says_what_there_is(server: Registry, tmp_path: Path) -> None:
    built(tmp_path, server, "blob")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["asked_for"] == ["blob"] and set(manifest["parts"]) == {"names", "blob"}
    assert manifest["parts"]["blob"]["pictures"] == 3 and manifest["parts"]["blob"]["unreadable"] == 0
