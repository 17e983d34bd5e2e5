"""KaTeX and mermaid, served by the site itself: fetched from npm once, in one version, checked against its hash.

    python docs/site/assets.py        # into .site/assets; `mkdocs build` does the same when they are missing

They are not in the repository: mermaid alone is 5.5 MB. npm is asked as the machine is set up for it, so a mirror works too.
A page loads them only where it has a formula or a diagram (static/site.js).
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One npm package: which version, npm's own hash of its archive, and which of its files the site serves."""

    name: str
    version: str
    integrity: str
    wanted: str

    @property
    def folder(self) -> str:
        """Where its files lie below the assets; another version is another folder."""
        return f"{self.name}-{self.version}"


PACKAGES = (
    Package(
        "katex",
        "0.19.1",
        "sha512-jG8uKntjSEcm2EpQOh0XturpPuuC9r3Sq5HLHdsFdWZT27E672SF19QEi+of0/YeOy15lDgRhKvr5614uRrEfA==",
        r"package/(?:dist/)?(LICENSE|katex\.min\.(?:js|css)|fonts/[\w-]+\.woff2)",
    ),
    Package(
        "mermaid",
        "12.3.0",
        "sha512-4113TdXeLAsMruJ79OpFL5O8+LTFXhQqZ260rF3tgUmiNAtRm4Uume04I+65PRN6yZ69J4f8rVYWW8zRk65UYw==",
        r"package/(?:dist/)?(LICENSE|mermaid\.min\.js)",
    ),
)


class AssetError(Exception):
    """A package could not be fetched, or is not the one whose hash is written here."""


def fetch(folder: Path) -> None:
    """Bring every package that `folder` lacks. Raises AssetError."""
    for package in PACKAGES:
        if not (folder / package.folder).is_dir():
            with tempfile.TemporaryDirectory() as scratch:
                unpack(package, download(package, Path(scratch)), folder)


def download(package: Package, scratch: Path) -> Path:
    """The package's archive, from npm."""
    npm = shutil.which("npm")
    if npm is None:
        raise AssetError(
            "The site serves KaTeX and mermaid itself and fetches them with npm, which is not installed: install Node.js."
        )
    command = [npm, "pack", "--silent", f"{package.name}@{package.version}"]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    archives = list(scratch.glob("*.tgz"))
    if done.returncode or not archives:
        raise AssetError(
            f"npm could not fetch {package.name} {package.version}: {done.stderr.strip() or 'no archive came'}"
        )
    return archives[0]


def unpack(package: Package, archive: Path, folder: Path) -> None:
    """Check the archive's hash and put the wanted files below `folder`, all of them or none."""
    kind, _, expected = package.integrity.partition("-")
    found = base64.b64encode(hashlib.new(kind, archive.read_bytes()).digest()).decode()
    if found != expected:
        raise AssetError(
            f"{package.name} {package.version} from npm has the {kind} {found}, not {expected}: it is not the pinned one."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as packed, tempfile.TemporaryDirectory(dir=folder) as scratch:
        for member in packed:
            wanted = re.fullmatch(package.wanted, member.name)
            content = packed.extractfile(member) if wanted else None
            if wanted and content:
                path = Path(scratch) / "new" / wanted[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
        (Path(scratch) / "new").rename(folder / package.folder)


def files(folder: Path) -> dict[str, Path]:
    """What the site serves: `katex/katex.min.js` and so on -> the file."""
    return {
        f"{package.name}/{path.relative_to(folder / package.folder).as_posix()}": path
        for package in PACKAGES
        for path in sorted((folder / package.folder).rglob("*"))
        if path.is_file()
    }


if __name__ == "__main__":
    fetch(Path(__file__).resolve().parents[2] / ".site" / "assets")
