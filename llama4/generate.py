"""Text from a prompt: the object that `llama4.load` returns, and all the ways to ask it.

    llm = llama4.load("tiny")
    llm.generate("What is this?", images=["cat.png"])     a string
    for piece in llm.stream("Tell me a story."): ...       the same text, piece by piece
    llm.run("Hello")                                       Completion(text, ids, logprobs, stop_reason)
    llm.generate_batch(["Hello", "Good evening"])          rows of unequal length, one forward call a token
    llm.complete("Once upon a time")                       no chat template: base models

A prompt is a str (one user message, its images first) or a list of messages as `llama4.chat` takes them. Every way runs the same
loop (`generate_rows`), so a stream's pieces join to the very text that `generate` returns.

On a card the tokens of an answer come from a CUDA graph (graph.py), one for each size of a batch: with its cache it is kept when
an answer has ended, and the next batch of that size finds both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from PIL.Image import Image
from torch import Tensor

from llama4 import chat
from llama4.chat import Prompt
from llama4.config import Config
from llama4.engine import check_prompt, decode, prefill
from llama4.errors import InputError
from llama4.graph import Feed, Static, feed_for
from llama4.model import Llama4
from llama4.sampling import Sampling, choose, log_probability, seeded
from llama4.stopping import StopStrings, as_stops
from llama4.tokenizer import StreamDecoder, Tokenizer

Messages = str | list[dict] | Prompt  # a Prompt is one that `LLM.encode` or `llama4.chat.encode` has made
Images = Sequence[str | Path | Image] | None
SPARE = 4  # sizes of batches whose cache and graph are kept
AHEAD = 1024  # tokens of an answer that there is room for before it begins


@dataclass(frozen=True)
class Completion:
    """An answer. `ids` and `logprobs` leave out the token that ended it; with a stop string, `text` ends before it."""

    text: str
    ids: list[int]
    logprobs: list[float]
    stop_reason: Literal["stop_token", "stop_string", "length"]


@dataclass(frozen=True)
class LLM:
    """A model and its tokenizer. Raises InputError when their vocabularies disagree."""

    model: Llama4
    tokenizer: Tokenizer
    spare: dict[int, Feed] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.tokenizer.vocab_size != self.config.vocab_size:
            raise InputError(
                f"The tokenizer has {self.tokenizer.vocab_size} tokens and the model {self.config.vocab_size}: "
                "use the tokenizer that belongs to this checkpoint."
            )

    @property
    def config(self) -> Config:
        """The model's configuration."""
        return self.model.config

    def generate(
        self,
        prompt: Messages,
        images: Images = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> str:
        """The answer as a string. Greedy at temperature 0; `seed` makes drawing repeatable; `stop` are strings that end it."""
        return self.run(prompt, images, max_new_tokens, temperature, top_p, top_k, min_p, seed, stop).text

    def run(
        self,
        prompt: Messages,
        images: Images = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Completion:
        """The answer with its ids, log-probabilities (natural, of the model itself) and the reason it ended."""
        sampling = Sampling(temperature, top_p, top_k, min_p)
        return self._finish([self.encode(prompt, images)], max_new_tokens, sampling, seed, stop)[0]

    def stream(
        self,
        prompt: Messages,
        images: Images = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """The same text, piece by piece as it comes; no piece ends inside a UTF-8 character."""
        sampling = Sampling(temperature, top_p, top_k, min_p)
        rows = self._rows([self.encode(prompt, images)], max_new_tokens, sampling, seed, stop)
        return (pieces[0] for pieces in self.generate_rows(rows, max_new_tokens) if pieces[0])

    def generate_batch(
        self,
        prompts: Sequence[Messages],
        images: Sequence[Images] | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """One answer a prompt, all in one batch; `images` holds one list (or None) a prompt. Equal to one by one when greedy."""
        if isinstance(prompts, str | Prompt):
            raise InputError("generate_batch takes a list of prompts: pass [prompt], or use generate for one.")
        if not prompts:
            return []
        if images is not None and len(images) != len(prompts):
            raise InputError(
                f"There are {len(prompts)} prompts and {len(images)} lists of images: give one list a prompt."
            )
        pairs = zip(prompts, images or [None] * len(prompts), strict=True)
        encoded = [self.encode(prompt, pictures) for prompt, pictures in pairs]
        sampling = Sampling(temperature, top_p, top_k, min_p)
        return [done.text for done in self._finish(encoded, max_new_tokens, sampling, seed, stop)]

    def complete(
        self,
        text: str,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> str:
        """What follows `text`, without a chat template: begin_of_text, then the text as it stands."""
        if not text:
            raise InputError("The prompt is empty: give at least one character of text.")
        prompt = Prompt(self.tokenizer.encode(text, bos=True), None)
        return self._finish([prompt], max_new_tokens, Sampling(temperature, top_p, top_k, min_p), seed, stop)[0].text

    def encode(self, prompt: Messages, images: Images = None) -> Prompt:
        """Ids and tiles of a prompt in the chat format, up to where the assistant speaks."""
        if isinstance(prompt, Prompt):
            if images:
                raise InputError("The prompt is encoded already and carries its own tiles: leave out images=.")
            return prompt
        messages = chat.fill_images(prompt, images)
        return chat.encode(self.tokenizer, messages, vision=self.config.vision)

    def _finish(
        self, prompts: list[Prompt], budget: int, sampling: Sampling, seed: int | None, stop: Sequence[str]
    ) -> list[Completion]:
        rows = self._rows(prompts, budget, sampling, seed, stop)
        for _ in self.generate_rows(rows, budget):
            pass
        return [row.completion() for row in rows]

    def _rows(
        self, prompts: list[Prompt], budget: int, sampling: Sampling, seed: int | None, stop: Sequence[str]
    ) -> list[Row]:
        for prompt in prompts:
            check_prompt(prompt, self.model, budget)
        return [Row(self, prompt, sampling, seed, as_stops(stop)) for prompt in prompts]

    def generate_rows(self, rows: list[Row], budget: int, feed: Feed | None = None) -> Iterator[list[str]]:
        """Yield the text that each row gained, round after round, then what the rows had held back.

        With `feed` the prompts go on from what its cache holds.
        """
        if feed is None:
            with self._feed(len(rows), max(len(row.prompt.ids) for row in rows), budget) as lent:
                yield from self.generate_rows(rows, budget, lent)
            return
        feed.begin()
        logits_BV = prefill(self.model, feed.cache, [row.prompt for row in rows], progress=True)

        def choose(row: int, logits_V: Tensor) -> int | None:
            return rows[row].choose(logits_V)

        for tokens in decode(self.model, feed.cache, logits_BV, budget, choose, feed):
            yield [row.push(token) for row, token in zip(rows, tokens, strict=True)]
            if all(row.over for row in rows):  # said here, it saves a forward call whose result nobody would read
                break
        yield [row.flush() for row in rows]

    @contextmanager
    def _feed(self, batch_size: int, prompt: int, budget: int) -> Iterator[Feed]:
        """Lend what decodes a batch. What has recorded a graph stays for the next batch of this size, unless this one failed."""
        feed = self.spare.pop(batch_size, None) or feed_for(self.model, batch_size, self.config.max_context)
        feed.cache.reset()
        if isinstance(feed, Static):  # room at once: a buffer that grows under way has to be recorded anew
            feed.cache.reserve(prompt + min(budget, AHEAD))
        try:
            yield feed
        except GeneratorExit:  # a stream that its reader leaves, between two steps: the recording is whole
            self._keep(batch_size, feed)
            raise
        self._keep(batch_size, feed)

    def _keep(self, batch_size: int, feed: Feed) -> None:
        if isinstance(feed, Static):
            self.spare[batch_size] = feed
        while len(self.spare) > SPARE:
            del self.spare[next(iter(self.spare))]


class Row:
    """One answer in the making: draws its tokens, decodes them, watches for its end."""

    def __init__(self, llm: LLM, prompt: Prompt, sampling: Sampling, seed: int | None, stop: tuple[str, ...]) -> None:
        self.prompt, self.sampling = prompt, sampling
        self.stop_ids = llm.tokenizer.stop_ids  # not the config's: files that leave them out mean id 2 by default
        self.generator = seeded(seed)
        self.decoder, self.filter = StreamDecoder(llm.tokenizer), StopStrings(stop)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.text = ""
        self.ended_by: int | None = None

    @property
    def over(self) -> bool:
        """A stop token or a stop string has come."""
        return self.ended_by is not None or self.filter.stopped

    def choose(self, logits_V: Tensor) -> int | None:
        """The next token, or None when the answer is over. Raises InputError when the model's scores are not numbers."""
        if self.over:
            return None
        if not torch.isfinite(logits_V.max()):  # NaN counts as the largest, and -inf is how barred ids are written
            raise InputError(
                "The model's logits are NaN or infinite: run `llama4 inspect MODEL --check` to find weights that are not finite."
            )
        token = choose(logits_V, self.sampling, self.generator)
        if token in self.stop_ids:
            self.ended_by = token
            return None
        self.ids.append(token)
        self.logprobs.append(log_probability(logits_V, token))
        return token

    def push(self, token: int | None) -> str:
        """Text that `token` completes and that may be shown."""
        return self._show(self.filter.push(self.decoder.push(token))) if token is not None else ""

    def flush(self) -> str:
        """Text that was held back: a broken character, the beginning of a stop string that never came."""
        if self.filter.stopped:
            return ""
        shown = self.filter.push(self.decoder.flush())
        return self._show(shown if self.filter.stopped else shown + self.filter.flush())

    def completion(self) -> Completion:
        """The finished answer."""
        reason = "stop_string" if self.filter.stopped else "length" if self.ended_by is None else "stop_token"
        return Completion(self.text, self.ids, self.logprobs, reason)

    def _show(self, text: str) -> str:
        self.text += text
        return text
