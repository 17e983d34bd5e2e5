"""A conversation that goes on: what was said stays in the cache, and each turn reads only what is new.

    turn 1   begin_of_text, user's message, assistant's header    -> answer
    turn 2   <|eot|>, user's message, assistant's header          -> answer

The ids of the whole conversation are kept beside the cache, and `cache.lengths_B` says how many of them the model has read. So a
turn that was interrupted costs nothing but the rest of its answer: the next one reads whatever is unread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from llama4 import chat
from llama4.chat import Prompt
from llama4.errors import InputError
from llama4.generate import LLM, Row
from llama4.sampling import Sampling


class Session:
    """One conversation with `llm`; not for use from two threads at once."""

    def __init__(self, llm: LLM, system: str | None = None) -> None:
        self.llm, self.system = llm, system
        self.reset()

    def reset(self) -> None:
        """Forget the conversation; the system message, if there is one, stays."""
        self.ids: list[int] = []
        self.tiles: list[torch.Tensor] = []
        self.cache = self.llm.model.new_cache(1, self.llm.config.max_context)

    def say(
        self,
        content: str | list[dict[str, Any]],
        max_new_tokens: int = 256,
        sampling: Sampling | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Add a user message and stream the answer. Raises InputError, before anything changes, when it does not fit."""
        said = self._encode(content)
        budget = min(max_new_tokens, self.llm.config.max_context - len(self.ids) - len(said.ids))
        if budget < 1:
            raise InputError(
                f"The conversation has reached the context of {self.llm.config.max_context} tokens: begin a new one (/reset)."
            )
        self.ids += said.ids
        if said.tiles is not None:
            self.tiles.append(said.tiles)
        return self._answer(Row(self.llm, self._unread(), sampling or Sampling(), seed, ()), budget)

    def _encode(self, content: str | list[dict[str, Any]]) -> Prompt:
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if not self.ids and self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        prompt = chat.encode(self.llm.tokenizer, messages, vision=self.llm.config.vision)
        return prompt if not self.ids else Prompt(prompt.ids[1:], prompt.tiles)  # begin_of_text only once

    def _answer(self, row: Row, budget: int) -> Iterator[str]:
        ended = False
        try:
            yield from (pieces[0] for pieces in self.llm.generate_rows([row], budget, self.cache) if pieces[0])
            ended = True
        finally:
            if not ended:  # a call may have been cut short after it began to write: read everything anew
                self.cache.reset()
            self.ids += [*row.ids, row.ended_by or self.llm.tokenizer.eot_id]

    def _unread(self) -> Prompt:
        read = int(self.cache.lengths_B[0])
        if not self.tiles:
            return Prompt(self.ids[read:], None)
        per_tile = self.llm.config.vision.tokens_per_tile
        tiles_read = self.ids[:read].count(self.llm.config.patch_id) // per_tile
        tiles = torch.cat(self.tiles)[tiles_read:]
        return Prompt(self.ids[read:], tiles if len(tiles) else None)
