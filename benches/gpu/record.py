"""What was measured on one device, kept in a JSON file that grows with every row."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["ok", "FAIL", "unavailable", "skipped"]


@dataclass(frozen=True)
class Row:
    """One side of one case.

    Attributes:
        section: Name of the section.
        case: Name of the case.
        side: "tempa" or a peer.
        status: "FAIL" is ours alone: a wrong result, or an error.
        note: Why it failed, is unavailable or was skipped.
        error: Distance of the result from that of the first peer, see `comparison.difference`.
        median_s: Seconds of a call; None if it was not timed. Likewise the percentiles.
        p10_s: 10th percentile.
        p90_s: 90th percentile.
        rounds: Times behind them.
        rate: Work by the median.
        unit: Of the rate.
        share: Of the ceiling.
        ceiling: Its name, or "".
        ratio: How many times as fast ours is; None for ours.
        peak_bytes: Memory of a call, if it was measured.
        targets: Pairs of a target and its verdict.
    """

    section: str
    case: str
    side: str
    status: Status = "ok"
    note: str = ""
    error: float | None = None
    median_s: float | None = None
    p10_s: float | None = None
    p90_s: float | None = None
    rounds: int = 0
    rate: float | None = None
    unit: str = ""
    share: float | None = None
    ceiling: str = ""
    ratio: float | None = None
    peak_bytes: int | None = None
    targets: list[list[str]] = field(default_factory=list)


@dataclass
class Record:
    """All rows of a device.

    Attributes:
        machine: Name, clocks, driver, versions: what `ceilings.describe` found.
        ceilings: Name to measured rate, in bytes or operations a second.
        rows: In the order of measuring.
        current: "section / case" at work; where a process died.
        command: What to type to measure again.
        date: ISO, when the run began.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    current: str = ""
    command: str = "make gpu-bench"
    date: str = ""

    def write(self, path: Path) -> None:
        """Replace the file at once, so that a killed run leaves a whole one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a file.

        Raises:
            ValueError: If the file does not follow the schema.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**fields, "rows": [Row(**row) for row in fields["rows"]]})
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not a record of a GPU: {error}") from None

    @property
    def done(self) -> set[str]:
        """The cases that have rows, as "section / case"."""
        return {f"{row.section} / {row.case}" for row in self.rows}

    @property
    def failures(self) -> list[Row]:
        """The rows that make the run a failure."""
        return [row for row in self.rows if row.status == "FAIL"]


def file_name(device_name: str) -> str:
    """Of the record of a device.

    >>> file_name("NVIDIA H100 80GB HBM3")
    'gpu-nvidia-h100-80gb-hbm3.json'
    """
    return f"gpu-{re.sub(r'[^a-z0-9]+', '-', device_name.lower()).strip('-')}.json"
