"""`tempa data`: from documents to shards; the commands that read shards are in `data_shards`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from tempa import config
from tempa.cli import data_shards
from tempa.cli.group import dispatch
from tempa.cli.places import read_bpe
from tempa.cli.progress import WorkProgress
from tempa.data.classify import (
    Classifier,
    ClassifierSettings,
    classify,
    read_kinds,
    train_classifier,
    write_labelled,
)
from tempa.data.corpus import FUNNEL, FUNNEL_PAGE, BuildConfig, build_corpus
from tempa.data.decontaminate import Contamination, ContaminationReport, EvalSet, decontaminate
from tempa.data.documents import Document, corpus_files, read_documents, write_documents
from tempa.data.duplicates import Duplicates, collision_probability, dedup, write_index
from tempa.data.funnel import FunnelReport, total_bytes
from tempa.data.pii import Kind, mask_pii
from tempa.data.repair import repair
from tempa.data.rules import Edits, Rules, clean
from tempa.data.shards import write_shards
from tempa.data.unwanted import Unwanted, drop_unwanted

# Everything was done that could be, but not all input could be read.
EXIT_PROBLEMS = 3

_Files = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")]
_T = TypeVar("_T")


def main(name: str, argv: list[str]) -> int:
    """Run one subcommand."""
    commands = {
        "clean": (_clean, "one spelling, and quality rules that drop documents"),
        "dedup": (_dedup, "drop exact and near duplicates"),
        "decontaminate": (_decontaminate, "keep evaluation sets out"),
        "classify": (_classify, "train a classifier of documents, or apply one"),
        "curve": (_curve, "how often pairs of each similarity are found"),
        "build": (_build, "clean, dedup, split, tokenise: everything that pretraining reads"),
        "encode": (_encode, "documents as they are to shards of ids"),
        "inspect": (data_shards.inspect, "what shards hold, whether they are intact, and documents decoded"),
        "sample": (data_shards.sample, "documents at random, of shards or files"),
        "stats": (data_shards.stats, "documents, tokens, bytes and lengths, of shards or files"),
        "merge": (data_shards.merge, "several shard directories as one"),
        "mixture": (data_shards.mixture, "what a run reads of each source of a mixture"),
    }
    summary = "Documents (.txt, .jsonl, .parquet) to a corpus, with a report of what was dropped and why."
    return dispatch(name, argv, summary, commands, "start with `tempa data clean FILE ... --out kept.jsonl`.")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which documents to read."""

    files: _Files
    """.txt, .jsonl or .parquet files, or directories of them; .txt and .jsonl also as .gz or .zst."""
    field: str = "text"
    """Key or column that holds the text in .jsonl and .parquet files."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: stop, or put U+FFFD in their place."""


@dataclass(frozen=True, kw_only=True)
class CleanConfig(Source):
    """Settings of `tempa data clean`."""

    out: Path
    """The .jsonl file that gets the documents; the report goes beside it."""
    rules: Rules = field(default_factory=Rules)
    """Thresholds; `--rules.min-words 0` or `--rules.max-words inf` switches a rule off."""
    repair: bool = False
    """Decode entities that were left over, and UTF-8 that was read as Windows-1252 or Latin-1."""
    edits: Edits = field(default_factory=Edits)
    """Lines to take out before, such as `--edits.javascript-lines`."""
    unwanted: Unwanted = field(default_factory=Unwanted)
    """Your lists of phrases, domains and URLs, such as `--unwanted.phrases words.txt`."""
    mask: tuple[Kind, ...] = ()
    """Personal data to replace by placeholders."""
    overwrite: bool = False
    """Replace an earlier file."""


@dataclass(frozen=True, kw_only=True)
class DedupConfig(Source):
    """Settings of `tempa data dedup`."""

    out: Path
    """The .jsonl file that gets the documents; the report goes beside it."""
    duplicates: Duplicates = field(default_factory=Duplicates)
    """What counts as a duplicate."""
    index: Path | None = None
    """A file for the signatures of the documents that are kept, for `--duplicates.against` later."""
    overwrite: bool = False
    """Replace an earlier file."""


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig(Source):
    """Settings of `tempa data decontaminate`."""

    out: Path
    """The .jsonl file that gets the documents; the reports go beside it."""
    against: tuple[str, ...]
    """Evaluation sets: `FILE`, whose items are question and answer, or `FILE:FIELD,FIELD`."""
    contamination: Contamination = field(default_factory=Contamination)
    """What counts as contamination, and what is done about it."""
    overwrite: bool = False
    """Replace an earlier file."""


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig:
    """Settings of `tempa data classify train`."""

    files: _Files
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
class CurveConfig:
    """Settings of `tempa data curve`."""

    duplicates: Duplicates = field(default_factory=Duplicates)
    """What counts as a duplicate."""


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(Source):
    """Settings of `tempa data encode`."""

    out: Path
    """The directory that gets the shards."""
    tokenizer: Path
    """Directory with a tokenizer.json, such a file, a sentencepiece .model or a .tiktoken file."""
    end_token: str | None = None
    """Special token that ends each document; <|endoftext|> if the tokenizer has it and none is given."""
    max_shard_tokens: int = 1 << 27
    """A file is closed at the first document that reaches this many ids."""
    num_threads: int | None = None
    """Threads that encode; one for each processor if not given. The files are the same."""
    overwrite: bool = False
    """Replace earlier shards."""


def _clean(argv: list[str]) -> int:
    settings = config.parse(
        CleanConfig,
        argv,
        prog="tempa data clean",
        description="Normalise documents and drop those that a quality rule rejects.",
    )
    report = FunnelReport()
    with _reading(settings) as (documents, _):
        kept = repair(documents, report=report) if settings.repair else documents
        kept = clean(kept, settings.rules, edits=settings.edits, report=report)
        kept = drop_unwanted(kept, settings.unwanted, report=report)
        if settings.mask:
            kept = mask_pii(kept, settings.mask, report=report)
        _write(settings.out, kept, report, overwrite=settings.overwrite)
    return _show(report, f"{settings.out}, report in {_report_of(settings.out)}")


def _dedup(argv: list[str]) -> int:
    settings = config.parse(
        DedupConfig,
        argv,
        prog="tempa data dedup",
        description="Drop documents that are equal, or nearly so, to one that came before.",
    )
    report = FunnelReport()
    with _reading(settings) as (documents, show):

        def kept() -> Iterator[Document]:
            texts = list(documents)
            size = total_bytes(texts)
            left = dedup(
                texts,
                settings.duplicates,
                report=report,
                progress=lambda what, done: show(what, done, size, "bytes"),
            )
            if settings.index:
                write_index(left, settings.index, settings.duplicates, overwrite=settings.overwrite)
            yield from left

        _write(settings.out, kept(), report, overwrite=settings.overwrite)
    return _show(report, f"{settings.out}, report in {_report_of(settings.out)}")


def _decontaminate(argv: list[str]) -> int:
    settings = config.parse(
        DecontaminateConfig,
        argv,
        prog="tempa data decontaminate",
        description="Drop documents that have items of evaluation sets, or cut the items out.",
    )
    tasks = [EvalSet.named(name) for name in settings.against]
    report, found = FunnelReport(), ContaminationReport()
    with _reading(settings) as (documents, _):
        kept = decontaminate(documents, tasks, settings.contamination, found=found, report=report)
        _write(settings.out, kept, report, overwrite=settings.overwrite)
    items = settings.out.with_suffix(".contamination.json")
    found.save(items)
    Console().print(found.table())
    return _show(report, f"{settings.out}, reports in {_report_of(settings.out)} and {items}")


def _classify(argv: list[str]) -> int:
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
    with _reading(settings) as (documents, _):
        kept = classify(documents, classifier, settings.keep, settings.min_probability, report=report)
        write_labelled(settings.out, _some(kept, report, settings.out), overwrite=settings.overwrite)
        report.save(_report_of(settings.out))
    return _show(report, f"{settings.out}, report in {_report_of(settings.out)}")


def _curve(argv: list[str]) -> int:
    settings = config.parse(
        CurveConfig,
        argv,
        prog="tempa data curve",
        description="Print the S-curve: the probability that a pair of each similarity is looked at.",
    )
    bands, rows = settings.duplicates.layout()
    table = Table("similarity", "found", box=None, title=f"{bands} bands of {rows} rows")
    for step in range(1, 21):
        found = collision_probability(step / 20, bands=bands, rows=rows)
        table.add_row(f"{step / 20:.2f}", f"{found:.4f}")
    Console().print(table)
    return 0


def _build(argv: list[str]) -> int:
    settings = config.parse(
        BuildConfig,
        argv,
        prog="tempa data build",
        description="Clean documents, drop duplicates, hold some out, and tokenise them into shards, in one "
        "pass. Settings may stand in a file: `tempa data build corpus.toml`. A build that was interrupted "
        f"goes on when it is started again. Exit code {EXIT_PROBLEMS}: some input could not be read.",
    )
    tokenizer = read_bpe(settings.tokenizer)
    with WorkProgress() as progress:
        corpus = build_corpus(settings, tokenizer, progress=progress.show)
    report = corpus.report
    lines = [
        f"{name}: {counts['documents']:,} documents, {counts['tokens']:,} tokens, "
        f"{counts['bytes'] / max(counts['tokens'], 1):.2f} bytes a token"
        for name, counts in report.splits.items()
    ]
    page = settings.out / FUNNEL_PAGE
    _show(report, *lines, f"{settings.out}, report in {page}; sha256 {corpus.sha256[:16]}")
    if not corpus.num_problems:
        return 0
    for problem in report.details.problems[:10]:
        print(f"{problem['file']}, byte {problem['offset']:,}: {problem['reason']}", file=sys.stderr)
    print(
        f"{corpus.num_problems:,} documents or files could not be read; the rest is in the corpus. "
        f"More in {settings.out / FUNNEL}",
        file=sys.stderr,
    )
    return EXIT_PROBLEMS


def _encode(argv: list[str]) -> int:
    settings = config.parse(
        EncodeConfig,
        argv,
        prog="tempa data encode",
        description="Write the ids of documents to shards, in one pass and without keeping either.",
    )
    tokenizer = read_bpe(settings.tokenizer)
    with _reading(settings) as (documents, _):
        shards = write_shards(
            settings.out,
            (document.text for document in documents),
            tokenizer,
            end_token=settings.end_token,
            max_shard_tokens=settings.max_shard_tokens,
            num_threads=settings.num_threads,
            overwrite=settings.overwrite,
        )
    print(f"{settings.out}: {shards.num_documents:,} documents, {shards.num_tokens:,} tokens")
    return 0


Show = Callable[[str, int, int, str], None]


@contextmanager
def _reading(source: Source) -> Iterator[tuple[Iterator[Document], Show]]:
    """The documents, and a way to show work, while a progress bar shows how much has been read."""
    total = sum(file.stat().st_size for file in corpus_files(source.files))
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress.show("read", done, total, "bytes")

    with WorkProgress() as progress:
        documents = read_documents(source.files, field=source.field, errors=source.errors, progress=count)
        yield documents, progress.show


def _write(out: Path, documents: Iterator[Document], report: FunnelReport, *, overwrite: bool) -> None:
    write_documents(out, _some(documents, report, out), overwrite=overwrite)
    report.save(_report_of(out))


def _some(documents: Iterable[_T], report: FunnelReport, out: Path) -> Iterator[_T]:
    """The documents, and an error if there is none."""
    yield from documents
    report.raise_if_nothing_left(str(out))


def _report_of(out: Path) -> Path:
    return out.with_suffix(".funnel.json")


def _show(report: FunnelReport, *lines: str) -> int:
    console = Console()
    console.print(report.table())
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0
