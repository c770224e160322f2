"""`tempa data`: from documents to shards.

The commands that read shards are in `data_shards`, those of trained models in `data_models`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tempa import config
from tempa.cli import data_models, data_shards
from tempa.cli.documents import Source, reading, report_of, show_report, write
from tempa.cli.group import dispatch
from tempa.cli.places import read_bpe
from tempa.cli.progress import WorkProgress
from tempa.data.corpus import FUNNEL, FUNNEL_PAGE, BuildConfig, build_corpus
from tempa.data.decontaminate import Contamination, ContaminationReport, EvalSet, decontaminate
from tempa.data.documents import Document
from tempa.data.duplicates import Duplicates, collision_probability, dedup, write_index
from tempa.data.funnel import FunnelReport, total_bytes
from tempa.data.pii import Kind, mask_pii
from tempa.data.repair import repair
from tempa.data.rules import Edits, Rules, clean
from tempa.data.shards import write_shards
from tempa.data.unwanted import Unwanted, drop_unwanted

# Everything was done that could be, but not all input could be read.
EXIT_PROBLEMS = 3


def main(name: str, argv: list[str]) -> int:
    """Run one subcommand."""
    commands = {
        "clean": (_clean, "one spelling, and quality rules that drop documents"),
        "dedup": (_dedup, "drop exact and near duplicates"),
        "decontaminate": (_decontaminate, "keep evaluation sets out"),
        "classify": (data_models.classifier, "train a classifier of documents, or apply one"),
        "perplexity": (
            data_models.perplexity,
            "train an n-gram model of good text, or apply one",
        ),
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
    with reading(settings) as (documents, _):
        kept = repair(documents, report=report) if settings.repair else documents
        kept = clean(kept, settings.rules, edits=settings.edits, report=report)
        kept = drop_unwanted(kept, settings.unwanted, report=report)
        if settings.mask:
            kept = mask_pii(kept, settings.mask, report=report)
        write(settings.out, kept, report, overwrite=settings.overwrite)
    return show_report(report, f"{settings.out}, report in {report_of(settings.out)}")


def _dedup(argv: list[str]) -> int:
    settings = config.parse(
        DedupConfig,
        argv,
        prog="tempa data dedup",
        description="Drop documents that are equal, or nearly so, to one that came before.",
    )
    report = FunnelReport()
    with reading(settings) as (documents, show):

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

        write(settings.out, kept(), report, overwrite=settings.overwrite)
    return show_report(report, f"{settings.out}, report in {report_of(settings.out)}")


def _decontaminate(argv: list[str]) -> int:
    settings = config.parse(
        DecontaminateConfig,
        argv,
        prog="tempa data decontaminate",
        description="Drop documents that have items of evaluation sets, or cut the items out.",
    )
    tasks = [EvalSet.named(name) for name in settings.against]
    report, found = FunnelReport(), ContaminationReport()
    with reading(settings) as (documents, _):
        kept = decontaminate(documents, tasks, settings.contamination, found=found, report=report)
        write(settings.out, kept, report, overwrite=settings.overwrite)
    items = settings.out.with_suffix(".contamination.json")
    found.save(items)
    Console().print(found.table())
    return show_report(report, f"{settings.out}, reports in {report_of(settings.out)} and {items}")


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
    show_report(report, *lines, f"{settings.out}, report in {page}; sha256 {corpus.sha256[:16]}")
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
    with reading(settings) as (documents, _):
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
