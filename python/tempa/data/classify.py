"""A trained classifier of documents: good or not, which language, whatever labels the user's documents have.

A linear model over hashed n-grams, in the manner of fastText (Joulin et al., 2017), whose probabilities are
calibrated. Training gives the same model for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.data.documents import Document, in_batches, read_documents, write_records
from tempa.data.funnel import FunnelReport, Stage, utf8_bytes
from tempa.data.staging import staged_file

RULE = "min_probability"


@dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier is trained."""

    bits: int = 20
    """N-grams fall to 2^bits buckets, of 4 bytes in the file; of more labels than two, each has its own."""
    word_ngram: int = 2
    """Words in the longest n-gram of words."""
    char_ngram: int = 0
    """Characters in an n-gram of characters; 0 for none."""
    max_bytes: int = 0
    """Bytes in the middle of a document that are looked at, 0 for all. A language needs about 2000."""
    epochs: int = 5
    """Times each document is seen."""
    learning_rate: float = 0.1
    """Size of the first step of each weight (AdaGrad)."""
    held_out: float = 0.2
    """Share that is not trained on, chosen by the hash of the text: half calibrates, half measures."""
    seed: int = 0
    """Draws the order of the documents."""

    def __post_init__(self) -> None:
        for name, least, most in (("bits", 1, 28), ("word_ngram", 1, 8), ("char_ngram", 0, 32)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be {least} to {most}, got {getattr(self, name)}")
        if self.max_bytes < 0:
            raise ValueError(f"max_bytes must not be negative, got {self.max_bytes}")
        if self.epochs < 1:
            raise ValueError(f"epochs must be positive, got {self.epochs}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be 0 to 2^64 - 1, got {self.seed}")


@dataclass(frozen=True)
class Quality:
    """How good a classifier is on documents that neither training nor calibration saw.

    Attributes:
        num_documents: What it was measured on.
        accuracy: Share of documents whose label is the most probable one.
        auc: Probability that a document with a label is above one without, the mean over labels.
        calibration_error: Distance of the probability and the share of documents with a label, the mean over
            ten intervals and the labels.
        log_loss: Mean of minus the logarithm of the probability of the true label.
    """

    num_documents: int
    accuracy: float
    auc: float
    calibration_error: float
    log_loss: float


class Classifier:
    """Says how probable each label of a text is; made by `train_classifier` or read from a file.

    Args:
        path: A file that `save` has written.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is truncated, altered or no classifier.
    """

    def __init__(self, path: str | Path) -> None:
        self._core = _core.Classifier(path)

    @property
    def labels(self) -> list[str]:
        """The labels in the order of training."""
        return self._core.labels()

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """A row of probabilities for each text, as in the mixture that it was trained on."""
        return self._core.probabilities(texts).reshape(len(texts), -1)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the classifier: labels, numbers and a checksum, no code.

        Raises:
            FileExistsError: If the file exists and may not be replaced.
        """
        with staged_file(path, overwrite=overwrite) as file:
            file.write(self._core.encode())


def train_classifier(
    kinds: Mapping[str, Iterable[Document]],
    settings: ClassifierSettings | None = None,
    *,
    progress: Callable[[int], object] | None = None,
) -> tuple[Classifier, Quality]:
    """Train and calibrate a classifier.

    Args:
        kinds: The documents of each label, two labels or more; held in memory.
        settings: Features and training.
        progress: Called with the bytes done, counted once for each epoch.

    Returns:
        The classifier, and how good it is on documents that it never saw.

    Raises:
        ValueError: If a label is missing among the documents to train on, calibrate with or measure with.

    >>> good = [Document(f"the river has {i} bridges", "a") for i in range(200)]
    >>> bad = [Document(f"buy {i} now", "b") for i in range(200)]
    >>> classifier, quality = train_classifier({"good": good, "bad": bad})
    >>> quality.auc
    1.0
    """
    settings = ClassifierSettings() if settings is None else settings
    pairs = [(document.text, i) for i, kind in enumerate(kinds.values()) for document in kind]
    core, measures = _core.Classifier.train(
        [text for text, _ in pairs],
        [label for _, label in pairs],
        list(kinds),
        (settings.bits, settings.word_ngram, settings.char_ngram, settings.max_bytes),
        settings.epochs,
        settings.learning_rate,
        settings.held_out,
        settings.seed,
        progress,
    )
    classifier = Classifier.__new__(Classifier)
    classifier._core = core
    return classifier, Quality(*measures)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A document with its most probable label.

    Attributes:
        document: The document as it was.
        label: The most probable label; of the equally probable the first.
        probability: How probable it is.
    """

    document: Document
    label: str
    probability: float


def classify(
    documents: Iterable[Document],
    classifier: Classifier,
    keep: Sequence[str] = (),
    min_probability: float = 0.5,
    *,
    report: FunnelReport | None = None,
) -> Iterator[Labelled]:
    """Label documents, and drop those that are not of the labels that are wanted.

    Args:
        documents: Read once, a few megabytes at a time.
        classifier: Judges them.
        keep: The labels that are wanted; all if there are none.
        min_probability: Least probability that a document is of one of them, whichever it is.
        report: Gets a stage named "classify" with the rule "min_probability".

    Returns:
        The documents that stay, in their order; they are judged while they are taken.

    Raises:
        ValueError: If `min_probability` is not between 0 and 1 or the classifier lacks a label.
    """
    if not 0 <= min_probability <= 1:
        raise ValueError(f"min_probability must be between 0 and 1, got {min_probability}")
    labels = classifier.labels
    for label in keep:
        if label not in labels:
            raise ValueError(f"the classifier has no label {label!r}; it has {', '.join(labels)}")
    wanted = np.array([label in keep or not keep for label in labels])
    # Before the first document is taken, so that the stages of a chain of calls stay in order.
    return _labelled(
        documents, classifier, wanted, min_probability, (report or FunnelReport()).stage("classify")
    )


def _labelled(
    documents: Iterable[Document],
    classifier: Classifier,
    wanted: NDArray[np.bool_],
    least: float,
    stage: Stage,
) -> Iterator[Labelled]:
    labels = classifier.labels
    for batch in in_batches(documents):
        each = classifier.probabilities([document.text for document in batch])
        # A sum of all is 1 but for rounding.
        sums = each[:, wanted].sum(1) if not wanted.all() else np.ones(len(each))
        for document, row, probability in zip(batch, each, sums.tolist(), strict=True):
            size, best = utf8_bytes(document.text), int(row.argmax())
            if probability >= least:
                stage.keep(size)
                yield Labelled(document, labels[best], float(row[best]))
            else:
                reason = f"{probability:.4g}, the threshold is {least:g}; {labels[best]} has {row[best]:.4g}"
                stage.drop(RULE, document, size, reason)


def write_labelled(path: str | Path, documents: Iterable[Labelled], *, overwrite: bool = False) -> None:
    """Write documents as JSON lines with the fields `text`, `source`, `label` and `probability`.

    Raises:
        ValueError: If the name does not end in .jsonl.
        FileExistsError: If the file exists and may not be replaced.
    """
    records = (
        {
            "text": item.document.text,
            "source": item.document.source,
            "label": item.label,
            "probability": round(item.probability, 6),
        }
        for item in documents
    )
    write_records(path, records, overwrite=overwrite)


def read_kinds(
    files: Sequence[str | Path], *, label: str | None = None, field: str = "text"
) -> dict[str, list[Document]]:
    """The documents of each label.

    Args:
        files: Files or directories of documents.
        label: Field of the records that holds the label. If not given, the name of each path is the label of
            what it holds: "good" of `good.jsonl.gz` and of the directory `good/`.
        field: Field of the records that holds the text.

    Raises:
        ValueError: If the files have no such field.
    """
    kinds: dict[str, list[Document]] = {}
    if label is None:
        for file in files:
            kinds.setdefault(Path(file).name.partition(".")[0], []).extend(read_documents(file, field=field))
        return kinds
    names = (document.text for document in read_documents(files, field=label))
    for name, document in zip(names, read_documents(files, field=field), strict=True):
        kinds.setdefault(name, []).append(document)
    return dict(sorted(kinds.items()))
