"""Duplicates: documents that are equal, or nearly so, to one that came before.

The first document in the given order is kept. Which ones are dropped does not depend on the number of
threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.data.documents import Document
from tempa.data.funnel import FunnelReport, Stage, utf8_bytes


@dataclass(frozen=True)
class Duplicates:
    """What counts as a duplicate and how near ones are looked for.

    Near duplicates share at least `threshold` of their shingles (Jaccard similarity); a shingle is `ngram`
    words in a row, case and punctuation apart. Candidates come from MinHash signatures of `bands * rows`
    entries: a pair of similarity s is found with probability 1 - (1 - s^rows)^bands, then compared exactly.
    """

    exact: bool = True
    """Drop texts that are equal but for case and white space."""
    near: bool = True
    """Drop texts that are similar."""
    threshold: float = 0.8
    """Smallest similarity of near duplicates."""
    ngram: int = 5
    """Words in a shingle; characters in scripts without spaces."""
    bands: int = 16
    """More bands find more pairs."""
    rows: int = 8
    """More rows look at fewer pairs below the threshold."""
    seed: int = 0
    """Chooses the hash functions."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {self.threshold}")
        for name in ("ngram", "bands", "rows"):
            if not 1 <= getattr(self, name) <= 1024:
                raise ValueError(f"{name} must be 1 to 1024, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be 0 to 2^64 - 1, got {self.seed}")


def collision_probability(similarity: float, *, bands: int = 16, rows: int = 8) -> float:
    """The S-curve: the probability that a pair of this similarity is looked at.

    >>> [round(collision_probability(s), 3) for s in (0.5, 0.7, 0.8, 0.9)]
    [0.061, 0.613, 0.947, 1.0]
    """
    return _core.collision_probability(similarity, bands, rows)


def dedup(
    documents: Iterable[Document],
    settings: Duplicates | None = None,
    *,
    report: FunnelReport | None = None,
    progress: Callable[[str, int], object] | None = None,
) -> list[Document]:
    """Drop exact, then near duplicates.

    Args:
        documents: Held in memory while they are compared.
        settings: What counts as a duplicate.
        report: Gets a stage named "dedup" with the rules "exact" and "near".
        progress: Called with ("exact" or "near", bytes done).

    Returns:
        The documents that are kept, in their order.

    >>> texts = ["One  fish", "two fish", "one fish"]
    >>> [document.text for document in dedup(Document(text, "here") for text in texts)]
    ['One  fish', 'two fish']
    """
    settings = Duplicates() if settings is None else settings
    stage = (report or FunnelReport()).stage("dedup")
    kept = list(documents)
    call = progress or (lambda _what, _done: None)
    if settings.exact:
        texts = [document.text for document in kept]
        first = _core.exact_duplicates(texts, lambda done: call("exact", done))
        kept = _without_duplicates("exact", kept, first, stage)
    if settings.near:
        texts = [document.text for document in kept]
        options = (settings.threshold, settings.ngram, settings.bands, settings.rows, settings.seed)
        first = _core.near_duplicates(texts, options, lambda done: call("near", done))
        kept = _without_duplicates("near", kept, first, stage)
    for document in kept:
        stage.keep(utf8_bytes(document.text))
    return kept


def _without_duplicates(
    rule: str, documents: list[Document], first: NDArray[np.int64], stage: Stage
) -> list[Document]:
    is_kept = first == np.arange(len(documents))
    for i in np.flatnonzero(~is_kept):
        document, original = documents[i], documents[first[i]]
        stage.drop(rule, document, utf8_bytes(document.text), f"duplicate of {original.source}")
    return [document for document, keep in zip(documents, is_kept, strict=True) if keep]
