"""The process that measures: one case after the other, every row written before the next is begun.

It ends with `BROKEN` when an error has left the device unusable for this process, as a wild address does; the
supervisor starts another one, which goes on behind the case at fault.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from gpu import ceilings, tables
from gpu.measure import rows_of, tidy
from gpu.record import Record, Row
from gpu.rig import Rig
from gpu.sections import SECTIONS, ends

BROKEN = 70


def work(
    rig: Rig,
    record: Record,
    path: Path,
    names: Sequence[str],
    *,
    is_quick: bool,
    begun: float,
    budget_s: float,
) -> bool:
    """Measure what the record does not have yet.

    Args:
        rig: The device.
        record: Is added to, and written to `path` with every row.
        path: A JSON file.
        names: Of sections.
        is_quick: Only the cases that are marked so.
        begun: `time.time()` of the start of the run, of which this process may be a later part.
        budget_s: Seconds for all sections.

    Returns:
        Whether the device can still be used.
    """
    if not record.ceilings:
        record.ceilings = ceilings.measure(rig)
        record.write(path)
    print(tables.head(record), flush=True)
    until = ends(list(names), budget_s)
    for name in names:
        print(f"\n{SECTIONS[name].title}", flush=True)
        for case in SECTIONS[name].cases():
            if f"{name} / {case.name}" in record.done or (is_quick and not case.is_quick):
                continue
            if time.time() - begun > until[name]:
                record.rows.append(Row(name, case.name, "all", "skipped", f"no time is left; --only {name}"))
                record.write(path)
                continue
            record.current = f"{name} / {case.name}"
            record.write(path)
            print(case.name, flush=True)
            is_whole = True
            for row in rows_of(rig, name, case, record.ceilings):
                record.rows.append(row)
                record.write(path)
                print(tables.line(row), flush=True)
                is_whole &= row.status == "ok"
            if not is_whole and not is_usable(rig):
                return False
            tidy()
    record.current = ""
    record.write(path)
    return True


def is_usable(rig: Rig) -> bool:
    """Whether the device answers: after some errors every call of the process fails."""
    try:
        torch.ones(2, device=rig.device).sum().item()
    except RuntimeError:
        return False
    return True
