"""Tokens in the terminal: coloured where colours show, one a line elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from tempa.cli.places import AnyTokenizer
from tempa.tokenizer import Ids

# Backgrounds that neighbours take in turn, readable on dark and on light terminals.
_TURNS = ("black on #a8d8ea", "black on #fcd5ce", "black on #d8e2dc", "black on #ffe5b4")
_SPECIAL = "bold black on #ffd60a"
_TRAINED = "black on #95d5b2"
_NOT_TRAINED = "dim"


def print_tokens(
    tokenizer: AnyTokenizer, ids: Ids, mask: Sequence[int] | None = None, *, by_line: bool = False
) -> None:
    """Print ids as the text they stand for.

    Args:
        tokenizer: Names the ids.
        ids: What to print.
        mask: 1 where a token is trained: green, the others dim. Without it neighbours differ in colour.
        by_line: Print a line with the id for each token, as outside of terminals.
    """
    console = Console()
    specials = set(tokenizer.special_tokens.values())
    if by_line or not console.is_terminal:
        for i, token in enumerate(ids):
            trained = "" if mask is None else f"{mask[i]}\t"
            print(f"{trained}{token}\t{_one(tokenizer.token_bytes(token))}")
        return
    text = Text()
    for i, (token, shown) in enumerate(zip(ids, _shown(tokenizer, ids), strict=True)):
        if mask is not None:
            style = _TRAINED if mask[i] else _SPECIAL if token in specials else _NOT_TRAINED
        else:
            style = _SPECIAL if token in specials else _TURNS[i % len(_TURNS)]
        text.append(shown, style)
    console.print(text)


def _shown(tokenizer: AnyTokenizer, ids: Ids) -> Iterator[str]:
    """The tokens as text; line ends are marked, and parts of a character are its bytes."""
    for token in ids:
        data = tokenizer.token_bytes(token)
        try:
            yield data.decode().replace("\r", "␍").replace("\n", "⏎\n")
        except UnicodeDecodeError:
            yield _one(data)


def _one(data: bytes) -> str:
    """Bytes on one line; what is not UTF-8 or not printable is escaped."""
    return "".join(map(_escape, data.decode(errors="surrogateescape")))


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    if char.isprintable() and char != "\\":
        return char
    return char.encode("unicode_escape").decode()
