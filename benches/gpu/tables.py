"""Rows for a reader: lines while it runs, Markdown for the page."""

from __future__ import annotations

from collections.abc import Iterator

from gpu.comparison import OURS
from gpu.record import Record, Row
from gpu.sections import SECTIONS
from tempa.bench.results import quantity

NOT_RUN = "Not yet run on a GPU: `make gpu-bench` measures on a machine with one and fills this section."


def line(row: Row) -> str:
    """One side, while it runs."""
    mark = {"ok": " ", "FAIL": "FAIL", "unavailable": "-", "skipped": "-"}[row.status]
    if row.median_s is None:
        return f"  {row.side:<32} {mark} {row.status}: {row.note}"
    cells = [_time(row.median_s), f"({_time(row.p10_s)} to {_time(row.p90_s)})", _rate(row), _share(row)]
    cells += ["" if row.ratio is None else f"ours is {row.ratio:.2f} times as fast"]
    cells += ["" if row.peak_bytes is None else quantity(row.peak_bytes, "B")]
    cells += [f"[{target}: {verdict}]" for target, verdict in row.targets]
    cells += [f"FAIL: {row.note}"] if row.status == "FAIL" else []
    return f"  {row.side:<32} " + "  ".join(cell for cell in cells if cell)


def head(record: Record) -> str:
    """The device and its ceilings."""
    facts = [f"{key} {value}" for key, value in record.machine.items() if key not in ("name", "versions")]
    versions = ", ".join(f"{name} {version}" for name, version in record.machine.get("versions", {}).items())
    units = {"copy": "B/s", "read": "B/s", "gemm": "FLOP/s"}
    ceilings = ", ".join(f"{name} {quantity(rate, units[name])}" for name, rate in record.ceilings.items())
    name = record.machine.get("name", "unknown device")
    return f"{name}: {', '.join(facts)}; {versions}\nceilings: {ceilings}"


def page(record: Record | None) -> str:
    """The section of docs/numbers.md."""
    lines = ["## Kernels on a GPU", ""]
    if record is None:
        return "\n".join([*lines, NOT_RUN, ""])
    device, ceilings = head(record).splitlines()
    lines += [f"{device}.", "", f"Measured {ceilings}.", ""]
    for name, section in SECTIONS.items():
        rows = [row for row in record.rows if row.section == name]
        if not rows:
            continue
        lines += [f"**{section.title}**", "", "| case | side | median | 10 % to 90 % | rate | of its ceiling"]
        lines[-1] += " | ours is | target |"
        lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |", *_cells(rows), ""]
    lines += [
        f"- `{record.command}`, {record.date}; medians of the rounds, ours beside every peer that is there."
    ]
    return "\n".join(lines) + "\n"


def _cells(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        if row.median_s is None:
            cells = [row.case, row.side, f"{row.status}: {row.note}", "", "", "", "", ""]
        else:
            between = f"{_time(row.p10_s)} to {_time(row.p90_s)}"
            ratio = "" if row.ratio is None else f"{row.ratio:.2f} times as fast"
            memory = "" if row.peak_bytes is None else f"{quantity(row.peak_bytes, 'B')} of memory; "
            wrong = f"FAIL: {row.note}; " if row.status == "FAIL" else ""
            target = wrong + memory + "; ".join(f"{target}: {verdict}" for target, verdict in row.targets)
            cells = [row.case, row.side, _time(row.median_s), between, _rate(row), _share(row), ratio, target]
        yield f"| {' | '.join(cell.replace('|', '/').strip('; ') for cell in cells)} |"


def summary(record: Record) -> str:
    """The last lines: what was reached, what was not, what is wrong."""
    targets = [(row, *pair) for row in record.rows for pair in row.targets]
    lines = [f"{verdict:<9} {row.section}: {row.case}: {target}" for row, target, verdict in targets]
    lines += [f"FAIL      {row.section}: {row.case}: {row.note}" for row in record.failures]
    counts = {
        status: sum(row.status == status for row in record.rows)
        for status in ("ok", "unavailable", "skipped")
    }
    ours = sum(row.side == OURS for row in record.rows)
    lines += [f"{ours} cases, {len(record.failures)} failures, {counts['unavailable']} peers unavailable"]
    return "\n".join(lines)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else quantity(seconds, "s")


def _rate(row: Row) -> str:
    return "" if row.rate is None else quantity(row.rate, row.unit)


def _share(row: Row) -> str:
    return "" if row.share is None else f"{row.share:.0%} of {row.ceiling}"
