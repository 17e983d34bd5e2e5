"""Fetch pinned packages of the npm registry: by npm itself, or, where a registry is named, over HTTP without it.

    npm pack @iconify-json/noto@1.2.9              the registry, proxies and credentials that npm is set up for
    <registry>/@iconify-json/noto/-/noto-1.2.9.tgz   what `--registry` asks for; goes on where it stopped

Over HTTP an archive grows as NAME.tgz.part. If it is there already, the request says `Range: bytes=<its size>-`: the answer 206
is appended, 200 starts anew, 416 means that nothing is left to send. Either way the SHA-512 decides before the file gets its
name, so an archive that bears it is the one that was pinned.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from llama4.errors import InputError
from llama4.train.emoji.sources import Package

BLOCK = 1 << 18
ATTEMPTS = 3  # of a connection that breaks off; each goes on where the last one stopped
TIMEOUT = 30.0  # seconds without a byte
AGAIN = "run the same command again, it goes on where it stopped"


class BrokenOffError(Exception):
    """A transfer ended before its end; what came is kept."""


def integrity(path: Path) -> str:
    """A file's SHA-512 in npm's spelling: `sha512-<base64>`."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").digest()
    return f"sha512-{base64.b64encode(digest).decode()}"


def fetch(package: Package, folder: Path, registry: str | None, advance: Callable[[int], None]) -> Path:
    """The package's archive in `folder`, fetched if it is not there, its SHA-512 checked.

    advance  called with the number of bytes that have come, also for those that were there already
    Raises InputError: no network, no such package, another content than the pinned one, a full disk, npm missing.
    """
    target = folder / package.archive
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if integrity(target) == package.integrity:
                advance(package.size)
                return target
            target.unlink()  # cut short or damaged since; fetched anew
        part = target.with_name(f"{target.name}.part")
        if registry is None:
            _by_npm(package, part)
            advance(part.stat().st_size)
        else:
            _over_http(package, registry, part, advance)
        _accept(package, part, target)
    except OSError as error:
        raise InputError(_disk_message(folder, error)) from error
    return target


def _accept(package: Package, part: Path, target: Path) -> None:
    found = integrity(part)
    if found != package.integrity:
        part.unlink()
        raise InputError(
            f"{package.label} is not what was pinned (expected {package.integrity[:19]}…, got {found[:19]}…); "
            "the file is deleted: run the same command again, or try another registry."
        )
    part.replace(target)


def _disk_message(folder: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"The disk is full at {folder}: make room and {AGAIN}."
    return f"{folder} cannot be written ({error.strerror or error}): choose another place with --into."


def _by_npm(package: Package, part: Path) -> None:
    """`npm pack` into a folder beside, then moved to `part`: npm writes no half archive under its final name."""
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            "npm, which fetches the packages, is not found: install Node.js, or name a registry: --registry URL."
        )
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=part.parent) as place:
        command = [
            npm,
            "pack",
            package.label,
            "--json",
            "--ignore-scripts",
            "--fetch-retries=1",
            f"--pack-destination={place}",
        ]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=place)
        packed = list(Path(place).glob("*.tgz"))
        if done.returncode != 0 or len(packed) != 1:
            raise _npm_error(package, part.parent, done)
        packed[0].replace(part)


def _npm_error(package: Package, folder: Path, done: subprocess.CompletedProcess[str]) -> InputError:
    """npm's failure as one sentence: --json writes {"error": {"code", "summary"}}."""
    try:
        told = json.loads(done.stdout)["error"]
    except (ValueError, KeyError, TypeError):
        told = {}
    code = str(told.get("code", "")) if isinstance(told, dict) else ""
    if code in ("E404", "ETARGET"):
        return InputError(f"The registry has no {package.label} ({code}): check the registry that npm is set up for.")
    if code == "EINTEGRITY":
        return InputError(f"{package.label} came damaged through npm ({code}); nothing of it is kept: {AGAIN}.")
    if code == "ENOSPC":
        return InputError(f"The disk is full at {folder} or at npm's cache: make room and {AGAIN}.")
    if code in (
        "ENOTFOUND",
        "ECONNREFUSED",
        "ECONNRESET",
        "ETIMEDOUT",
        "EAI_AGAIN",
        "ERR_SOCKET_TIMEOUT",
        "ENETUNREACH",
    ):
        return InputError(f"npm cannot reach its registry for {package.label} ({code}): check the network and {AGAIN}.")
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return InputError(f"npm cannot fetch {package.label} ({code or last}): try `npm pack {package.label}` by hand.")


def _over_http(package: Package, registry: str, part: Path, advance: Callable[[int], None]) -> None:
    if not registry.startswith(("http://", "https://")):
        raise InputError(f"{registry!r} is no registry's address: it begins with https:// or http://.")
    address = f"{registry.rstrip('/')}/{package.path}"
    advance(min(part.stat().st_size, package.size) if part.exists() else 0)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _transfer(address, part, advance)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                raise InputError(
                    f"The registry has no {package.label} (404 at {address}): check --registry."
                ) from error
            if error.code < 500 or attempt == ATTEMPTS:
                raise InputError(
                    f"The registry answers {error.code} to {address}: try again later, or check it."
                ) from error
        except (
            urllib.error.URLError,
            BrokenOffError,
            TimeoutError,
            ConnectionError,
            http.client.HTTPException,
        ) as error:
            if attempt == ATTEMPTS or isinstance(getattr(error, "reason", None), ConnectionRefusedError):
                reason = getattr(error, "reason", None) or error or type(error).__name__
                raise InputError(f"{address} cannot be fetched ({reason}): check the network and {AGAIN}.") from error


def _transfer(address: str, part: Path, advance: Callable[[int], None]) -> None:
    """One connection: what is missing of `part`, or all of it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        return  # nothing is left to send; the SHA-512 says whether that is right
    with answer:
        resumed = answer.status == 206 and (answer.headers["Content-Range"] or "").startswith(f"bytes {have}-")
        if have and not resumed:
            advance(-have)
        left = answer.length
        with part.open("ab" if resumed else "wb") as stream:
            while block := answer.read(BLOCK):
                stream.write(block)
                advance(len(block))
                left = None if left is None else left - len(block)
            stream.flush()
            os.fsync(stream.fileno())
    if left:
        raise BrokenOffError(f"the connection ended {left} bytes too early")
