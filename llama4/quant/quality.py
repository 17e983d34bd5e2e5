"""What int4 costs in answers: how far a model's next tokens move when its layers are rounded.

    along the answer a_1 … a_n <end> that the exact model gives, greedily, p the exact model's next-token probabilities, q int4's:
    same token     argmax p = argmax q
    same answer    the same token at every place, the end among them: int4, asked by itself, answers letter for letter alike
    KL             Σ_v p(v) ln(p(v) / q(v)), nats, averaged over all places

The exact model writes each answer once; then both read question and answer in one forward call, so int4's mistakes do not add up
along an answer, and one that differs counts once. The questions come from the package: 28 drawings in sixteen languages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from llama4.chat import Prompt
from llama4.demo.pictures import every
from llama4.engine import decode, prefill
from llama4.evaluation.asking import MAX_NEW_TOKENS, encoded_once
from llama4.evaluation.wordings import NAMING
from llama4.generate import LLM

ROWS = 64


@dataclass(frozen=True)
class Agreement:
    """Counts over `questions` answers of `tokens` tokens, their ends included; `kl` in nats a token."""

    questions: int
    tokens: int
    same_answers: int
    same_tokens: int
    kl: float


def questions(llm: LLM) -> list[Prompt]:
    """Every picture of the package, asked for in each of the sixteen languages."""
    return [llm.encode(wording, images=[shown.picture]) for shown in every() for wording in NAMING.values()]


def agreement(exact: LLM, narrow: LLM, prompts: Sequence[Prompt], max_new_tokens: int = MAX_NEW_TOKENS) -> Agreement:
    """Compare `narrow`, the int4 model, with `exact` along the latter's greedy answers to `prompts`."""
    alike, kls = [], []
    ordered = sorted(prompts, key=lambda prompt: len(prompt.ids))
    with encoded_once(exact.model), encoded_once(narrow.model):
        for first in tqdm(range(0, len(ordered), ROWS), desc="comparing", delay=2, leave=False, disable=None):
            batch = ordered[first : first + ROWS]
            said = _answers(exact, batch, max_new_tokens)
            read = [Prompt(prompt.ids + ids[:-1], prompt.tiles) for prompt, ids in zip(batch, said, strict=True)]
            for ids, p_SV, q_SV in zip(said, _scores(exact, read), _scores(narrow, read), strict=True):
                p_SV, q_SV = p_SV[-len(ids) :], q_SV[-len(ids) :]
                alike.append(p_SV.argmax(-1) == q_SV.argmax(-1))
                kls.append((p_SV.exp() * (p_SV - q_SV)).sum(-1))
    tokens, kl = torch.cat(alike), torch.cat(kls)
    return Agreement(
        len(alike), len(tokens), sum(bool(row.all()) for row in alike), int(tokens.sum()), float(kl.mean())
    )


def _answers(llm: LLM, batch: list[Prompt], budget: int) -> list[list[int]]:
    """Greedy answers, each with the token that ended it."""
    said: list[list[int]] = [[] for _ in batch]

    def choose(row: int, logits_V: Tensor) -> int | None:
        said[row].append(int(logits_V.argmax()))
        return None if said[row][-1] in llm.tokenizer.stop_ids else said[row][-1]

    cache = llm.model.new_cache(len(batch), max(len(prompt.ids) for prompt in batch) + budget)
    for _ in decode(llm.model, cache, prefill(llm.model, cache, batch), budget, choose):
        pass
    return said


@torch.inference_mode()
def _scores(llm: LLM, batch: list[Prompt]) -> Iterator[Tensor]:
    """Log-probabilities `[S, V]` of each row, on the CPU; what must not be said has none of them, in either model."""
    lengths_B = torch.tensor([len(prompt.ids) for prompt in batch])
    tokens_BS = torch.zeros(len(batch), int(lengths_B.max()), dtype=torch.int64)
    for row, prompt in enumerate(batch):
        tokens_BS[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
    device = llm.model.decoder.embedding.weight.device
    tiles = [prompt.tiles for prompt in batch if prompt.tiles is not None]
    images = torch.cat(tiles).to(device) if tiles else None
    logits_BSV = llm.model(tokens_BS.to(device), images=images, lengths_B=lengths_B)
    if llm.config.vision is not None:
        logits_BSV[:, :, llm.config.patch_id] = -1e4
    for row, length in enumerate(lengths_B.tolist()):
        yield torch.log_softmax(logits_BSV[row, :length].float().cpu(), dim=-1)
