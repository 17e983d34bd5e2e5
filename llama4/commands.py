"""What each command of `llama4` does, once its arguments are read (`cli.py`)."""

from __future__ import annotations

import json
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama4 import bench as benchmarks
from llama4 import chat as chat_format
from llama4 import checkpoint
from llama4 import inspect as inspection
from llama4 import load as loading
from llama4 import parity as parity_check
from llama4.chat import Prompt
from llama4.errors import InputError
from llama4.generate import LLM
from llama4.image import MAX_PIXELS, open_image
from llama4.sampling import Sampling
from llama4.session import Session

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
)


def generate(arguments: Namespace) -> int:
    """`llama4 generate`: stream one answer, or print it as JSON."""
    text = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    pictures: list[dict[str, Any]] = [{"type": "image", "image": path} for path in arguments.image]
    pictures += [{"type": "video", "video": path, "frames": arguments.frames} for path in arguments.video]
    if not text and not pictures:
        raise InputError('The prompt is empty: give a question, as in `llama4 generate "What is this?"`, or an image.')
    if arguments.raw and (pictures or arguments.system):
        raise InputError("--raw continues plain text, without images or a system message: leave out one or the other.")
    sampling = _sampling(arguments)  # said before the weights load
    llm = _load(arguments)
    if arguments.raw:
        prompt = Prompt(llm.tokenizer.encode(text, bos=True), None)
    else:
        content = [*pictures, *([{"type": "text", "text": text}] if text else [])]
        messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
        messages.append({"role": "user", "content": content})
        limit = arguments.max_pixels or MAX_PIXELS
        prompt = chat_format.encode(llm.tokenizer, messages, vision=llm.config.vision, max_pixels=limit)
    options = {
        "max_new_tokens": arguments.max_new_tokens,
        "seed": arguments.seed,
        "stop": arguments.stop,
        **vars(sampling),
    }
    if arguments.json:
        print(json.dumps(vars(llm.run(prompt, **options)), ensure_ascii=False))
    else:
        _show(llm.stream(prompt, **options))
    return 0


def chat(arguments: Namespace) -> int:
    """`llama4 chat`: read a line, stream an answer, until the input ends."""
    sampling = _sampling(arguments)
    llm = _load(arguments)
    session = Session(llm, arguments.system)
    pictures: list[dict[str, Any]] = []
    _say("/image FILE adds a picture to your next message, /reset begins anew, /quit leaves.")
    while (line := _read_line()) is not None:
        word, _, rest = line.partition(" ")
        if word == "/quit":
            break
        try:
            if word == "/reset":
                session.reset()
                pictures.clear()
                _say("A new conversation.")
            elif word == "/image":
                pictures.append({"type": "image", "image": _opened(llm, rest.strip())})
                _say(f"{len(pictures)} picture(s) wait for your next message.")
            elif word.startswith("/"):
                raise InputError(f"There is no command {word}: use /image FILE, /reset or /quit.")
            elif line.strip():
                content = [*pictures, {"type": "text", "text": line}]
                answer = session.say(content, arguments.max_new_tokens, sampling, arguments.seed)
                pictures.clear()
                _stream_interruptibly(answer)
        except InputError as error:  # a mistyped file name does not end the conversation
            _say(f"llama4: {error}")
    return 0


def inspect(arguments: Namespace) -> int:
    """`llama4 inspect`: config, parameters, files, memory; with --check the weights themselves."""
    path = loading.resolve_path(arguments.path or arguments.model)
    report = inspection.report(path, context=arguments.context, batch=arguments.batch, dtype=arguments.dtype)
    print(json.dumps(report, ensure_ascii=False, indent=1) if arguments.json else inspection.render(report))
    if arguments.check:
        checkpoint.load_model(path, device="cpu", check=True)
        _say("Every weight is a finite number.")
    return 0


def convert(arguments: Namespace) -> int:
    """`llama4 convert`: read one official layout, write the other."""
    source, target = loading.resolve_path(arguments.source), Path(arguments.target).expanduser()
    layout = arguments.to or ("hf" if (source / "params.json").exists() else "meta")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder: name a new one, nothing is overwritten.")
    model = checkpoint.load_model(source, device="cpu", dtype=loading.resolve_dtype(arguments.dtype))
    if layout == "hf":
        checkpoint.save_hf(model, target, max_shard_bytes=int(arguments.max_shard_gb * 1e9))
    else:
        checkpoint.save_meta(model, target, shards=arguments.shards, names=arguments.names)
    copied = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in copied:
        shutil.copyfile(source / name, target / name)
    _say(
        f"Wrote {target} in the {layout} layout; copied {', '.join(copied) or 'no tokenizer, since the source has none'}."
    )
    return 0


def parity(arguments: Namespace) -> int:
    """`llama4 parity`: compare with stored logits, or store a reference's."""
    path = loading.resolve_path(arguments.path)
    if arguments.record:
        parity_check.record(path, Path(arguments.record), reference=arguments.implementation)
        _say(f"Wrote {arguments.record}.")
        return 0
    device, dtype = loading.resolve_device(arguments.device), loading.resolve_dtype(arguments.dtype)
    result = parity_check.compare(path, Path(arguments.reference), device=device, dtype=dtype)
    print(json.dumps(result.as_dict(), ensure_ascii=False) if arguments.json else parity_check.render(result))
    return 0 if result.passed else 1


def bench(arguments: Namespace) -> int:
    """`llama4 bench`: the same as `python -m llama4.bench`."""
    return benchmarks.run_command(arguments)


def _load(arguments: Namespace) -> LLM:
    llm = loading.load(arguments.model, device=arguments.device, dtype=arguments.dtype)
    weight = llm.model.decoder.embedding.weight
    _say(f"llama4: {arguments.model} on {weight.device}, {str(weight.dtype).removeprefix('torch.')}")
    return llm


def _sampling(arguments: Namespace) -> Sampling:
    return Sampling(arguments.temperature, arguments.top_p, arguments.top_k, arguments.min_p)


def _show(pieces: Iterator[str]) -> None:
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _stream_interruptibly(pieces: Iterator[str]) -> None:
    """Ctrl-C ends the answer, not the program; the conversation keeps what was said."""
    try:
        _show(pieces)
    except KeyboardInterrupt:
        pieces.close()
        print()


def _opened(llm: LLM, path: str) -> object:
    if llm.config.vision is None:
        raise InputError("This model has no vision encoder: load a multimodal checkpoint to show it pictures.")
    if not path:
        raise InputError("/image wants a file: write /image FILE.")
    return open_image(path)


def _read_line() -> str | None:
    """One line from the person, or None at the end of the input (or Ctrl-C at the prompt)."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        return None


def _say(text: str) -> None:
    print(text, file=sys.stderr)
