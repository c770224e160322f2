"""Perplexity of documents under an n-gram language model that is trained on text of the kind that is wanted.

The model is one of words with interpolated modified Kneser-Ney smoothing (Chen & Goodman, 1998), as in CCNet
(Wenzek et al., 2020). Prose like that of training has a low perplexity, lists, spam and broken text a high
one; very low ones are mostly boilerplate. Training gives the same model for any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.data.documents import Document, in_batches, write_records
from tempa.data.funnel import FunnelReport, Stage, utf8_bytes
from tempa.data.staging import staged_file


@dataclass(frozen=True)
class NgramSettings:
    """How an n-gram model is trained."""

    order: int = 3
    """Words in the longest n-gram, 1 to 6."""
    min_word_count: int = 2
    """Words that were seen fewer times are unknown ones."""
    min_ngram_count: int = 2
    """N-grams of three words and more that were seen fewer times are left out."""
    held_out: float = 0.05
    """Share that is not trained on but measured, chosen by the hash of the text."""

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 6:
            raise ValueError(f"order must be 1 to 6, got {self.order}")
        for name in ("min_word_count", "min_ngram_count"):
            if not 1 <= getattr(self, name) < 2**32:
                raise ValueError(f"{name} must be 1 to 2^32 - 1, got {getattr(self, name)}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out}")


def check_range(least: float, most: float) -> None:
    """Fail unless these are limits of perplexities.

    Raises:
        ValueError: If the least is negative or above the most.
    """
    if not 0 <= least <= most:
        raise ValueError(f"the least perplexity must be from 0 to the most, got {least} and {most}")


class NgramModel:
    """Says how surprising a text is; made by `train_ngram_model` or read from a file.

    Args:
        path: A file that `save` has written.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is truncated, altered or no such model.
    """

    def __init__(self, path: str | Path) -> None:
        self._core = _core.NgramModel(path)

    @property
    def order(self) -> int:
        """Words in its longest n-grams."""
        return self._core.order

    @property
    def num_ngrams(self) -> int:
        """N-grams of all lengths that it knows; each takes about 11 bytes."""
        return self._core.num_ngrams

    def perplexities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """`exp(-mean ln p(word | words before))` of each text; infinite for one without words."""
        return self._core.perplexities(texts)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model: hashes of n-grams, numbers and a checksum, no code and no text.

        Raises:
            FileExistsError: If the file exists and may not be replaced.
        """
        with staged_file(path, overwrite=overwrite) as file:
            file.write(self._core.encode())


def train_ngram_model(
    documents: Iterable[Document],
    settings: NgramSettings | None = None,
    *,
    progress: Callable[[int], object] | None = None,
) -> tuple[NgramModel, NDArray[np.float64]]:
    """Train a model on documents of the kind that is wanted.

    Args:
        documents: Held in memory; training takes about 10 times their size.
        settings: Lengths, and what is left out.
        progress: Called with the bytes done, counted once for each length of n-grams and once more.

    Returns:
        The model, and the perplexity of each document that was held out.

    Raises:
        ValueError: If there is no document to hold out, or none with words to train on.

    >>> pages = [Document(f"the river has {i % 9} bridges and {i} boats", "a") for i in range(400)]
    >>> model, held_out = train_ngram_model(pages)
    >>> like, unlike = model.perplexities(["The river has 3 bridges.", "bridges! has 3 river the"])
    >>> bool(5 * like < unlike)
    True
    """
    settings = NgramSettings() if settings is None else settings
    texts = [document.text for document in documents]
    is_held_out = _core.content_hashes(texts) / 2.0**64 < settings.held_out
    held_out = [text for text, is_out in zip(texts, is_held_out, strict=True) if is_out]
    if not held_out:
        raise ValueError(
            f"none of {len(texts)} documents is held out at a share of {settings.held_out:g}; "
            "give more documents or raise held_out"
        )
    core = _core.NgramModel.train(
        [text for text, is_out in zip(texts, is_held_out, strict=True) if not is_out],
        settings.order,
        settings.min_word_count,
        settings.min_ngram_count,
        progress,
    )
    model = NgramModel.__new__(NgramModel)
    model._core = core
    return model, model.perplexities(held_out)


@dataclass(frozen=True, slots=True)
class Measured:
    """A document with its perplexity.

    Attributes:
        document: The document as it was.
        perplexity: Infinite if it has no words.
    """

    document: Document
    perplexity: float


def keep_perplexity(
    documents: Iterable[Document],
    model: NgramModel,
    *,
    min_perplexity: float = 0.0,
    max_perplexity: float = math.inf,
    report: FunnelReport | None = None,
) -> Iterator[Measured]:
    """Measure documents, and drop those whose perplexity is out of range.

    Args:
        documents: Read once, a few megabytes at a time.
        model: Measures them.
        min_perplexity: Documents below are dropped.
        max_perplexity: Documents above are dropped; if it is finite, those without words too.
        report: Gets a stage named "perplexity" with the rules "min_perplexity" and "max_perplexity".

    Returns:
        The documents that stay, in their order; they are measured while they are taken.

    Raises:
        ValueError: If the least is negative or above the most.
    """
    check_range(min_perplexity, max_perplexity)
    # Before the first document is taken, so that the stages of a chain of calls stay in order.
    stage = (report or FunnelReport()).stage("perplexity")
    return _measured(documents, model, min_perplexity, max_perplexity, stage)


def _measured(
    documents: Iterable[Document], model: NgramModel, least: float, most: float, stage: Stage
) -> Iterator[Measured]:
    for batch in in_batches(documents):
        perplexities = model.perplexities([document.text for document in batch]).tolist()
        for document, perplexity in zip(batch, perplexities, strict=True):
            size = utf8_bytes(document.text)
            if least <= perplexity <= most:
                stage.keep(size)
                yield Measured(document, perplexity)
            else:
                rule, limit = ("min", least) if perplexity < least else ("max", most)
                reason = f"{perplexity:.1f}, the threshold is {limit:g}"
                stage.drop(f"{rule}_perplexity", document, size, reason)


def write_measured(path: str | Path, documents: Iterable[Measured], *, overwrite: bool = False) -> None:
    """Write documents as JSON lines with the fields `text`, `source` and `perplexity`, null if infinite.

    Raises:
        ValueError: If the name does not end in .jsonl.
        FileExistsError: If the file exists and may not be replaced.
    """
    records = (
        {
            "text": item.document.text,
            "source": item.document.source,
            "perplexity": round(item.perplexity, 3) if item.perplexity < math.inf else None,
        }
        for item in documents
    )
    write_records(path, records, overwrite=overwrite)
