"""Writes docs/numbers.md from benches/results/*.json: every result, also where a peer is better."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tempa.bench.machine import describe
from tempa.bench.results import OURS, Result, quantity, read

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Numbers

Written by `benches/report.py` from `benches/results`; `make bench` measures and writes both again. Medians
over rounds, with the distance between the quartiles. The last column says how ours compares with that side.
"""


def main() -> int:
    sections = [section(read(path)) for path in sorted((ROOT / "benches" / "results").glob("*.json"))]
    page = ROOT / "docs" / "numbers.md"
    page.write_text("\n".join([HEAD, *sections]), encoding="utf-8")
    print(f"wrote {page.relative_to(ROOT)}: {len(sections)} benches")
    return 0


def section(results: list[Result]) -> str:
    """One bench file: its groups as tables, then where and when they were measured."""
    lines = [f"## {results[0].title}", ""]
    for group, rows in groupby(sorted(results, key=lambda row: row.group), key=lambda row: row.group):
        lines += [f"**{group}**", "", "| case | side | median | spread | rounds | ours is |"]
        lines += ["| --- | --- | ---: | ---: | ---: | --- |", *_rows(list(rows)), ""]
    for (command, date, place, versions), _ in groupby(
        sorted((row.command, row.date, describe(row.machine), _versions(row)) for row in results)
    ):
        lines.append(f"`{command}`, {date}, {place}. {versions}.  ")
    return "\n".join(lines) + "\n"


def _rows(results: list[Result]) -> Iterator[str]:
    # Ours first in each case, then the peers from the nearest.
    results.sort(key=lambda row: (row.name, row.side != OURS, row.ratio or 0))
    for row in results:
        cells = (
            row.name, row.side, quantity(row.median, row.unit), quantity(row.iqr, row.unit), str(row.rounds),
            _verdict(row),
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _verdict(row: Result) -> str:
    if row.ratio is None:
        return ""
    better, worse = (
        ("faster", "slower") if row.unit == "s" or row.unit.endswith("/s") else ("lower", "higher")
    )
    if 0.99 < row.ratio < 1.01:
        return "the same"
    return f"{row.ratio:.3g} times {better}" if row.ratio > 1 else f"{1 / row.ratio:.3g} times {worse}"


def _versions(row: Result) -> str:
    return ", ".join(f"{name} {version}" for name, version in row.versions.items())


if __name__ == "__main__":
    sys.exit(main())
