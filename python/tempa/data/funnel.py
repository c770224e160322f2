"""The funnel report: what each step kept and dropped, by which rule, with examples.

In each stage the documents and bytes that came in equal those that were dropped, rule by rule, plus those
that went on; what a stage takes in is what the one before let through.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.table import Table

from tempa.data.documents import Document
from tempa.data.staging import save_json

EXAMPLE_CHARS = 160
MAX_HOSTS = 100
MAX_PROBLEMS = 100


@dataclass
class Count:
    """Documents and the bytes of their text in UTF-8."""

    documents: int = 0
    bytes: int = 0

    def add(self, num_bytes: int) -> None:
        """Count one document."""
        self.documents += 1
        self.bytes += num_bytes


@dataclass(frozen=True)
class Example:
    """One dropped document: where it was, why it went, how it begins."""

    source: str
    reason: str
    text: str


@dataclass
class Dropped(Count):
    """What one rule dropped."""

    examples: list[Example] = field(default_factory=list)


@dataclass
class Stage:
    """One step of the funnel.

    Attributes:
        name: The step.
        max_examples: Documents shown for each rule.
        input: What came in.
        output: What went on.
        dropped: What each rule dropped, in the order of first use.
        rewritten_bytes: Bytes by which the documents that went on became shorter, apart from edits.
        edited_bytes: Bytes that each edit of lines took out of them.
        replaced: Places whose text was replaced, for each kind.
    """

    name: str
    max_examples: int = 3
    input: Count = field(default_factory=Count)
    output: Count = field(default_factory=Count)
    dropped: dict[str, Dropped] = field(default_factory=dict)
    rewritten_bytes: int = 0
    edited_bytes: dict[str, int] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)

    def keep(
        self, num_bytes: int, rewritten_bytes: int = 0, edited_bytes: dict[str, int] | None = None
    ) -> None:
        """Count a document of `num_bytes` that goes on, shortened by `rewritten_bytes` and by edits."""
        edited_bytes = edited_bytes or {}
        self.input.add(num_bytes)
        self.output.add(num_bytes - rewritten_bytes - sum(edited_bytes.values()))
        self.rewritten_bytes += rewritten_bytes
        for edit, size in edited_bytes.items():
            self.edited_bytes[edit] = self.edited_bytes.get(edit, 0) + size

    def keep_as(self, document: Document, text: str | None) -> Document:
        """Count a document that goes on, with another text if there is one, and return it so."""
        size = utf8_bytes(document.text)
        if text is None:
            self.keep(size)
            return document
        self.keep(size, size - utf8_bytes(text))
        return Document(text, document.source)

    def merge(self, other: dict[str, Any]) -> None:
        """Add the counts of the same step on other documents, as `to_dict` gives them."""
        for own, more in ((self.input, other["input"]), (self.output, other["output"])):
            own.documents += more["documents"]
            own.bytes += more["bytes"]
        self.rewritten_bytes += other["rewritten_bytes"]
        for edit, size in other.get("edited_bytes", {}).items():
            self.edited_bytes[edit] = self.edited_bytes.get(edit, 0) + size
        for kind, count in other.get("replaced", {}).items():
            self.replaced[kind] = self.replaced.get(kind, 0) + count
        for rule, more in other["dropped"].items():
            dropped = self.dropped.setdefault(rule, Dropped())
            dropped.documents += more["documents"]
            dropped.bytes += more["bytes"]
            room = self.max_examples - len(dropped.examples)
            dropped.examples += [Example(**example) for example in more["examples"][:room]]

    def drop(self, rule: str, document: Document, num_bytes: int, reason: str) -> None:
        """Count a document that `rule` drops."""
        self.input.add(num_bytes)
        dropped = self.dropped.setdefault(rule, Dropped())
        dropped.add(num_bytes)
        if len(dropped.examples) < self.max_examples:
            dropped.examples.append(Example(document.source, reason, document.text[:EXAMPLE_CHARS]))

    def to_dict(self) -> dict[str, Any]:
        """The stage as plain values."""
        return {
            "name": self.name,
            "input": vars(self.input),
            "dropped": {
                rule: {**vars(dropped), "examples": [vars(example) for example in dropped.examples]}
                for rule, dropped in self.dropped.items()
            },
            "rewritten_bytes": self.rewritten_bytes,
            **({"edited_bytes": self.edited_bytes} if self.edited_bytes else {}),
            "output": vars(self.output),
            **({"replaced": self.replaced} if self.replaced else {}),
        }


@dataclass
class Details:
    """What a build knows beside its stages; all of it may be empty.

    Attributes:
        num_problems: Documents and files that could not be read.
        problems: The first of them: file, offset in bytes (or row of a table), reason.
        input_sizes: Documents read, by size: entry i counts those of 2^i to below 2^(i+1) bytes.
        output_sizes: The same for those that go on to the search for duplicates.
        hosts: Documents and bytes of the most frequent hosts, of the same documents.
        tasks: Items of evaluation sets that were found, by task.
        seconds: Time of each kind of work, summed over threads.
    """

    num_problems: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)
    input_sizes: list[int] = field(default_factory=list)
    output_sizes: list[int] = field(default_factory=list)
    hosts: dict[str, Count] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What there is, as plain values; of the hosts those with most documents."""
        hosts = sorted(self.hosts.items(), key=lambda host: (-host[1].documents, host[0]))
        plain = {**vars(self), "hosts": {host: vars(count) for host, count in hosts[:MAX_HOSTS]}}
        return {name: value for name, value in plain.items() if value}

    def merge(self, part: dict[str, Any], max_examples: int) -> None:
        """Add what the core found in other documents."""
        self.num_problems += part["num_problems"]
        self.problems += part["problems"][: MAX_PROBLEMS - len(self.problems)]
        self.input_sizes = _sum(self.input_sizes, part["input_sizes"])
        self.output_sizes = _sum(self.output_sizes, part["output_sizes"])
        for host, count in part["hosts"].items():
            own = self.hosts.setdefault(host, Count())
            own.documents += count["documents"]
            own.bytes += count["bytes"]
        for task, found in part["tasks"].items():
            _merge_task(self.tasks.setdefault(task, {"documents": 0, "hits": {}}), found, max_examples)
        for what, spent in part["seconds"].items():
            self.seconds[what] = self.seconds.get(what, 0.0) + spent


def _sum(a: list[int], b: list[int]) -> list[int]:
    return [x + y for x, y in zip_longest(a, b, fillvalue=0)]


def _merge_task(own: dict[str, Any], found: dict[str, Any], max_examples: int) -> None:
    own["documents"] += found["documents"]
    for item, more in found["hits"].items():
        hit = own["hits"].setdefault(item, {"documents": 0, "span_words": 0, "share": 0.0, "examples": []})
        hit["documents"] += more["documents"]
        hit["span_words"] = max(hit["span_words"], more["span_words"])
        hit["share"] = max(hit["share"], more["share"])
        hit["examples"] += more["examples"][: max_examples - len(hit["examples"])]


class FunnelReport:
    """Collects the stages of a run of the pipeline.

    Args:
        max_examples: Dropped documents shown for each rule.

    >>> from tempa.data.rules import Rules, clean
    >>> report = FunnelReport()
    >>> kept = list(clean([Document("short", "a.txt")], Rules(min_chars=100), report=report))
    >>> report.stages[0].dropped["min_chars"].documents
    1
    """

    def __init__(self, max_examples: int = 3) -> None:
        self.max_examples = max_examples
        self.stages: list[Stage] = []
        self.splits: dict[str, dict[str, int]] = {}
        self.details = Details()

    def stage(self, name: str) -> Stage:
        """Begin a stage."""
        self.stages.append(Stage(name, self.max_examples))
        return self.stages[-1]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, as they are saved."""
        stages = [stage.to_dict() for stage in self.stages]
        splits = {"splits": self.splits} if self.splits else {}
        return {"stages": stages, **splits, **self.details.to_dict()}

    def merge(self, part: dict[str, Any]) -> None:
        """Add the report of the same steps on other documents, as the core gives it."""
        if not self.stages:
            self.stages = [Stage(stage["name"], self.max_examples) for stage in part["stages"]]
        for own, more in zip(self.stages, part["stages"], strict=True):
            own.merge(more)
        self.details.merge(part, self.max_examples)

    def save(self, path: str | Path) -> None:
        """Write the report as JSON.

        Raises:
            OSError: If the disk refuses; an earlier file of this name stays as it was.
        """
        save_json(path, self.to_dict())

    def table(self) -> Table:
        """The report as a table for the terminal."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("step and rule", no_wrap=True)
        for name in ("documents", "%", "MB", "%"):
            table.add_column(name, justify="right", no_wrap=True)
        whole = self.stages[0].input if self.stages else Count()
        table.add_row(*_cells("read", whole, whole), style="bold")
        for stage in self.stages:
            if stage.name == "read" and not stage.dropped:
                continue
            for rule, dropped in sorted(stage.dropped.items(), key=lambda item: -item[1].documents):
                table.add_row(*_cells(f"  - {rule}", dropped, whole))
            for edit, size in sorted(stage.edited_bytes.items(), key=lambda item: -item[1]):
                table.add_row(f"  - {edit}", "", "", *_bytes(size, whole))
            if stage.rewritten_bytes:
                table.add_row("  - rewritten", "", "", *_bytes(stage.rewritten_bytes, whole))
            table.add_row(*_cells(f"after {stage.name}", stage.output, whole), style="bold")
        return table

    def raise_if_nothing_left(self, sources: str) -> None:
        """Say why, if no document came through the last stage.

        Raises:
            ValueError: Naming the rule that dropped most and how to switch it off.
        """
        if self.stages and not self.stages[-1].output.documents:
            dropped = {rule: drop for stage in self.stages for rule, drop in stage.dropped.items()}
            if not dropped:
                raise ValueError(f"{sources}: no documents")
            rule = max(dropped, key=lambda rule: dropped[rule].documents)
            off = {"min_": "0", "max_": "inf"}.get(rule[:4])
            raise ValueError(
                f"{sources}: no document is left; {rule} dropped {dropped[rule].documents} "
                f"of {self.stages[0].input.documents}"
                + (f", set it to {off} to switch it off" if off else "")
            )


def total_bytes(documents: Iterable[Document]) -> int:
    """Bytes of the texts in UTF-8."""
    return sum(utf8_bytes(document.text) for document in documents)


def utf8_bytes(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _cells(name: str, count: Count, whole: Count) -> tuple[str, ...]:
    return (
        name,
        f"{count.documents:,}",
        f"{100 * count.documents / max(whole.documents, 1):.1f}",
        *_bytes(count.bytes, whole),
    )


def _bytes(value: int, whole: Count) -> tuple[str, str]:
    return f"{value / 1e6:,.2f}", f"{100 * value / max(whole.bytes, 1):.1f}"
