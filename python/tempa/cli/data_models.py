"""`tempa data classify` and `tempa data perplexity`: models of documents, trained by the user."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tempa import config
from tempa.cli.documents import Files, Source, reading, report_of, show_report, some
from tempa.cli.group import dispatch
from tempa.cli.progress import WorkProgress
from tempa.data.classify import (
    Classifier,
    ClassifierSettings,
    classify,
    read_kinds,
    train_classifier,
    write_labelled,
)
from tempa.data.funnel import FunnelReport, total_bytes
from tempa.data.perplexity import (
    Measured,
    NgramModel,
    NgramSettings,
    check_range,
    keep_perplexity,
    train_ngram_model,
    write_measured,
)

# Of which the perplexities are shown: each third, and the ends.
_PERCENTILES = (1, 5, 10, 25, 33, 50, 67, 75, 90, 95, 99)


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig:
    """Settings of `tempa data classify train`."""

    files: Files
    """Documents of two kinds or more: a file or directory for each, or any with `--label`."""
    label: str | None = None
    """Key or column that holds the label; without it, the name of the file or directory is the label."""
    out: Path
    """The file that gets the classifier."""
    training: ClassifierSettings = field(default_factory=ClassifierSettings)
    """Features and training."""
    field: str = "text"
    """Key or column that holds the text in .jsonl and .parquet files."""
    overwrite: bool = False
    """Replace an earlier file."""


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(Source):
    """Settings of `tempa data classify apply`."""

    out: Path
    """The .jsonl file that gets the documents; the report goes beside it."""
    model: Path
    """A file that `tempa data classify train` has written."""
    keep: tuple[str, ...] = ()
    """Labels that are wanted; documents of others are dropped. All documents stay if none is given."""
    min_probability: float = 0.5
    """Least probability that a document is of one of the labels to keep."""
    overwrite: bool = False
    """Replace an earlier file."""


@dataclass(frozen=True, kw_only=True)
class TrainNgramsConfig(Source):
    """Settings of `tempa data perplexity train`."""

    out: Path
    """The file that gets the model."""
    training: NgramSettings = field(default_factory=NgramSettings)
    """Lengths, and what is left out."""
    overwrite: bool = False
    """Replace an earlier file."""


@dataclass(frozen=True, kw_only=True)
class PerplexityConfig(Source):
    """Settings of `tempa data perplexity apply`."""

    out: Path
    """The .jsonl file that gets the documents; the report goes beside it."""
    model: Path
    """A file that `tempa data perplexity train` has written."""
    min: float = 0.0
    """Documents of a lower perplexity are dropped."""
    max: float = math.inf
    """Documents of a higher perplexity are dropped; with a limit, those without words too."""
    overwrite: bool = False
    """Replace an earlier file."""

    def __post_init__(self) -> None:
        check_range(self.min, self.max)


def classifier(argv: list[str]) -> int:
    """Run `tempa data classify train|apply`."""
    commands = {
        "train": (_train_classifier, "from documents of two kinds or more"),
        "apply": (_apply_classifier, "label documents, and drop those of unwanted kinds"),
    }
    summary = "A linear classifier over hashed n-grams, with calibrated probabilities."
    hint = "start with `tempa data classify train good.jsonl crawl.jsonl --out MODEL`."
    return dispatch("data classify", argv, summary, commands, hint)


def _train_classifier(argv: list[str]) -> int:
    settings = config.parse(
        TrainClassifierConfig,
        argv,
        prog="tempa data classify train",
        description="Train and calibrate a classifier, and measure it on documents that it never saw.",
    )
    kinds = read_kinds(settings.files, label=settings.label, field=settings.field)
    total = settings.training.epochs * sum(map(total_bytes, kinds.values()))
    with WorkProgress() as progress:
        classifier, quality = train_classifier(
            kinds,
            settings.training,
            progress=lambda done: progress.show("train", done, total, "bytes"),
        )
    classifier.save(settings.out, overwrite=settings.overwrite)
    print(
        f"{settings.out}: {len(kinds)} labels, {', '.join(kinds)}\n"
        f"on {quality.num_documents:,} documents it never saw: accuracy {quality.accuracy:.4f}, "
        f"AUC {quality.auc:.4f}, calibration error {quality.calibration_error:.4f}, "
        f"log loss {quality.log_loss:.4f}"
    )
    return 0


def _apply_classifier(argv: list[str]) -> int:
    settings = config.parse(
        ClassifyConfig,
        argv,
        prog="tempa data classify apply",
        description="Write documents with their most probable label, those of the labels to keep only.",
    )
    classifier, report = Classifier(settings.model), FunnelReport()
    with reading(settings) as (documents, _):
        kept = classify(documents, classifier, settings.keep, settings.min_probability, report=report)
        write_labelled(settings.out, some(kept, report, settings.out), overwrite=settings.overwrite)
        report.save(report_of(settings.out))
    return show_report(report, f"{settings.out}, report in {report_of(settings.out)}")


def perplexity(argv: list[str]) -> int:
    """Run `tempa data perplexity train|apply`."""
    commands = {
        "train": (_train_ngrams, "from documents of the kind that is wanted"),
        "apply": (_measure, "measure documents, and drop those out of range"),
    }
    summary = "An n-gram language model of words: how surprising a document is to it."
    hint = "start with `tempa data perplexity train good.jsonl --out MODEL`."
    return dispatch("data perplexity", argv, summary, commands, hint)


def _train_ngrams(argv: list[str]) -> int:
    settings = config.parse(
        TrainNgramsConfig,
        argv,
        prog="tempa data perplexity train",
        description="Train an n-gram model, and show the perplexities of documents that it never saw.",
    )
    with reading(settings) as (documents, show):
        kept = list(documents)
        total = (settings.training.order + 1) * total_bytes(kept)
        model, held_out = train_ngram_model(
            kept, settings.training, progress=lambda done: show("train", done, total, "bytes")
        )
    model.save(settings.out, overwrite=settings.overwrite)
    print(f"{settings.out}: {model.num_ngrams:,} n-grams of up to {model.order} words")
    _show_percentiles(f"{len(held_out):,} documents it never saw", held_out)
    return 0


def _measure(argv: list[str]) -> int:
    settings = config.parse(
        PerplexityConfig,
        argv,
        prog="tempa data perplexity apply",
        description="Write documents with their perplexity, those in the range only.",
    )
    model, report = NgramModel(settings.model), FunnelReport()
    found: list[float] = []
    with reading(settings) as (documents, _):
        kept = keep_perplexity(
            documents, model, min_perplexity=settings.min, max_perplexity=settings.max, report=report
        )

        def counted() -> Iterator[Measured]:
            for one in kept:
                found.append(one.perplexity)
                yield one

        write_measured(settings.out, some(counted(), report, settings.out), overwrite=settings.overwrite)
        report.save(report_of(settings.out))
    _show_percentiles("the documents that stay", np.array(found))
    return show_report(report, f"{settings.out}, report in {report_of(settings.out)}")


def _show_percentiles(title: str, perplexities: NDArray[np.float64]) -> None:
    table = Table("percentile", "perplexity", box=None, title=title)
    for percentile in _PERCENTILES:
        value = np.quantile(perplexities, percentile / 100, method="lower")
        table.add_row(str(percentile), f"{value:,.1f}")
    Console().print(table)
