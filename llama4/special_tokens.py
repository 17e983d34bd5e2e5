"""The 2048 special tokens of Llama 4, by number: token i has the id `base ranks + i`, so `<|patch|>` is 200000 + 92.

The numbering has five parts, and each of the middle three ends in placeholders that hold ids for later use:

    0 … 4        basic            <|begin_of_text|> 0, <|end_of_text|> 1, fill-in-the-middle 2 … 4
    5 … 79       text             headers 5 and 6, <|eom|> 7, <|eot|> 8, python 16 and 17, the padding token 18
    80 … 1133    vision           image 80, 81 and 90, tile separators 84 and 85, <|patch|> 92
    1134 … 1143  reasoning        thinking 1142 and 1143
    1144 … 2047  unassigned

Source: Meta's `llama_models/llama4/tokenizer.py`. One oddity is kept: the text placeholders jump from 5 to 8, because
6 and 7 became `<|python_start|>` and `<|python_end|>`. Early Hugging Face files count them without the jump; a
placeholder's name means nothing, so only the named tokens have to agree (`tokenizer_files.py`).
"""

from __future__ import annotations

SPECIAL_TOKENS = 2048


def is_placeholder(name: str) -> bool:
    """Whether a special token is an unassigned slot, such as `<|vision_reserved_special_token_3|>`."""
    return "reserved_special_token" in name


def _slots(family: str, first: int, last: int) -> list[str]:
    return [f"<|{family}_reserved_special_token_{number}|>" for number in range(first, last + 1)]


def _official_names() -> tuple[str, ...]:
    basic = ["<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]
    text = [
        *("<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>", "<|step|>"),
        *_slots("text_post_train", 0, 5),
        *("<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"),
        *_slots("text_post_train", 8, 68),
    ]
    vision = [
        *("<|image_start|>", "<|image_end|>"),
        *_slots("vision", 0, 1),
        *("<|tile_x_separator|>", "<|tile_y_separator|>"),
        *_slots("vision", 2, 5),
        "<|image|>",
        *_slots("vision", 6, 6),
        "<|patch|>",
        *_slots("vision", 7, 1047),
    ]
    reasoning = [*_slots("reasoning", 0, 7), "<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>"]
    assigned = basic + text + vision + reasoning
    spare = [f"<|reserved_special_token_{number}|>" for number in range(SPECIAL_TOKENS - len(assigned))]
    return tuple(assigned + spare)


OFFICIAL_NAMES = _official_names()
