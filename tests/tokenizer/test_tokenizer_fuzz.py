"""Ids equal those of tiktoken on many random strings of all scripts.

`TEMPA_FUZZ_STRINGS=1000000 pytest tests/tokenizer/test_tokenizer_fuzz.py` is the long run.
"""

from __future__ import annotations

import os
import random
import unicodedata
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import tiktoken

from tempa.tokenizer import Tokenizer

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
OTHERS, SPACES = r" ?[^\s\p{L}\p{N}]+", r"\s*[\r\n]+|\s+(?!\S)|\s+"
REST = rf"{OTHERS}[\r\n]*|{SPACES}"
PREFIX = r"[^\r\n\p{L}\p{N}]?"
HEAD, BODY = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": rf"{CONTRACTIONS}|{PREFIX}\p{{L}}+|\p{{N}}{{1,3}}|{REST}",
    "qwen2": rf"{CONTRACTIONS}|{PREFIX}\p{{L}}+|\p{{N}}|{REST}",
    "o200k": rf"{PREFIX}{HEAD}*{BODY}+{CONTRACTIONS}?|{PREFIX}{HEAD}+{BODY}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{OTHERS}[\r\n/]*|{SPACES}",
}
NUM_STRINGS = int(os.environ.get("TEMPA_FUZZ_STRINGS", "20000"))
BATCH = 10_000

pytestmark = pytest.mark.slow


def alphabets() -> list[str]:
    """The characters of each general category, some scripts, and what patterns treat specially."""
    categories: dict[str, list[str]] = {}
    for code in range(0x110000):
        character = chr(code)
        categories.setdefault(unicodedata.category(character), []).append(character)
    del categories["Cs"]
    scripts = [(0x20, 0x7F), (0xC0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE80), (0x3040, 0x3100)]
    scripts += [(0x4E00, 0x5200), (0xAC00, 0xB000), (0x1F300, 0x1F700)]
    special = " \t\n\r\v\f\u0085\u00a0\u1680\u2028\u3000''''/sdmtlvreSDMTLVRE\u017f\u212a09\u0301\u200d._-"
    ranges = ["".join(map(chr, range(*ends))) for ends in scripts]
    return ["".join(characters) for characters in categories.values()] + ranges * 3 + [special] * 30


def strings(seed: int) -> Iterator[str]:
    """Runs from a few alphabets each, most of them short."""
    draw = random.Random(seed)
    known = alphabets()
    while True:
        few = draw.choices(known, k=draw.randint(1, 4))
        parts = []
        for _ in range(draw.randint(0, 12)):
            characters = draw.choice(few)
            if draw.random() < 0.15:
                parts.append(draw.choice(characters) * min(300, int(draw.paretovariate(0.7))))
            parts.extend(draw.choices(characters, k=draw.randint(0, 8)))
        yield "".join(parts)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_random_strings_have_the_ids_of_tiktoken(pattern: str, shared_data: Path, tmp_path: Path) -> None:
    gpt2 = Tokenizer.from_gpt2(shared_data / "gpt2-vocab.bpe", shared_data / "gpt2-encoder.json")
    ranks = {gpt2.token_bytes(token): token for token in range(gpt2.vocab_size - 1)}
    gpt2.save_tiktoken(tmp_path / "gpt2.tiktoken")
    ours = Tokenizer.from_tiktoken(tmp_path / "gpt2.tiktoken", pattern=pattern)
    theirs = tiktoken.Encoding(pattern, pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={})
    source = strings(seed=1)
    for _ in range(0, NUM_STRINGS, BATCH):
        batch = list(islice(source, BATCH))
        ids, offsets = ours.encode_batch(batch)
        expected = theirs.encode_ordinary_batch(batch, num_threads=2)
        if not np.array_equal(ids, np.array([token for row in expected for token in row], np.uint32)):
            for text, (start, stop), row in zip(batch, pairwise(offsets), expected, strict=True):
                assert ids[start:stop].tolist() == row, ascii(text)
