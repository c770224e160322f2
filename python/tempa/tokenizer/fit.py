"""How well a vocabulary fits texts: compression of each source, tokens nobody uses, the longest ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tempa.tokenizer.package import PackageTokenizer
from tempa.tokenizer.tokenizer import Tokenizer
from tempa.tokenizer.training import in_batches

# Tokens named in the printed table.
_NAMED_TOKENS = 8


@dataclass(frozen=True)
class SourceFit:
    """One source by a tokenizer.

    Attributes:
        num_bytes: Of its texts in UTF-8.
        counts: How often each id occurs, by id.
    """

    num_bytes: int
    counts: NDArray[np.int64]

    @property
    def num_tokens(self) -> int:
        """Number of ids of its texts."""
        return int(self.counts.sum())

    @property
    def num_used(self) -> int:
        """Number of different ids."""
        return int(np.count_nonzero(self.counts))

    @property
    def bytes_per_token(self) -> float:
        """Compression; 0 if there is no text."""
        return self.num_bytes / max(self.num_tokens, 1)


@dataclass(frozen=True)
class Fit:
    """What `measure_fit` found. Printing it shows a table.

    Attributes:
        tokenizer: Whose vocabulary it is.
        sources: Each source by its name.
    """

    tokenizer: Tokenizer | PackageTokenizer
    sources: Mapping[str, SourceFit]

    @property
    def total(self) -> SourceFit:
        """All sources together."""
        fits = self.sources.values()
        counts = sum((fit.counts for fit in fits), np.zeros(len(self.tokenizer), np.int64))
        return SourceFit(sum(fit.num_bytes for fit in fits), counts)

    def unused(self) -> list[int]:
        """Ordinary tokens that no source has, by id."""
        counts = self.total.counts
        return [token for token in self._ordinary if counts[token] == 0]

    def longest(self, count: int = _NAMED_TOKENS) -> list[int]:
        """The ordinary tokens of most bytes, longest first and then by id."""
        return sorted(self._ordinary, key=lambda token: -len(self._ordinary[token]))[:count]

    @cached_property
    def _ordinary(self) -> dict[int, bytes]:
        return ordinary_tokens(self.tokenizer)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        rows = [*self.sources.items()]
        if len(rows) > 1:
            rows.append(("all", self.total))
        width = max([6, *(len(name) for name, _ in rows)])
        yield f"{'source':<{width}}  {'bytes':>15}  {'tokens':>13}  {'bytes/token':>11}  {'ids used':>9}"
        for name, fit in rows:
            numbers = f"{fit.num_bytes:>15,}  {fit.num_tokens:>13,}  {fit.bytes_per_token:>11.3f}"
            yield f"{name:<{width}}  {numbers}  {fit.num_used:>9,}"
        unused = self.unused()
        examples = f": {self._named(unused[-_NAMED_TOKENS:])}" if unused else ""
        yield f"unused: {len(unused):,} of {len(self._ordinary):,} ordinary tokens{examples}"
        yield f"longest: {self._named(self.longest())}"

    def _named(self, tokens: list[int]) -> str:
        return ", ".join(repr(self._ordinary[token].decode(errors="replace")) for token in tokens)


def ordinary_tokens(tokenizer: Tokenizer | PackageTokenizer) -> dict[int, bytes]:
    """The bytes of each token by its id; special ones are left out, and ids without a token."""
    tokens, specials = {}, set(tokenizer.special_tokens.values())
    for token in range(len(tokenizer)):
        if token not in specials:
            try:
                tokens[token] = tokenizer.token_bytes(token)
            except ValueError:  # vocabularies may leave ids out
                continue
    return tokens


def measure_fit(
    tokenizer: Tokenizer | PackageTokenizer,
    texts_by_source: Mapping[str, Iterable[str]],
    *,
    num_threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Fit:
    """Encode texts and count what their tokens are.

    Args:
        tokenizer: Whose vocabulary is measured. No text becomes a special token.
        texts_by_source: The texts of each source, by a name for it; read once and not kept.
        num_threads: Threads that encode, one for each processor when None. The result is the same.
        progress: Called with the number of bytes done.

    >>> tokenizer = Tokenizer.train(["low lower lowest " * 9], vocab_size=270)
    >>> fit = measure_fit(tokenizer, {"known": ["low lower"], "new": ["news"]})
    >>> [round(source.bytes_per_token, 2) for source in fit.sources.values()]
    [4.5, 1.0]
    """
    sources, done = {}, 0
    for name, texts in texts_by_source.items():
        num_bytes, counts = 0, np.zeros(len(tokenizer), np.int64)
        for batch in in_batches(texts):
            ids, _ = tokenizer.encode_batch(batch, num_threads)
            counts += np.bincount(ids, minlength=len(counts))
            batch_bytes = sum(len(text.encode()) for text in batch)
            num_bytes, done = num_bytes + batch_bytes, done + batch_bytes
            if progress:
                progress(done)
        sources[name] = SourceFit(num_bytes, counts)
    return Fit(tokenizer, sources)
