"""What each command of `llama4` does, once its arguments are read (`cli.py`)."""

from __future__ import annotations

import contextlib
import json
import math
import re
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
from llama4 import parity as parity_check
from llama4.chat import Prompt
from llama4.checkpoint.memory import in_units
from llama4.engine import check_budget
from llama4.errors import InputError
from llama4.generate import LLM
from llama4.image import open_image
from llama4.load import load, resolve_device, resolve_dtype, resolve_path
from llama4.model import Llama4
from llama4.quant import is_quantised, require_int4_room, save_int4
from llama4.quant.apply import Packing, pack_parameter
from llama4.quant.calibrated import calibrated
from llama4.quant.prompts import answered, read_prompts
from llama4.sampling import Sampling, seeded
from llama4.session import Session
from llama4.tokenizer import Tokenizer
from llama4.video import frames

# What travels with the weights from one layout to the other: the tokenizer, the settings around it, the licence.
COMPANIONS = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE",
    "LICENSE.txt",
    "USE_POLICY.md",
)
NOT_UTF8 = "The text on stdin is not UTF-8: convert it, with iconv say."
# Characters that a terminal would obey instead of showing: a model may say any bytes.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def generate(arguments: Namespace) -> int:
    """`llama4 generate`: stream one answer, or print it as JSON."""
    text = _stdin() if arguments.prompt == "-" else arguments.prompt
    if not (text or arguments.image or arguments.video):
        raise InputError('The prompt is empty: give a question, as in `llama4 generate "What is this?"`, or an image.')
    if arguments.raw and (arguments.image or arguments.video or arguments.system):
        raise InputError("--raw continues plain text, without images or a system message: leave out one or the other.")
    sampling, limit = _sampling(arguments), arguments.max_pixels
    pictures = [{"type": "image", "image": open_image(_path(file), limit)} for file in arguments.image]
    pictures += [_video(_path(file), arguments.frames, limit) for file in arguments.video]
    llm = _load(arguments)  # minutes, for a large model: what can be wrong before has been said by now
    if arguments.raw:
        prompt = Prompt(llm.tokenizer.encode(text, bos=True), None)
    else:
        content = [*pictures, *([{"type": "text", "text": text}] if text else [])]
        messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
        messages.append({"role": "user", "content": content})
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
    with contextlib.suppress(ImportError):  # absent on Windows
        import readline  # noqa: F401  gives input() its arrow keys and history
    sampling = _sampling(arguments)
    llm = _load(arguments)
    session = Session(llm, arguments.system)
    pictures: list[dict[str, Any]] = []
    _say("/image FILE (for your next message), /reset, /quit; Ctrl-C ends an answer.")
    while (line := _read_line()) is not None:
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":
            break
        try:
            if word == "/reset":
                session.reset()
                pictures.clear()
                _say("A new conversation.")
            elif word == "/image":
                pictures.append({"type": "image", "image": _opened(llm, rest)})
                _say(f"Waiting for your next message: {len(pictures)} picture{'s' * (len(pictures) > 1)}.")
            elif word.startswith("/"):
                raise InputError(f"There is no command {word}: use /image FILE, /reset or /quit.")
            elif word:
                content = [*pictures, {"type": "text", "text": line}]
                answer = session.say(content, arguments.max_new_tokens, sampling, arguments.seed)
                pictures.clear()
                _show_until_interrupted(answer)
        except InputError as error:  # a mistyped file name does not end the conversation
            _say(f"llama4: {error}")
    return 0


def inspect(arguments: Namespace) -> int:
    """`llama4 inspect`: config, parameters, files, memory; with --check the weights themselves."""
    path = resolve_path(arguments.path or arguments.model)
    report = inspection.report(path, context=arguments.context, batch=arguments.batch, dtype=arguments.dtype)
    print(json.dumps(report, ensure_ascii=False, indent=1) if arguments.json else inspection.render(report))
    if arguments.check:
        checkpoint.load_model(path, device="cpu", check=True)
        _say("Every weight is a finite number.")
    return 0


def convert(arguments: Namespace) -> int:
    """`llama4 convert`: read one official layout, write the other."""
    source, target = resolve_path(arguments.source), _path(arguments.target)
    source = source.parent if source.is_file() else source
    layout = arguments.to or ("meta" if (source / "config.json").exists() else "hf")
    _check_target(target, arguments.max_shard_gb)
    dtype = resolve_dtype(arguments.dtype)
    checkpoint.require_room(source, target, dtype)
    model = checkpoint.load_model(source, device="cpu", dtype=dtype)
    if layout == "hf":
        checkpoint.save_hf(model, target, max_shard_bytes=int(arguments.max_shard_gb * 1e9))
    else:
        checkpoint.save_meta(model, target, shards=arguments.shards, names=arguments.names)
    named = {"hf": "Hugging Face's", "meta": "Meta's"}[layout]
    _say(f"Wrote {target} in {named} layout; copied {_copied(source, target)}.")
    return 0


def quantize(arguments: Namespace) -> int:
    """`llama4 quantize`: read either layout, write a folder in int4."""
    source, target = resolve_path(arguments.source), _path(arguments.into)
    source = source.parent if source.is_file() else source
    _check_target(target, arguments.max_shard_gb)
    model = checkpoint.load_model(source, device="cpu", dtype=resolve_dtype(arguments.dtype))
    before = sum(weight.nbytes for weight in model.parameters())
    require_int4_room(model, target, arguments.group)
    pack = pack_parameter if arguments.prompts is None else _calibrated(model, source, _path(arguments.prompts))
    after = save_int4(model, target, arguments.group, pack, max_shard_bytes=int(arguments.max_shard_gb * 1e9))
    sizes = f"{in_units(before)} became {in_units(after)}"
    _say(f"Wrote {target} in int4: {sizes}; copied {_copied(source, target)}.")
    return 0


def _calibrated(model: Llama4, source: Path, prompts: Path) -> Packing:
    llm = LLM(model.eval(), Tokenizer.from_file(source))
    return calibrated(model, answered(llm, read_prompts(llm, prompts)))


def _check_target(target: Path, max_shard_gb: float) -> None:
    if not max_shard_gb > 0 or not math.isfinite(max_shard_gb):
        raise InputError(f"--max-shard-gb is {max_shard_gb}: it must be a positive number of gigabytes.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder: name a new one, nothing is overwritten.")


def _copied(source: Path, target: Path) -> str:
    """Copy what travels with the weights; its names."""
    names = [name for name in COMPANIONS if (source / name).is_file()]
    for name in names:
        shutil.copyfile(source / name, target / name)
    return ", ".join(names) or "no tokenizer, since the source has none"


def parity(arguments: Namespace) -> int:
    """`llama4 parity`: compare with stored logits, or store a reference's."""
    path = resolve_path(arguments.path)
    if arguments.record:
        parity_check.record(path, _path(arguments.record), arguments.implementation, arguments.dtype)
        _say(f"Wrote {arguments.record}.")
        return 0
    device, dtype = resolve_device(arguments.device), resolve_dtype(arguments.dtype)
    result = parity_check.compare(path, _path(arguments.reference), device=device, dtype=dtype)
    print(json.dumps(result.as_dict(), ensure_ascii=False) if arguments.json else parity_check.render(result))
    return 0 if result.passed else 1


def bench(arguments: Namespace) -> int:
    """`llama4 bench`: the same as `python -m llama4.bench`."""
    return benchmarks.run_command(arguments)


def evaluate(arguments: Namespace) -> int:
    """`llama4 eval`: measure the model on pictures that it was not trained on."""
    from llama4.evaluation import running  # here, since no other command should wait for it

    return running.run_command(arguments)


def demo(arguments: Namespace) -> int:
    """`llama4 demo`: the tour."""
    from llama4.demo import tour

    into = arguments.into.expanduser()
    tour.check_folder(into)
    return tour.run_command(_load(arguments), into)


def _load(arguments: Namespace) -> LLM:
    llm = load(arguments.model, device=arguments.device, dtype=arguments.dtype, quant=arguments.quant)
    weight = llm.model.decoder.embedding.weight
    quant = ", linear layers in int4" if is_quantised(llm.model) else ""
    _say(f"llama4: {arguments.model} on {weight.device}, {str(weight.dtype).removeprefix('torch.')}{quant}")
    return llm


def _sampling(arguments: Namespace) -> Sampling:
    """How to choose tokens; every number is checked here, before the weights load."""
    check_budget(arguments.max_new_tokens)
    seeded(arguments.seed)
    return Sampling(arguments.temperature, arguments.top_p, arguments.top_k, arguments.min_p)


def _video(path: Path, count: int, limit: int) -> dict[str, Any]:
    sampled = frames(path, count, limit)
    return {"type": "video", "video": sampled, "frames": len(sampled)}


def _show(pieces: Iterator[str]) -> None:
    """Print the pieces as they come, and end the line whatever happens."""
    try:
        for piece in pieces:
            print(CONTROLS.sub("\ufffd", piece) if sys.stdout.isatty() else piece, end="", flush=True)
    finally:
        print(flush=True)


def _show_until_interrupted(pieces: Iterator[str]) -> None:
    """Ctrl-C ends the answer, not the program; the conversation keeps what was said."""
    try:
        _show(pieces)
    except KeyboardInterrupt:
        pieces.close()
        if not sys.stdin.isatty():
            raise


def _opened(llm: LLM, file: str) -> object:
    file = file.strip()
    if len(file) > 1 and file[0] == file[-1] and file[0] in "'\"":  # as terminals paste a file that is dropped on them
        file = file[1:-1]
    if llm.config.vision is None:
        raise InputError("This model has no vision encoder: load a multimodal checkpoint to show it pictures.")
    if not file:
        raise InputError("/image wants a file: write /image FILE.")
    return open_image(_path(file))


def _read_line() -> str | None:
    """One line from the person, or None at the end of the input."""
    while True:
        try:
            return input("> " if sys.stdin.isatty() else "")
        except EOFError:
            if sys.stdin.isatty():
                print()  # the shell's prompt shall not follow ours
            return None
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            _say("\n/quit or Ctrl-D leaves.")
        except UnicodeDecodeError as error:
            raise InputError(NOT_UTF8) from error


def _stdin() -> str:
    """All of stdin; the line end that `echo` adds is not part of the prompt."""
    try:
        return sys.stdin.buffer.read().decode().replace("\r\n", "\n").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InputError(NOT_UTF8) from error


def _path(path: str) -> Path:
    return Path(path).expanduser()


def _say(text: str) -> None:
    print(text, file=sys.stderr)
