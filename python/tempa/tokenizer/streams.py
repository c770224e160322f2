"""Text from ids as they come, and ids from text as it comes."""

from __future__ import annotations

from tempa import _core
from tempa.tokenizer.options import Specials, checked_options
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


class StreamEncoder:
    """Ids from text as it comes: those of all pieces together are those of the whole text.

    Ids are handed out when no further text can change them, at the latest at the next space after a word.
    Where a file cuts by a regular expression of its own, nothing is known before the end.

    >>> tokenizer = Tokenizer.train(["low lower lowest " * 9], vocab_size=270)
    >>> stream = StreamEncoder(tokenizer)
    >>> ids = stream.push("low low") + stream.push("er lowe") + stream.finish()
    >>> tokenizer.decode(ids)
    'low lower lowe'
    """

    __slots__ = ("_core",)

    def __init__(self, tokenizer: Tokenizer, *, allowed_special: Specials = ()) -> None:
        options = checked_options(tokenizer.special_tokens, allowed_special)
        self._core = _core.StreamEncoder(tokenizer._core, options)

    def push(self, text: str) -> list[int]:
        """The ids that can no longer change."""
        return self._core.push(text)

    def finish(self) -> list[int]:
        """The ids of what is left. The next push begins another text."""
        return self._core.finish()

    @property
    def num_pending(self) -> int:
        """Bytes of text that wait for what follows."""
        return self._core.num_pending
