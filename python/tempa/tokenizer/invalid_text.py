"""What is not text: lone surrogates in `str`, and `bytes` that are not UTF-8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

# Raise, replace by U+FFFD, or hand on the bytes.
Errors = Literal["strict", "replace", "bytes"]


def all_valid(texts: Sequence[str | bytes], errors: Errors) -> Sequence[str | bytes]:
    """`valid` of each text."""
    if errors == "strict" and not any(isinstance(text, bytes) for text in texts):
        return texts
    return [valid(text, errors) for text in texts]


def valid(text: str | bytes, errors: Errors) -> str | bytes:
    """The text as the core takes it: `bytes` that are not UTF-8 only where that is allowed."""
    if type(text) is str and errors == "strict":
        return text  # the core refuses what is not text
    if errors not in ("strict", "replace", "bytes"):
        raise ValueError(f"errors must be 'strict', 'replace' or 'bytes', got {errors!r}")
    if isinstance(text, bytes):
        if errors == "bytes":
            return text
        try:
            return text.decode(errors=errors)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"not UTF-8 at byte {error.start}: errors='replace' or errors='bytes' accepts it"
            ) from None
    if errors == "strict" or not isinstance(text, str) or _is_whole(text):
        return text
    if errors == "replace":  # halves that belong together become their character
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.encode("utf-8", "surrogatepass")


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
