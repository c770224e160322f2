"""`tempa tokenizer`: train, encode, decode, inspect."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from tempa import config
from tempa.cli.group import dispatch
from tempa.cli.tokenizer_train import train
from tempa.cli.tokens import print_tokens
from tempa.data.documents import read_documents
from tempa.tokenizer import Tokenizer

_Words = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT ...")]
_Numbers = Annotated[tuple[int, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ID ...")]
_Place = Annotated[
    Path,
    tyro.conf.arg(metavar="DIR", help="Directory with a tokenizer.json, such as a model's, or the file."),
]


def main(name: str, argv: list[str]) -> int:
    """Run one subcommand."""
    commands = {
        "train": (train, "learn a byte-level BPE vocabulary from documents"),
        "encode": (_encode, "text to ids"),
        "decode": (_decode, "ids to text"),
        "inspect": (_inspect, "a text with its tokens coloured, and what the vocabulary holds"),
    }
    summary = "Byte-level BPE tokenizers, stored as tokenizer.json, which the `tokenizers` package reads too."
    return dispatch(
        name, argv, summary, commands, "start with `tempa tokenizer train corpus.txt --out tokenizer`."
    )


@dataclass(frozen=True)
class EncodeConfig:
    """What to encode."""

    tokenizer: _Place
    text: _Words = ()
    """The text; standard input if not given."""
    special: bool = False
    """Recognise special tokens such as <|endoftext|> in the text."""


def _encode(argv: list[str]) -> int:
    settings = config.parse(
        EncodeConfig,
        argv,
        prog="tempa tokenizer encode",
        description="Print the ids of a text, separated by spaces.",
    )
    tokenizer = Tokenizer.load(settings.tokenizer)
    allowed = tokenizer.special_tokens if settings.special else ()
    print(*tokenizer.encode(_text(settings.text), allowed_special=allowed))
    return 0


@dataclass(frozen=True)
class DecodeConfig:
    """What to decode."""

    tokenizer: _Place
    ids: _Numbers = ()
    """The ids; standard input if not given."""


def _decode(argv: list[str]) -> int:
    settings = config.parse(
        DecodeConfig,
        argv,
        prog="tempa tokenizer decode",
        description="Write the text of ids, byte for byte.",
    )
    tokenizer = Tokenizer.load(settings.tokenizer)
    ids = settings.ids or tuple(_ids(sys.stdin.read()))
    sys.stdout.buffer.write(tokenizer.decode_bytes(ids))
    sys.stdout.buffer.flush()
    return 0


@dataclass(frozen=True)
class InspectConfig:
    """What to look at."""

    tokenizer: Annotated[_Place, tyro.conf.Positional]
    text: _Words = ()
    """The text to show token by token."""
    file: Path | None = None
    """A .txt, .jsonl or .parquet file to measure; its beginning is shown."""
    special: bool = False
    """Recognise special tokens in the text."""


# Of a file, so much is shown; all of it is measured.
_SHOWN_TOKENS = 400


def _inspect(argv: list[str]) -> int:
    settings = config.parse(
        InspectConfig,
        argv,
        prog="tempa tokenizer inspect",
        description="Show how a text is cut into tokens and how well the vocabulary fits it. "
        "In a terminal tokens are coloured; elsewhere each has a line with its id.",
    )
    tokenizer = Tokenizer.load(settings.tokenizer)
    texts = [" ".join(settings.text)] if settings.text else []
    if settings.file is not None:
        texts += [document.text for document in read_documents(settings.file)]
    if any(texts):
        allowed = tokenizer.special_tokens if settings.special else ()
        ids, _ = tokenizer.encode_batch(texts, allowed_special=allowed)
        print_tokens(tokenizer, ids[:_SHOWN_TOKENS].tolist())
        print("\n".join(_fit(texts, ids)))
    print("\n".join(_vocabulary(tokenizer)))
    return 0


def _fit(texts: list[str], ids: NDArray[np.uint32]) -> Iterator[str]:
    if len(ids) > _SHOWN_TOKENS:
        yield f"... and {len(ids) - _SHOWN_TOKENS:,} more tokens"
    num_bytes, num_chars = sum(len(text.encode()) for text in texts), sum(map(len, texts))
    yield f"\n{len(ids):,} tokens, {len(np.unique(ids)):,} of them different, for {num_bytes:,} bytes"
    yield f"{num_bytes / len(ids):.3f} bytes per token, {num_chars / len(ids):.3f} characters per token\n"


def _vocabulary(tokenizer: Tokenizer) -> Iterator[str]:
    specials = tokenizer.special_tokens
    yield f"{tokenizer!r}"
    yield f"special tokens: {', '.join(f'{name} {token}' for name, token in specials.items()) or 'none'}"
    ordinary = sorted(set(range(tokenizer.vocab_size)) - set(specials.values()))
    tokens = [tokenizer.token_bytes(token) for token in ordinary]
    lengths = [len(token) for token in tokens]
    yield f"{len(tokens):,} ordinary tokens, {sum(lengths) / len(tokens):.2f} bytes long on average:"
    for low, high in ((1, 1), (2, 3), (4, 7), (8, 15), (16, max(16, *lengths))):
        count = sum(low <= length <= high for length in lengths)
        name = f"{low}" if low == high else f"{low} to {high}"
        yield f"  {name:>9} bytes  {count:>7,}  {'#' * round(40 * count / len(tokens))}".rstrip()
    longest = sorted(tokens, key=len, reverse=True)[:5]
    yield f"longest: {', '.join(repr(token.decode(errors='replace')) for token in longest)}"


def _text(words: tuple[str, ...]) -> str:
    if words:
        return " ".join(words)
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input: not UTF-8 at byte {error.start}") from None


def _ids(text: str) -> Iterator[int]:
    for word in text.split():
        try:
            yield int(word)
        except ValueError:
            raise ValueError(f"standard input: {word!r} is not an id") from None
