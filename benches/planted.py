"""Copies of documents with one kind of change each, for benches that count which of them are found."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

# Han, kana and Hangul.
CJK = "\u3041-\u30ff\u3400-\u9fff\uac00-\ud7a3"
IS_CJK = re.compile(f"[{CJK}]")
SENTENCE_END = re.compile("(?<=[。！？])")
# Kinds of the corpus, in words.
KINDS = {
    "exact": "the same text",
    "ws": "white space",
    "boiler": "boilerplate around it",
    "trunc": "truncated by 5 to 40 of 100",
    "drop": "a paragraph in 10 dropped",
    **{f"sub-{share}": f"words of 100 replaced: {share}" for share in ("0.5", "1", "2", "5", "10")},
}


def upper_case(text: str, _draw: random.Random) -> str:
    return text.upper()


def change_one_in(count: int) -> Callable[[str, random.Random], str]:
    """Other characters of the same text in the places of some CJK ones."""

    def change(text: str, draw: random.Random) -> str:
        letters = IS_CJK.findall(text)
        return IS_CJK.sub(lambda found: draw.choice(letters) if draw.random() < 1 / count else found[0], text)

    return change


def drop_sentence(text: str, draw: random.Random) -> str:
    *sentences, rest = SENTENCE_END.split(text)
    del sentences[draw.randrange(len(sentences))]
    return "".join([*sentences, rest])


# What the corpus lacks: the change, and whether it is one of CJK documents.
MORE: dict[str, tuple[Callable[[str, random.Random], str], bool]] = {
    "upper case": (upper_case, False),
    "CJK: a character in 200 changed": (change_one_in(200), True),
    "CJK: a character in 50 changed": (change_one_in(50), True),
    "CJK: a sentence dropped": (drop_sentence, True),
}
EACH = 200


def plant_more(texts: list[str], cjk: list[str]) -> dict[str, list[tuple[str, str]]]:
    """For each kind that the corpus lacks, originals with their copies."""
    draw = random.Random(7)
    long = [text for text in texts if len(text.split()) >= 60 and text != text.upper()]
    written = [
        text for text in cjk if len(IS_CJK.findall(text)) >= 300 and len(SENTENCE_END.split(text)) > 10
    ]
    planted = {}
    for kind, (change, is_cjk) in MORE.items():
        originals = draw.sample(written if is_cjk else long, EACH)
        planted[kind] = [(text, change(text, draw)) for text in originals]
    return planted
