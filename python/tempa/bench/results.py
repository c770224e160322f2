"""The one schema of measured results, kept as JSON lists and rendered by `benches/report.py`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

OURS = "ours"
_PREFIXES = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}


@dataclass(frozen=True)
class Result:
    """One side of one comparison.

    Attributes:
        title: What the bench file measures.
        group: What is compared.
        name: Which case of the group: sizes, settings.
        side: "ours", or the peer's name.
        unit: Of the median. Rates end in "/s" and are better when higher; the rest is better when lower.
        median: Over the rounds.
        iqr: Distance between the quartiles; 0 for a single round.
        rounds: Measurements taken.
        ratio: How many times better ours is than this side; None for ours.
        machine: From `tempa.bench.machine`.
        versions: Distribution to version.
        date: Day of the measurement, ISO.
        command: What to type to measure again.
    """

    title: str
    group: str
    name: str
    side: str
    unit: str
    median: float
    iqr: float
    rounds: int
    ratio: float | None
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    command: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What a newer result replaces."""
        return self.group, self.name, self.side


def summary(values: Sequence[float]) -> tuple[float, float]:
    """Median and interquartile range.

    >>> summary([1.0, 2.0, 3.0, 4.0, 5.0])
    (3.0, 2.0)
    """
    if len(values) < 2:
        return values[0], 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, high - low


def compare(results: Iterable[Result]) -> list[Result]:
    """The same results with the ratios filled in, where our side of the case is among them."""
    results = list(results)
    ours = {(result.group, result.name): result for result in results if result.side == OURS}
    compared = []
    for result in results:
        base, ratio = ours.get((result.group, result.name)), None
        if base is not None and result.side != OURS and base.median > 0 and result.median > 0:
            ratio = result.median / base.median
            if result.unit.endswith("/s"):
                ratio = 1 / ratio
        compared.append(replace(result, ratio=ratio))
    return compared


def read(path: Path) -> list[Result]:
    """The results in a file.

    Raises:
        ValueError: If the file does not follow the schema.
    """
    try:
        return [Result(**fields) for fields in json.loads(path.read_text(encoding="utf-8"))]
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a list of results: {error}") from None


def merge(path: Path, results: Iterable[Result]) -> None:
    """Add results to a file; those with the same group, name and side are replaced."""
    kept = {result.key: result for result in (read(path) if path.exists() else [])}
    kept.update({result.key: result for result in results})
    rows = [asdict(result) for result in compare(kept.values())]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def quantity(value: float, unit: str) -> str:
    """A number with three digits, its prefix and its unit.

    >>> quantity(1_234_000, "B/s"), quantity(0.00042, "s"), quantity(2.5, "bits/byte")
    ('1.23 MB/s', '420 µs', '2.5 bits/byte')
    """
    scalable = unit.endswith("/s") or unit in ("s", "B")
    power = 0
    if scalable and value:
        power = min(max(3 * math.floor(math.log10(abs(value)) / 3), -9), 12)
        if not unit.endswith("/s") and unit == "s":
            power = min(power, 0)
    digits = f"{value / 10.0**power:.3g}"
    if "e" in digits:  # 999.6 rounds to 1e+03
        digits = f"{value / 10.0**power:.0f}"
    return f"{digits} {_PREFIXES[power]}{unit}"
