"""What commands that read documents have in common: files, progress, the report beside what they write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from rich.console import Console

from tempa.cli.progress import WorkProgress
from tempa.data.documents import Document, corpus_files, read_documents, write_documents
from tempa.data.funnel import FunnelReport

Files = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")]
Show = Callable[[str, int, int, str], None]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which documents to read."""

    files: Files
    """.txt, .jsonl or .parquet files, or directories of them; .txt and .jsonl also as .gz or .zst."""
    field: str = "text"
    """Key or column that holds the text in .jsonl and .parquet files."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: stop, or put U+FFFD in their place."""


@contextmanager
def reading(source: Source) -> Iterator[tuple[Iterator[Document], Show]]:
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


def write(out: Path, documents: Iterator[Document], report: FunnelReport, *, overwrite: bool) -> None:
    """Write what is left of documents, and the report beside it."""
    write_documents(out, some(documents, report, out), overwrite=overwrite)
    report.save(report_of(out))


def some(documents: Iterable[_T], report: FunnelReport, out: Path) -> Iterator[_T]:
    """The documents, and an error if there is none."""
    yield from documents
    report.raise_if_nothing_left(str(out))


def report_of(out: Path) -> Path:
    """The name of the report on a file."""
    return out.with_suffix(".funnel.json")


def show_report(report: FunnelReport, *lines: str) -> int:
    """Print a report and lines after it; the exit code of a command that did all it was asked."""
    console = Console()
    console.print(report.table())
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0
