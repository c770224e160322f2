"""`tempa tokenizer`: train, encode, decode, inspect; compare and export are beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tempa import config
from tempa.cli.compare import compare, export
from tempa.cli.group import dispatch
from tempa.cli.places import AnyTokenizer, read_tokenizer
from tempa.cli.tokenizer_train import measure_files, train
from tempa.cli.tokens import print_tokens
from tempa.tokenizer import Tokenizer
from tempa.tokenizer.fit import ordinary_tokens

_Words = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT ...")]
_Numbers = Annotated[tuple[int, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ID ...")]
_Place = Annotated[
    Path,
    tyro.conf.arg(
        metavar="DIR",
        help="Directory with a tokenizer.json, such as a model's, or a .json, .model or .tiktoken file.",
    ),
]


def main(name: str, argv: list[str]) -> int:
    """Run one subcommand."""
    commands = {
        "train": (train, "learn a byte-level BPE vocabulary from documents"),
        "encode": (_encode, "text to ids"),
        "decode": (_decode, "ids to text"),
        "inspect": (_inspect, "a text with its tokens coloured, and what the vocabulary holds"),
        "compare": (compare, "tokens and speed of several tokenizers on a file"),
        "export": (export, "write a tokenizer in the format of another package"),
    }
    summary = (
        "Tokenizers, stored as tokenizer.json, which the `tokenizers` package reads too. Reads what models "
        "come with: a directory with a tokenizer.json, such a file, a sentencepiece .model, or ranks such as "
        "cl100k_base.tiktoken."
    )
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
    template: bool = False
    """Put the tokens of the file's template around the text, such as <s>."""


def _encode(argv: list[str]) -> int:
    settings = config.parse(
        EncodeConfig,
        argv,
        prog="tempa tokenizer encode",
        description="Print the ids of a text, separated by spaces.",
    )
    tokenizer = read_tokenizer(settings.tokenizer)
    allowed = tokenizer.special_tokens if settings.special else ()
    text = _text(settings.text)
    print(*tokenizer.encode(text, allowed_special=allowed, add_special_tokens=settings.template))
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
    tokenizer = read_tokenizer(settings.tokenizer)
    ids = settings.ids or tuple(_ids(sys.stdin.read()))
    if isinstance(tokenizer, Tokenizer):
        sys.stdout.buffer.write(tokenizer.decode_bytes(ids))
    else:
        sys.stdout.buffer.write(tokenizer.decode(ids).encode())
    sys.stdout.buffer.flush()
    return 0


@dataclass(frozen=True)
class InspectConfig:
    """What to look at."""

    tokenizer: Annotated[_Place, tyro.conf.Positional]
    text: _Words = ()
    """The text to show token by token."""
    on: tuple[Path, ...] = ()
    """.txt, .jsonl or .parquet files, or directories of them: bytes per token of each, unused tokens."""
    field: str = "text"
    """Key or column that holds the text in .jsonl and .parquet files."""
    ids: bool = False
    """Show each token on a line of its own with its id, in a terminal too."""
    special: bool = False
    """Recognise special tokens in the text."""


# Some models have hundreds of reserved special tokens.
_SHOWN_NAMES = 20


def _inspect(argv: list[str]) -> int:
    settings = config.parse(
        InspectConfig,
        argv,
        prog="tempa tokenizer inspect",
        description="Show how a text is cut into tokens, what the vocabulary holds, and how well it fits "
        "files. In a terminal tokens are coloured; elsewhere each has a line with its id.",
    )
    tokenizer = read_tokenizer(settings.tokenizer)
    if text := " ".join(settings.text):
        ids = tokenizer.encode(text, allowed_special=tokenizer.special_tokens if settings.special else ())
        print_tokens(tokenizer, ids, by_line=settings.ids)
        print("\n".join(_counts(text, ids)))
    print("\n".join(_vocabulary(tokenizer)))
    if settings.on:
        print(f"\n{measure_files(tokenizer, settings.on, settings.field)}")
    return 0


def _counts(text: str, ids: list[int]) -> Iterator[str]:
    num_tokens, num_bytes = len(ids), len(text.encode())
    yield f"\n{num_tokens:,} tokens, {len(set(ids)):,} of them different, for {num_bytes:,} bytes"
    if ids:
        bytes_each, chars_each = num_bytes / num_tokens, len(text) / num_tokens
        yield f"{bytes_each:.3f} bytes per token, {chars_each:.3f} characters per token\n"


def _vocabulary(tokenizer: AnyTokenizer) -> Iterator[str]:
    specials = tokenizer.special_tokens
    plain = tokenizer.plain_tokens if isinstance(tokenizer, Tokenizer) else {}
    yield f"{tokenizer!r}"
    for kind, named in (("special", specials), ("plain added", plain)):
        shown = [f"{name!r} {token}" for name, token in list(named.items())[:_SHOWN_NAMES]]
        more = f" and {len(named) - _SHOWN_NAMES:,} more" if len(named) > _SHOWN_NAMES else ""
        yield f"{kind} tokens: {', '.join(shown) or 'none'}{more}"
    known = ordinary_tokens(tokenizer)
    tokens = [token for number, token in known.items() if number not in plain.values()]
    if (num_free := tokenizer.vocab_size - len(known) - len(specials)) > 0:
        yield f"{num_free:,} ids without a token"
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
