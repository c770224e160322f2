"""Duplicates: documents that are equal, or nearly so, to another.

Which ones are dropped does not depend on the number of threads; with `keep="longest"` or a score, it does not
depend on the order of the documents either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.data.documents import Document
from tempa.data.funnel import FunnelReport, Stage, utf8_bytes
from tempa.data.staging import staged_file


@dataclass(frozen=True)
class Duplicates:
    """What counts as a duplicate and how near ones are looked for.

    Near duplicates share at least `threshold` of their shingles (Jaccard similarity); a shingle is `ngram`
    units in a row. Candidates come from signatures of `bands * rows` entries: a pair of similarity s is found
    with the probability 1 - (1 - s^rows)^bands, then compared exactly.
    """

    against: tuple[Path, ...] = ()
    """Index files of published documents: drop what is similar to one of them, by signatures alone."""
    urls: bool = False
    """Drop documents whose source is the URL of one that came before."""
    exact: bool = True
    """Drop texts that are equal but for case and white space."""
    near: bool = True
    """Drop texts that are similar."""
    keep: Literal["first", "longest"] = "first"
    """Which of several near duplicates is kept."""
    threshold: float = 0.8
    """Smallest similarity of near duplicates."""
    unit: Literal["words", "runs", "characters"] = "words"
    """Words (characters in scripts without spaces), runs between white space, or characters."""
    ngram: int = 5
    """Units in a shingle."""
    num_hashes: int = 128
    """Most entries of a signature; bands and rows that are not given are chosen for the threshold."""
    bands: int | None = None
    """More bands find more pairs."""
    rows: int | None = None
    """More rows look at fewer pairs below the threshold."""
    verify: bool = True
    """Compare candidates exactly instead of trusting their signatures."""
    seed: int = 0
    """Chooses the hash functions."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {self.threshold}")
        for name, most in (("ngram", 1024), ("num_hashes", 4096), ("bands", 4096), ("rows", 4096)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"{name} must be 1 to {most}, got {value}")
        if (self.bands is None) != (self.rows is None):
            raise ValueError("give both bands and rows, or neither")
        if self.bands and self.rows and self.bands * self.rows > 4096:
            raise ValueError(f"bands * rows must be at most 4096, got {self.bands * self.rows}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be 0 to 2^64 - 1, got {self.seed}")

    def layout(self) -> tuple[int, int]:
        """Bands and rows: those given, or those with the smallest error for the threshold.

        >>> Duplicates(threshold=0.8).layout()
        (16, 8)
        """
        if self.bands is None or self.rows is None:
            return _core.choose_bands(self.threshold, self.num_hashes)
        return self.bands, self.rows

    def options(self) -> tuple[float, str, int, int, int, int, bool]:
        """What the core needs."""
        bands, rows = self.layout()
        return self.threshold, self.unit, self.ngram, bands, rows, self.seed, self.verify


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
    score: Callable[[Document], float] | None = None,
    report: FunnelReport | None = None,
    progress: Callable[[str, int], object] | None = None,
) -> list[Document]:
    """Drop what is published and copies of a URL if asked for, then exact, then near duplicates.

    Args:
        documents: Held in memory while they are compared.
        settings: What counts as a duplicate.
        score: The near duplicate with the greatest score is kept, whatever `settings.keep` says.
        report: Gets a stage named "dedup" with the rules "known", "url", "exact" and "near".
        progress: Called with ("known", "exact" or "near", bytes done).

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
    for path in settings.against:
        index = _core.SignatureIndex(path)
        texts = [document.text for document in kept]
        found = index.find(texts, settings.threshold, lambda done: call("known", done))
        kept = _without_known(kept, found, index, path, stage)
    if settings.urls:
        places: dict[str, int] = {}
        urls = _core.canonical_urls([document.source for document in kept])
        first = np.array([places.setdefault(url, i) for i, url in enumerate(urls)], np.int64)
        kept = _without_duplicates("url", kept, first, stage)
    if settings.exact:
        texts = [document.text for document in kept]
        first = _core.exact_duplicates(texts, "folded", lambda done: call("exact", done))
        kept = _without_duplicates("exact", kept, first, stage)
    if settings.near:
        texts = [document.text for document in kept]
        scores = np.array([score(document) for document in kept], np.float64) if score else None
        first, _ = _core.near_duplicates(
            texts, settings.options(), settings.keep, scores, lambda done: call("near", done)
        )
        kept = _without_duplicates("near", kept, first, stage)
    for document in kept:
        stage.keep(utf8_bytes(document.text))
    return kept


def write_index(
    documents: Iterable[Document],
    path: str | Path,
    settings: Duplicates | None = None,
    *,
    overwrite: bool = False,
) -> int:
    """Write the signatures and sources of published documents, for `Duplicates.against` of later ones.

    Each crawl gets a file of its own: those before stay as they are, and all of them are given.

    Args:
        documents: Held in memory while they are signed.
        path: The file; it appears complete or not at all.
        settings: Unit, n-gram, bands, rows and seed, which later crawls take from the file.
        overwrite: Replace an earlier file.

    Returns:
        Bytes of the file.

    Raises:
        FileExistsError: If the file exists and may not be replaced.
    """
    settings = Duplicates() if settings is None else settings
    kept = list(documents)
    with staged_file(path, overwrite=overwrite) as file:
        texts, names = [document.text for document in kept], [document.source for document in kept]
        return file.write(_core.encode_index(texts, names, settings.options()))


def _without_known(
    documents: list[Document],
    found: NDArray[np.int64],
    index: _core.SignatureIndex,
    path: Path,
    stage: Stage,
) -> list[Document]:
    for i in np.flatnonzero(found >= 0):
        document, name = documents[i], index.name(int(found[i]))
        stage.drop("known", document, utf8_bytes(document.text), f"duplicate of {name} in {path}")
    return [document for document, place in zip(documents, found, strict=True) if place < 0]


def _without_duplicates(
    rule: str, documents: list[Document], first: NDArray[np.int64], stage: Stage
) -> list[Document]:
    is_kept = first == np.arange(len(documents))
    for i in np.flatnonzero(~is_kept):
        document, original = documents[i], documents[first[i]]
        stage.drop(rule, document, utf8_bytes(document.text), f"duplicate of {original.source}")
    return [document for document, keep in zip(documents, is_kept, strict=True) if keep]
