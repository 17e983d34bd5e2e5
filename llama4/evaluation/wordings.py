"""The fixed wordings: one a task, and for naming one a language; not varied, so that figures can be compared.

Each is the first one that the trainer has for its task (a test compares them): the evaluation is about unseen pictures, not about
unseen questions.
"""

from __future__ import annotations

NAMING: dict[str, str] = {
    "en": "What is this?",
    "ar": "ما هذا؟",
    "zh": "这是什么？",
    "fil": "Ano ito?",
    "fr": "Qu'est-ce que c'est ?",
    "de": "Was ist das?",
    "hi": "यह क्या है?",
    "id": "Apa ini?",
    "it": "Che cos'è?",
    "ja": "これは何ですか？",
    "ko": "이것은 무엇인가요?",
    "pt": "O que é isto?",
    "ru": "Что это?",
    "es": "¿Qué es esto?",
    "th": "นี่คืออะไร",
    "vi": "Đây là gì?",
}
STRIP = "List what you see from left to right."
SIDE = "Is the {name} on the left or on the right?"
SIDES = ("left", "right")
SAME = "Are these two pictures the same?"
SAMENESS = ("same", "different")
NTH = "What is the {ordinal} picture?"
ORDINALS = ("first", "second", "third")
FRAMES = "What happens in these frames, in order?"
TRANSLATE = "How do you say {name} in {language}?"
KEYWORDS = "Give three keywords for {name}."
CATEGORY = "Which category does {name} belong to?"
