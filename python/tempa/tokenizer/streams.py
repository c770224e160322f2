"""Tokenizers in parts: text from ids as they come."""

from __future__ import annotations

from tempa import _core
from tempa.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Text from ids as they come, for printing while a model generates.

    A character is handed out when its last byte has come: no piece has a U+FFFD that the whole text has not.

    >>> tokenizer = Tokenizer.train(["low lower lowest"], vocab_size=270)
    >>> stream = StreamDecoder(tokenizer)
    >>> [stream.push(token) for token in tokenizer.encode("é!")] + [stream.flush()]
    ['', 'é', '!', '']
    """

    __slots__ = ("_core",)

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False) -> None:
        self._core = _core.StreamDecoder(tokenizer._core, skip_special)

    def push(self, token_id: int) -> str:
        """The text that this id completes, which may be empty."""
        return self._core.push(token_id)

    def flush(self) -> str:
        """What is left at the end: U+FFFD if the last character is incomplete, else nothing."""
        return self._core.flush()
