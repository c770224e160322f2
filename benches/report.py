"""Writes docs/numbers.md from benches/results/*.json: every result, also where a peer is better."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
    for group in dict.fromkeys(row.group for row in results):
        lines += [f"**{group}**", "", "| case | side | median | spread | rounds | ours is |"]
        lines += ["| --- | --- | ---: | ---: | ---: | --- |"]
        lines += [*_rows([row for row in results if row.group == group]), ""]
    lines += sorted({_origin(row) for row in results})
    return "\n".join(lines) + "\n"


def _rows(results: list[Result]) -> Iterator[str]:
    """Cases in the order of the file; in each, ours first, then the peers from the nearest."""
    cases = list(dict.fromkeys(row.name for row in results))
    for row in sorted(results, key=lambda row: (cases.index(row.name), row.side != OURS, row.ratio or 0)):
        cells = [row.name, row.side, quantity(row.median, row.unit), quantity(row.iqr, row.unit)]
        yield f"| {' | '.join([*cells, str(row.rounds), _verdict(row)])} |"


def _verdict(row: Result) -> str:
    if row.ratio is None:
        return ""
    better, worse = (
        ("faster", "slower") if row.unit == "s" or row.unit.endswith("/s") else ("lower", "higher")
    )
    if 0.99 < row.ratio < 1.01:
        return "the same"
    return f"{row.ratio:.3g} times {better}" if row.ratio > 1 else f"{1 / row.ratio:.3g} times {worse}"


def _origin(row: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row.versions.items())
    return f"- `{row.command}`, {row.date}, {describe(row.machine)}; {versions}"


if __name__ == "__main__":
    sys.exit(main())
