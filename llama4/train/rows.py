"""A conversation as the ids the model reads, and which of them it has to have said.

    <|begin_of_text|> user: [picture] What is this?<|eot|> assistant: dog face<|eot|> user: …
                                                                      ^^^^^^^^^^^^^^ learnt; everything else is given

The ids are those of `chat.encode`, and a test compares them. Here they are put together from cached pieces: a picture is
a grid of tiles whose ids depend on the grid alone, and most texts come again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from llama4.chat import image_tokens
from llama4.tokenizer import Tokenizer
from llama4.train.tasks import Conversation

Grid = tuple[int, int]  # rows and columns of tiles


@dataclass(frozen=True)
class Row:
    """Token ids, and for each whether it belongs to an answer (its `<|eot|>` included)."""

    ids: list[int]
    answer: list[bool]


class Writer:
    """Writes conversations with one tokenizer, for a model whose tiles become `tokens_per_tile` tokens."""

    def __init__(self, tokenizer: Tokenizer, tokens_per_tile: int) -> None:
        self.text = lru_cache(1 << 17)(lambda text: tuple(tokenizer.encode(text)))
        self.picture = lru_cache(64)(lambda grid: tuple(image_tokens(tokenizer, *grid, tokens_per_tile)))
        self.begin = [tokenizer.bos_id]
        self.end = [tokenizer.special_id("<|eot|>")]
        start, end = tokenizer.special_id("<|header_start|>"), tokenizer.special_id("<|header_end|>")
        self.headers = {role: [start, *self.text(role), end, *self.text("\n\n")] for role in ("user", "assistant")}

    def opening(self, grids: Sequence[Grid]) -> list[int]:
        """The ids with which a conversation begins whose first question is about pictures: up to the last picture's last one."""
        return [*self.begin, *self.headers["user"], *(token for grid in grids for token in self.picture(grid))]

    def row(self, conversation: Conversation, grids: Sequence[Grid]) -> Row:
        """`grids` holds the tiling of each picture of the conversation, in order."""
        waiting = iter(grids)
        ids = list(self.begin)
        answer = [False]
        for turn in conversation.turns:
            asked = list(self.headers["user"])
            for _ in turn.pictures:
                asked += self.picture(next(waiting))
            asked += [*self.text(turn.question), *self.end, *self.headers["assistant"]]
            said = [*self.text(turn.answer), *self.end]
            ids += asked + said
            answer += [False] * len(asked) + [True] * len(said)
        return Row(ids, answer)
