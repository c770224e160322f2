"""Tokenizers by the place they are in."""

from __future__ import annotations

import re
from pathlib import Path

from tempa.tokenizer import PackageTokenizer, Tokenizer, load_tokenizer

AnyTokenizer = Tokenizer | PackageTokenizer


def read_tokenizer(place: Path) -> AnyTokenizer:
    """A tokenizer from a directory, a `tokenizer.json`, a sentencepiece `.model`, or a rank file.

    The name of a rank file starts with its pattern.
    """
    if place.suffix == ".model":
        return Tokenizer.from_sentencepiece(place)
    if place.suffix != ".tiktoken":
        return load_tokenizer(place)
    pattern = re.split(r"[^a-z0-9]", place.name)[0]
    if place.name.startswith("cl100k_base"):
        pattern = "cl100k_base"
    if pattern not in ("gpt2", "cl100k", "cl100k_base", "qwen2", "o200k"):
        raise ValueError(
            f"{place}: a rank file does not say its pattern: start its name with gpt2, cl100k, qwen2 or o200k"
        )
    return Tokenizer.from_tiktoken(place, pattern=pattern)


def read_bpe(place: Path) -> Tokenizer:
    """A tokenizer as `read_tokenizer` finds it, for commands that need our own.

    Raises:
        ValueError: If the `tokenizers` package would have to run it.
    """
    tokenizer = read_tokenizer(place)
    if isinstance(tokenizer, PackageTokenizer):
        raise ValueError(f"{place}: only BPE can do this, found {tokenizer!r}")
    return tokenizer
