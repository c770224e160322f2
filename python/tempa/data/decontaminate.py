"""Decontamination: evaluation sets are kept out of what a model trains on.

Words are compared, not hashes alone: what is reported stands in the document. The verdict on a document
depends on its text, the evaluation sets and the settings, for any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from tempa import _core
from tempa.data.compressed import format_of
from tempa.data.documents import Document, in_batches, read_documents
from tempa.data.funnel import EXAMPLE_CHARS, Example, FunnelReport, Stage, utf8_bytes
from tempa.data.staging import save_json


@dataclass(frozen=True)
class EvalSet:
    """The items of one evaluation task.

    Attributes:
        name: The task.
        items: What must not be trained on, one text for each item; its source names it in the report.
    """

    name: str
    items: Sequence[Document]

    @classmethod
    def read(cls, path: str | Path, fields: Sequence[str] = ("question", "answer")) -> EvalSet:
        """Read a task from a file, whose name without its endings is the task's.

        Args:
            path: `.jsonl` or `.parquet` with an item in each line or row, or `.txt`, which is one item.
            fields: Keys or columns whose texts, one after the other, are the item; `.txt` has none.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it cannot be read or lacks a field.
        """
        if not fields:
            raise ValueError(f"{path}: name at least one field of the evaluation set")
        names = fields[:1] if format_of(Path(path)) == ".txt" else fields
        columns = [read_documents(path, field=name) for name in names]
        items = [
            Document("\n".join(part.text for part in parts), parts[0].source)
            for parts in zip(*columns, strict=True)
        ]
        return cls(Path(path).name.split(".")[0], items)

    @classmethod
    def named(cls, name: str) -> EvalSet:
        """Read the task that `FILE` or `FILE:FIELD,FIELD` names."""
        path, fields = cls.parse(name)
        return cls.read(path, fields) if fields else cls.read(path)

    @staticmethod
    def parse(name: str) -> tuple[str, list[str]]:
        """The file and the fields, none if there are none, of `FILE` or `FILE:FIELD,FIELD`."""
        path, _, fields = name.rpartition(":")
        return (path, fields.split(",")) if path and not Path(name).exists() else (name, [])


@dataclass(frozen=True)
class Contamination:
    """What counts as contamination, and what is done about it.

    Words are as in `Duplicates.unit`: case, composition, white space and punctuation do not count, and in
    scripts without spaces each character is a word.
    """

    ngram: int = 13
    """Words in a row that a document and an item must share, if the item has as many."""
    min_words: int = 8
    """Items of fewer words are not looked for; items from here to `ngram` must be found whole."""
    min_span: int = 0
    """Least words of the longest span that a document shares with an item."""
    min_share: float = 0.0
    """Least share of an item's n-grams that a document has."""
    action: Literal["drop", "cut"] = "drop"
    """Drop the document, or cut the shared spans out of it."""
    margin: int = 0
    """Words that are cut on both sides of a span too."""

    def __post_init__(self) -> None:
        if not 1 <= self.ngram <= 1024:
            raise ValueError(f"ngram must be 1 to 1024, got {self.ngram}")
        if not 1 <= self.min_words <= self.ngram:
            raise ValueError(f"min_words must be 1 to ngram, {self.ngram}, got {self.min_words}")
        if self.min_span < 0 or self.margin < 0:
            raise ValueError(f"min_span and margin must be 0 or more, got {self.min_span} and {self.margin}")
        if not 0 <= self.min_share <= 1:
            raise ValueError(f"min_share must be between 0 and 1, got {self.min_share}")
        if self.action not in ("drop", "cut"):
            raise ValueError(f"action must be 'drop' or 'cut', got {self.action!r}")


@dataclass
class ItemHits:
    """The documents that have one item.

    Attributes:
        documents: How many.
        span_words: Words of the longest span shared with any of them.
        share: The greatest share of the item's n-grams that one of them has.
        examples: The first of them, with the shared text.
    """

    documents: int = 0
    span_words: int = 0
    share: float = 0.0
    examples: list[Example] = field(default_factory=list)


@dataclass
class TaskHits:
    """What was found of one task.

    Attributes:
        name: The task.
        num_items: Its items.
        num_short: Items that have too few words to be looked for.
        documents: Documents that have one of its items or more.
        hits: The items that were found, by their sources.
    """

    name: str
    num_items: int
    num_short: int
    documents: int = 0
    hits: dict[str, ItemHits] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The task as plain values, the items of most documents first."""
        hits = sorted(self.hits.items(), key=lambda hit: (-hit[1].documents, -hit[1].span_words))
        items = [
            {"item": name, **vars(hit), "examples": [vars(example) for example in hit.examples]}
            for name, hit in hits
        ]
        return {**vars(self), "hits": items}


class ContaminationReport:
    """Which items of which task are in the documents.

    Args:
        max_examples: Documents shown for each item.
    """

    def __init__(self, max_examples: int = 3) -> None:
        self.max_examples = max_examples
        self.tasks: list[TaskHits] = []

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, as they are saved."""
        return {"tasks": [task.to_dict() for task in self.tasks]}

    def save(self, path: str | Path) -> None:
        """Write the report as JSON.

        Raises:
            OSError: If the disk refuses; an earlier file of this name stays as it was.
        """
        save_json(path, self.to_dict())

    def table(self) -> Table:
        """The report as a table for the terminal."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("task", no_wrap=True)
        for name in ("items", "too short", "found", "documents", "longest span"):
            table.add_column(name, justify="right")
        for task in self.tasks:
            longest = max((hit.span_words for hit in task.hits.values()), default=0)
            counts = (task.num_items, task.num_short, len(task.hits), task.documents, longest)
            table.add_row(task.name, *(f"{count:,}" for count in counts))
        return table


def decontaminate(
    documents: Iterable[Document],
    tasks: Sequence[EvalSet],
    settings: Contamination | None = None,
    *,
    found: ContaminationReport | None = None,
    report: FunnelReport | None = None,
) -> Iterator[Document]:
    """Drop documents that have items of evaluation sets, or cut the items out.

    Args:
        documents: Read once, a few megabytes at a time.
        tasks: What to look for.
        settings: What counts and what is done.
        found: Gets the items that were found, task by task.
        report: Gets a stage named "decontaminate" with a rule for each task; the longest span decides.

    Returns:
        The documents that are left, in their order; they are judged while they are taken.

    Raises:
        ValueError: If two tasks have the same name, or no item is long enough to be looked for.

    >>> quiz = EvalSet("quiz", [Document("Which river has the longest name of all?", "quiz:1")])
    >>> pages = [Document("Q: which river has the longest name of all", "a"), Document("a river", "b")]
    >>> [page.source for page in decontaminate(pages, [quiz])]
    ['b']
    """
    settings = Contamination() if settings is None else settings
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"evaluation sets need different names, got {', '.join(names)}")
    texts = [item.text for task in tasks for item in task.items]
    items = _core.EvalItems(texts, settings.ngram, settings.min_words, settings.min_span, settings.min_share)
    found = ContaminationReport() if found is None else found
    owners: list[tuple[TaskHits, str]] = []
    for task in tasks:
        first = len(owners)
        num_short = sum(not items.is_sought(first + i) for i in range(len(task.items)))
        hits = TaskHits(task.name, len(task.items), num_short)
        found.tasks.append(hits)
        owners += [(hits, item.source) for item in task.items]
    if not any(map(items.is_sought, range(len(texts)))):
        raise ValueError(f"no item of {', '.join(names) or 'no task'} has {settings.min_words} words or more")
    # Before the first document is taken, so that the stages of a chain of calls stay in order.
    stage = (report or FunnelReport()).stage("decontaminate")
    return _kept(documents, items, owners, settings, found.max_examples, stage)


def _kept(
    documents: Iterable[Document],
    items: _core.EvalItems,
    owners: list[tuple[TaskHits, str]],
    settings: Contamination,
    max_examples: int,
    stage: Stage,
) -> Iterator[Document]:
    for batch in in_batches(documents):
        hits, shares, rests = items.find([document.text for document in batch], settings.margin)
        longest: dict[int, tuple[int, int]] = {}
        touched: set[tuple[int, str]] = set()
        for (place, item, words, start, stop), share in zip(hits.tolist(), shares.tolist(), strict=True):
            task, name = owners[item]
            longest[place] = max(longest.get(place, (0, 0)), (words, -item))
            task.documents += (place, task.name) not in touched
            touched.add((place, task.name))
            hit = task.hits.setdefault(name, ItemHits())
            hit.documents += 1
            hit.span_words, hit.share = max(hit.span_words, words), max(hit.share, share)
            if len(hit.examples) < max_examples:
                shared = batch[place].text.encode()[start:stop].decode()
                reason = f"{words} words, {share:.0%} of the n-grams"
                hit.examples.append(Example(batch[place].source, reason, shared[:EXAMPLE_CHARS]))
        for place, (document, rest) in enumerate(zip(batch, rests, strict=True)):
            size = utf8_bytes(document.text)
            if rest is None:
                stage.keep(size)
                yield document
            elif settings.action == "cut" and rest.strip():
                stage.keep(size, size - utf8_bytes(rest))
                yield Document(rest, document.source)
            else:
                words, item = longest[place]
                task, name = owners[-item]
                stage.drop(task.name, document, size, f"{words} words of {name}")
