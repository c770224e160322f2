"""Writes docs/numbers.md from benches/results/*.json: every result, also where a peer is better.

What `make gpu-bench` has measured, in gpu-DEVICE.json, has a schema of its own and comes last.

The table on the README's first screen is a choice of the same results, written between two comments there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from gpu import tables
from gpu.record import Record
from tempa.bench.machine import describe
from tempa.bench.results import OURS, Result, quantity, read

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Numbers

Written by `benches/report.py` from `benches/results`; `make bench` measures and writes both again. Medians
over rounds, with the distance between the quartiles. The last column says how ours compares with that side.
The page has more than 500 lines because it holds every result.
"""

# What the README shows: words for the reader, group and case of the result.
HIGHLIGHTS = [
    ("encode new English, cl100k, one thread, to an array", "arrays, 1 thread", "english, steady"),
    ("encode new Chinese, Japanese and Korean, likewise", "arrays, 1 thread", "cjk, steady"),
    (
        "encode English, GPT-2 vocabulary, one thread",
        "encode a batch, GPT-2 vocabulary, 1 thread",
        "english, first",
    ),
    ("learn 16,384 tokens from English, one thread", "train 16,384 tokens, 1 thread", "english"),
    ("find near duplicates in 98 MB, one thread", "near duplicates, 128 hashes", "1 thread"),
    ("one .jsonl file of English to shards, one thread", "one .jsonl file to shards, 1 thread", "english"),
    (
        "draw one of 151,936 tokens: penalties, mask, top-k, top-p",
        "one row of 151,936 logits, 1 thread",
        "top-k 50, top-p 0.9, penalties, mask, spread 1",
    ),
    (
        "KV blocks for a token of each of 256 sequences",
        "KV manager, blocks of 16 tokens, through Python",
        "a token for each of 256 sequences",
    ),
    ("`import tempa` in a new process", "start a process", "import tempa"),
]
START, END = "<!-- written by benches/report.py -->", "<!-- end -->"


def main() -> int:
    folder = ROOT / "benches" / "results"
    on_gpus = sorted(folder.glob("gpu-*.json"))
    results = [read(path) for path in sorted(folder.glob("*.json")) if path not in on_gpus]
    pages = [tables.page(Record.read(path)) for path in on_gpus] or [tables.page(None)]
    page = ROOT / "docs" / "numbers.md"
    page.write_text("\n".join([HEAD, *map(section, results), *pages]), encoding="utf-8")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    table = highlights([row for rows in results for row in rows])
    readme.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")
    print(f"wrote {page.relative_to(ROOT)} and the table in {readme.name}: {len(results)} benches")
    return 0


def highlights(results: list[Result]) -> str:
    """The README's table; what has not been measured is left out."""
    lines = ["| what | tempa | beside | measured by |", "| --- | ---: | --- | --- |"]
    dates: dict[str, set[str]] = {}
    for words, group, name in HIGHLIGHTS:
        sides = {row.side: row for row in results if (row.group, row.name) == (group, name)}
        ours = sides.pop(OURS, None)
        if ours is None:
            continue
        peers = sorted(sides.values(), key=lambda row: row.ratio or 0)
        beside = ", ".join(f"{row.side} {quantity(row.median, row.unit)}" for row in peers)
        lines.append(f"| {words} | {quantity(ours.median, ours.unit)} | {beside} | `{ours.command}` |")
        dates.setdefault(describe(ours.machine), set()).add(ours.date)
    origins = (f"{where}, {' to '.join(sorted({min(days), max(days)}))}" for where, days in dates.items())
    return "\n".join([*lines, "", f"Medians on {'; '.join(origins)}."])


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
