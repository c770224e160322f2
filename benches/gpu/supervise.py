"""Keeps a run going: a kernel that hangs or breaks its process costs its own case and no other."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpu.comparison import OURS
from gpu.record import Record, Row

MAX_STARTS = 12
# Longer than any case needs, the compilation of a model by torch included.
SILENT_S = 150.0


@dataclass(frozen=True)
class End:
    """How a process has ended: its exit status, or None if it was killed for its silence."""

    status: int | None

    def words(self) -> str:
        """For the row of the case at fault."""
        if self.status is None:
            return f"killed: silent for {SILENT_S:.0f} s"
        return f"the process ended with status {self.status}"


def run(command: Sequence[str], path: Path) -> bool:
    """Start the command until it has come to its end; it goes on behind what the record has.

    Returns:
        Whether it came to its end.
    """
    for _ in range(MAX_STARTS):
        end = _watched(command, path)
        if end.status == 0:
            return True
        record = Record.read(path)
        if not record.current:
            print(f"no case had begun: {end.words()}")
            return False
        blame(record, end)
        record.write(path)
        print(f"  {record.rows[-1].note}; going on in a new process", flush=True)
    return False


def blame(record: Record, end: End) -> None:
    """Add a row for the case at which a process died; ours is measured first, so the rest is a peer's."""
    section, _, case = record.current.partition(" / ")
    mine = [row for row in record.rows if (row.section, row.case, row.side) == (section, case, OURS)]
    if not mine:
        record.rows.append(Row(section, case, OURS, "FAIL", end.words()))
    elif mine[0].status != "FAIL":
        record.rows.append(Row(section, case, "a peer", "unavailable", end.words()))
    record.current = ""


def _watched(command: Sequence[str], path: Path) -> End:
    """A process, killed when its record has not changed for too long."""
    process = subprocess.Popen(command)
    heard = time.monotonic()
    stamp = _stamp(path)
    try:
        while True:
            try:
                return End(process.wait(timeout=1.0))
            except subprocess.TimeoutExpired:
                pass
            if (new := _stamp(path)) != stamp:
                heard, stamp = time.monotonic(), new
            if time.monotonic() - heard > SILENT_S:
                return End(None)
    finally:
        process.kill()
        process.wait()


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
