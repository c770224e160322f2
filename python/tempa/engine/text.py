"""Text from tokens as they come, watching for stop strings."""

from __future__ import annotations

from collections.abc import Sequence

from tempa.tokenizer import StreamDecoder, Tokenizer


class StopWatch:
    r"""Hands out text that no stop string can claim any more.

    >>> tokenizer = Tokenizer.from_characters("abc.\n")
    >>> watch = StopWatch(tokenizer, [".\n"])
    >>> [watch.push(token) for token in tokenizer.encode("a.b.\nc")], watch.stopped
    (['a', '', '.b', '', '', ''], True)
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stops = stops
        # What a stop string may begin with before it is whole, the longest first.
        begins = {stop[:length] for stop in stops for length in range(1, len(stop))}
        self._begins = tuple(sorted(begins, key=lambda begin: (-len(begin), begin)))
        self._held = ""  # the longest end of the text that is one of them
        self.stopped = False

    def push(self, token: int) -> str:
        """Text that this token settles, which may be empty; always empty after a stop."""
        return "" if self.stopped else self._settle(self._decoder.push(token))

    def flush(self) -> str:
        """What is left when no more tokens come."""
        if self.stopped:
            return ""
        settled = self._settle(self._decoder.flush())
        rest, self._held = self._held, ""
        return settled + ("" if self.stopped else rest)

    def _settle(self, piece: str) -> str:
        if not self._stops:
            return piece
        text = self._held + piece
        found = [place for place in map(text.find, self._stops) if place >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        self._held = ""
        if text.endswith(self._begins):
            self._held = next(begin for begin in self._begins if text.endswith(begin))
        return text[: len(text) - len(self._held)]
