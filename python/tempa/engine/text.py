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
        self._held = ""  # the longest end of the text that may be the start of a stop string
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
        text = self._held + piece
        found = [place for place in map(text.find, self._stops) if place >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        settled, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return settled


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
