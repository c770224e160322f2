"""The funnel of a corpus as a page: what each step kept and dropped, with samples, sizes, hosts and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tempa.report.page import Markup, join, number, table, tag, write_page
from tempa.report.plot import Bar, bar_plot


def write_funnel_report(path: str | Path, funnel: Mapping[str, Any], *, title: str) -> Path:
    """Write the page of a funnel report.

    Args:
        path: The file.
        funnel: The report as in `funnel.json`.
        title: Heading of the page.

    Returns:
        The path.
    """
    parts = [
        tag("h1", title),
        funnel_table(funnel),
        _splits(funnel.get("splits", {})),
        _sizes(funnel),
        _hosts(funnel.get("hosts", {})),
        _tasks(funnel.get("tasks", {})),
        _seconds(funnel.get("seconds", {})),
        _problems(funnel),
        _samples(funnel.get("stages", [])),
    ]
    return write_page(Path(path), title, join(parts))


def funnel_table(funnel: Mapping[str, Any]) -> Markup:
    """Documents and bytes at each step, and what was dropped. Tokens of what was dropped are estimated."""
    stages = funnel.get("stages", [])
    if not stages:
        return Markup("")
    whole, splits = stages[0]["input"], funnel.get("splits", {}).values()
    num_bytes = sum(split["bytes"] for split in splits)
    rate = sum(split["tokens"] for split in splits) / num_bytes if num_bytes else 0.0
    rows: list[list[object]] = [["read", *_counts(whole, whole, rate), ""]]
    for stage in stages:
        dropped = sorted(stage["dropped"].items(), key=lambda item: -item[1]["documents"])
        for rule, count in dropped:
            example = count["examples"][0]["text"][:70] if count["examples"] else ""
            rows.append([f"dropped: {rule}", *_counts(count, whole, rate), tag("small", example)])
        for edit, size in stage.get("edited_bytes", {}).items():
            rows.append([f"lines: {edit}", *_counts({"documents": None, "bytes": size}, whole, rate), ""])
        if stage.get("rewritten_bytes"):
            rewritten = {"documents": None, "bytes": stage["rewritten_bytes"]}
            rows.append(["rewritten", *_counts(rewritten, whole, rate), ""])
        rows.append([tag("b", f"after {stage['name']}"), *_counts(stage["output"], whole, rate), ""])
    head = ["", "documents", "MB", "% of bytes", *(["million tokens, about"] if rate else []), "example"]
    return join([tag("h2", "The text"), table(head, rows)])


def _counts(count: Mapping[str, Any], whole: Mapping[str, Any], rate: float) -> list[str]:
    documents = "" if count["documents"] is None else f"{count['documents']:,}"
    share = 100 * count["bytes"] / max(whole["bytes"], 1)
    cells = [documents, f"{count['bytes'] / 1e6:.2f}", number(share, 3)]
    return [*cells, f"{count['bytes'] * rate / 1e6:.3f}"] if rate else cells


def _splits(splits: Mapping[str, Mapping[str, int]]) -> Markup:
    if not splits:
        return Markup("")
    rows = [
        [name, f"{one['documents']:,}", f"{one['bytes'] / 1e6:.2f}", f"{one['tokens']:,}"]
        for name, one in splits.items()
    ]
    return join([tag("h2", "The corpus"), table(["", "documents", "MB", "tokens"], rows)])


def _sizes(funnel: Mapping[str, Any]) -> Markup:
    """Documents by size, before and after the steps that look at one at a time."""
    plots = []
    for key, title in (("input_sizes", "read, by size"), ("output_sizes", "cleaned, by size")):
        sizes: Sequence[int] = funnel.get(key, [])
        first = next((i for i, count in enumerate(sizes) if count), 0)
        bars = [Bar(_size(i), float(count), color=0) for i, count in enumerate(sizes) if i >= first]
        if bars:
            plots.append(bar_plot(bars, title=f"documents {title}"))
    return join([tag("h2", "Sizes"), *plots]) if plots else Markup("")


def _size(power: int) -> str:
    for unit, step in (("MB", 20), ("KB", 10)):
        if power >= step:
            return f"{1 << power - step} {unit}"
    return f"{1 << power} B"


def _hosts(hosts: Mapping[str, Mapping[str, int]]) -> Markup:
    if not hosts:
        return Markup("")
    most = list(hosts.items())[:30]
    rows = [[host, f"{one['documents']:,}", f"{one['bytes'] / 1e6:.2f}"] for host, one in most]
    return join([tag("h2", "Hosts with most documents"), table(["", "documents", "MB"], rows)])


def _tasks(tasks: Mapping[str, Mapping[str, Any]]) -> Markup:
    if not tasks:
        return Markup("")
    rows = [
        [
            name,
            f"{len(task['hits']):,}",
            f"{task['documents']:,}",
            max((hit["span_words"] for hit in task["hits"].values()), default=0),
        ]
        for name, task in tasks.items()
    ]
    head = ["", "items found", "documents", "words of the longest span"]
    return join([tag("h2", "Evaluation sets in the text"), table(head, rows)])


def _seconds(seconds: Mapping[str, float]) -> Markup:
    if not seconds:
        return Markup("")
    whole = sum(seconds.values()) or 1.0
    rows = [[what, f"{spent:.2f}", f"{100 * spent / whole:.0f}"] for what, spent in seconds.items()]
    return join([tag("h2", "Cost"), table(["", "seconds, all threads together", "%"], rows)])


def _problems(funnel: Mapping[str, Any]) -> Markup:
    problems = funnel.get("problems", [])
    if not problems:
        return Markup("")
    rows = [[one["file"], f"{one['offset']:,}", one["reason"]] for one in problems]
    heading = f"What could not be read: {funnel['num_problems']:,}"
    return join([tag("h2", heading), table(["file", "byte", "reason"], rows)])


def _samples(stages: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [
        [rule, example["source"], example["reason"], tag("small", example["text"])]
        for stage in stages
        for rule, dropped in stage["dropped"].items()
        for example in dropped["examples"]
    ]
    if not rows:
        return Markup("")
    head = ["rule", "source", "reason", "begins"]
    return join([tag("h2", "Samples of what was dropped"), table(head, rows)])
