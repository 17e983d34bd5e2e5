"""The command `llama4`: its arguments, and how it ends.

Exit codes: 0 done; 1 a comparison that failed; 2 bad input, with one sentence that says what is wrong, where, and what to do;
130 interrupted. Text for a person or a pipe goes to stdout, everything about the run (device, progress) to stderr.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import NoReturn

from llama4 import __version__, commands
from llama4.errors import InputError
from llama4.image import MAX_PIXELS

EXAMPLES = """examples:
  llama4 generate "Hello"                                  the small model inside the package
  llama4 generate --image cat.png "What is this?"
  llama4 generate --model ~/Llama-4-Scout "Hello" --temperature 0.6 --top-p 0.9
  llama4 chat --model ~/Llama-4-Scout
  llama4 inspect config.json --context 1000000             parameters and memory, from a bare config
  llama4 convert Llama-4-Scout Llama-4-Scout-hf            Meta's layout to Hugging Face's, or back
  llama4 quantize Llama-4-Scout --into Llama-4-Scout-int4
  llama4 parity Llama-4-Scout --reference logits.safetensors
  llama4 bench --against transformers
  llama4 eval --suite names,experts --table names.md       what the small model knows, measured
  llama4 demo                                              what it does, in a minute
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 shows "?" where it lacks a character
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        arguments = parser().parse_args(argv)
        code = arguments.run(arguments)
        sys.stdout.flush()  # here, where a reader that has left can still be answered
        return code
    except InputError as error:
        print(f"llama4: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("llama4: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our stdout, `head` say, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        what = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
        print(f"llama4: {what}: check the path, its permissions and the space on its disk.", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    top = _Parser("llama4", "Llama 4 from scratch: run, inspect, convert and check checkpoints.", EXAMPLES)
    top.add_argument("--version", action="version", version=f"llama4 {__version__}")
    sub = top.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser.plain)
    _generate(sub)
    _chat(sub)
    _inspect(sub)
    _convert(sub)
    _quantize(sub)
    _parity(sub)
    _bench(sub)
    _eval(sub)
    _demo(sub)
    return top


class _Parser(argparse.ArgumentParser):
    """argparse whose help keeps its examples as they are written."""

    def __init__(self, prog: str, description: str, examples: str) -> None:
        super().__init__(
            prog=prog, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        """One sentence, as for all bad input, instead of argparse's usage lines."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`.\n")

    @classmethod
    def plain(cls, prog: str, description: str = "", epilog: str = "", **_: object) -> _Parser:
        return cls(prog, description, epilog)


def _add(
    sub: argparse._SubParsersAction, name: str, run: object, summary: str, examples: str
) -> argparse.ArgumentParser:
    command = sub.add_parser(name, help=summary, description=summary, epilog="examples:\n" + examples)
    command.set_defaults(run=run)
    return command


def _generate(sub: argparse._SubParsersAction) -> None:
    command = _add(
        sub,
        "generate",
        commands.generate,
        "Answer one prompt, streaming the text to stdout.",
        '  llama4 generate --image left.png --image right.png "Which one is a cat?"\n'
        '  llama4 generate --video clip.gif --frames 4 "What happens?"\n'
        '  echo "Once upon a time" | llama4 generate --raw -\n',
    )
    command.add_argument("prompt", nargs="?", default="", help="the question; - reads it from stdin")
    command.add_argument("--image", action="append", default=[], metavar="FILE", help="an image before it; repeatable")
    command.add_argument("--video", action="append", default=[], metavar="FILE", help="a video, or a folder of frames")
    command.add_argument("--frames", type=int, default=8, metavar="N", help="frames to sample of each video (8)")
    command.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help="largest image to open (25 million)"
    )
    command.add_argument("--system", metavar="TEXT", help="a system message")
    command.add_argument("--raw", action="store_true", help="no chat template: continue the text (base models)")
    command.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    command.add_argument("--json", action="store_true", help="print text, ids, logprobs and stop reason as JSON")
    _sampling(command)
    _model(command)


def _chat(sub: argparse._SubParsersAction) -> None:
    command = _add(
        sub,
        "chat",
        commands.chat,
        "Talk to a model. /image FILE adds a picture to the next message, /reset begins anew, /quit leaves.",
        '  llama4 chat --model ~/Llama-4-Scout --system "Answer in verse."\n',
    )
    command.add_argument("--system", metavar="TEXT", help="a system message")
    _sampling(command)
    _model(command)


def _inspect(sub: argparse._SubParsersAction) -> None:
    command = _add(
        sub,
        "inspect",
        commands.inspect,
        "Show config, layer table, parameter counts, files and memory; reads headers only.",
        "  llama4 inspect tiny\n"
        "  llama4 inspect config.json --context 10485760 --dtype bfloat16\n"
        "  llama4 inspect ~/Llama-4-Scout --check\n",
    )
    command.add_argument("path", nargs="?", help="a checkpoint folder, config.json or params.json (default: tiny)")
    command.add_argument("--model", default="tiny", metavar="PATH", help=argparse.SUPPRESS)
    command.add_argument("--context", type=int, metavar="N", help="tokens the cache holds (8192, or the model's limit)")
    command.add_argument("--batch", type=int, default=1, metavar="N", help="rows the cache holds (1)")
    command.add_argument("--dtype", default="auto", help="dtype to count memory in: auto, bfloat16, float16, float32")
    command.add_argument(
        "--check", action="store_true", help="load the weights and report NaN and infinite ones by name"
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def _convert(sub: argparse._SubParsersAction) -> None:
    command = _add(
        sub,
        "convert",
        commands.convert,
        "Write a checkpoint in the other official layout (Meta to Hugging Face, or back).",
        "  llama4 convert Llama-4-Scout Llama-4-Scout-hf\n"
        "  llama4 convert Llama-4-Scout-hf Llama-4-Scout --to meta --shards 8 --names training\n",
    )
    command.add_argument("source", help="the checkpoint folder to read")
    command.add_argument("target", help="the folder to write; it must not hold a checkpoint yet")
    command.add_argument("--to", choices=("hf", "meta"), help="layout to write (default: the one the source is not in)")
    command.add_argument("--dtype", default="auto", help="auto (keep), bfloat16, float16, float32")
    command.add_argument("--shards", type=int, default=1, metavar="N", help="Meta: tensor-parallel shards to write (1)")
    command.add_argument("--names", choices=("load", "training"), default="load", help="Meta: which names to write")
    command.add_argument("--max-shard-gb", type=float, default=5.0, metavar="GB", help="HF: largest file (5)")


def _quantize(sub: argparse._SubParsersAction) -> None:
    command = _add(
        sub,
        "quantize",
        commands.quantize,
        "Write a checkpoint with the decoder's linear layers in int4, a quarter of their size (docs/quantisation.md).",
        "  llama4 quantize Llama-4-Scout --into Llama-4-Scout-int4\n"
        "  llama4 quantize Llama-4-Scout --into Llama-4-Scout-int4 --prompts prompts.jsonl    calibrated on them\n"
        "  llama4 generate --model Llama-4-Scout-int4 Hello\n",
    )
    command.add_argument("source", help="the checkpoint folder to read, or tiny")
    command.add_argument(
        "--into", required=True, metavar="DIR", help="the folder to write; it must not hold anything yet"
    )
    command.add_argument(
        "--prompts", metavar="FILE.jsonl", help='calibrate: a line each, {"prompt": "…", "images": ["…"]}'
    )
    command.add_argument("--group", type=int, choices=(128, 64, 32), help="weights a scale (by each layer's width)")
    command.add_argument(
        "--dtype", default="auto", help="of scales and of what stays: auto (keep), bfloat16, float16, float32"
    )
    command.add_argument("--max-shard-gb", type=float, default=5.0, metavar="GB", help="largest file (5)")


def _parity(sub: argparse._SubParsersAction) -> None:
    command = _add(
        sub,
        "parity",
        commands.parity,
        "Compare a checkpoint's logits with stored reference logits; names the first layer that diverges.",
        "  llama4 parity DIR --record logits.safetensors --with transformers\n"
        "  llama4 parity DIR --reference logits.safetensors\n",
    )
    command.add_argument("path", help="the checkpoint folder")
    action = command.add_mutually_exclusive_group(required=True)
    action.add_argument("--reference", metavar="FILE", help="compare with this file")
    action.add_argument("--record", metavar="FILE", help="write this file from a reference implementation")
    command.add_argument("--with", dest="implementation", default="transformers", choices=("transformers",))
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N; a reference is recorded on the CPU")
    command.add_argument("--dtype", default="auto", help="auto, bfloat16, float16, float32")
    command.add_argument("--json", action="store_true", help="print JSON")


def _bench(sub: argparse._SubParsersAction) -> None:
    command = _add(
        sub,
        "bench",
        commands.bench,
        "Time loading, prefill and decode, and measure peak memory, alone or beside transformers.",
        "  llama4 bench --against transformers --json bench.json\n",
    )
    from llama4 import bench

    bench.add_arguments(command)


def _eval(sub: argparse._SubParsersAction) -> None:
    command = _add(
        sub,
        "eval",
        commands.evaluate,
        "Measure how often the small model is right about pictures by an artist that it never saw.",
        "  python -m llama4.train.emoji --into data/emoji           the pictures and names, once\n"
        "  llama4 eval --json eval.json --table eval.md\n"
        "  llama4 eval --suite experts --figure experts.png\n"
        "  llama4 eval --render eval.json --table llama4/assets/tiny/README.md\n",
    )
    command.add_argument("--data", type=Path, default=Path("data/emoji"), metavar="DIR", help="(data/emoji)")
    command.add_argument(
        "--artist", default="twemoji", metavar="NAME", help="whose drawings (twemoji, the held-out one)"
    )
    command.add_argument(
        "--suite",
        default="all",
        metavar="LIST",
        help="all, or some with commas between: names, languages, trained, strip, pair, same, nth, frames, translate, "
        "keywords, category, absent, swap, experts (all)",
    )
    command.add_argument("--limit", type=int, metavar="N", help="ask at most N questions a row (all)")
    command.add_argument("--json", metavar="FILE", help="write the result there; - prints it instead of the table")
    command.add_argument(
        "--table",
        type=Path,
        metavar="FILE.md",
        help="write the table there, or between the lines <!-- eval --> and <!-- end --> of a page that has them",
    )
    command.add_argument(
        "--figure", type=Path, metavar="FILE.png", help="draw which expert takes what (needs matplotlib)"
    )
    command.add_argument("--render", type=Path, metavar="FILE", help="measure nothing: draw the table of this result")
    _model(command)


def _demo(sub: argparse._SubParsersAction) -> None:
    command = _add(
        sub,
        "demo",
        commands.demo,
        "A tour of a minute: pictures named in several languages, a strip, left and right, tiles, experts, speed.",
        "  llama4 demo --into /tmp\n",
    )
    command.add_argument("--into", type=Path, default=Path(), metavar="DIR", help="where llama4-demo.png goes (here)")
    _model(command)


def _sampling(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("how to choose tokens")
    group.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="at most this many (256)")
    group.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (0)")
    group.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="keep the likeliest that add up to this (1)"
    )
    group.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest")
    group.add_argument(
        "--min-p", type=float, default=0.0, metavar="P", help="keep those this fraction as likely as the likeliest (0)"
    )
    group.add_argument("--seed", type=int, metavar="N", help="makes drawing repeatable")


def _model(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("what to run")
    group.add_argument(
        "--model", default="tiny", metavar="DIR", help="a checkpoint folder, Meta's or Hugging Face's (tiny)"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    group.add_argument("--dtype", default="auto", help="auto (the checkpoint's), bfloat16, float16, float32")
    group.add_argument("--quant", choices=("int4",), help="quantise the decoder's linear layers (as they are)")


if __name__ == "__main__":
    sys.exit(main())
