from __future__ import annotations

import importlib.util
from pathlib import Path

from tempa.bench.results import Result, compare

PATH = Path(__file__).resolve().parents[2] / "benches" / "report.py"


def _report():
    spec = importlib.util.spec_from_file_location("bench_report", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _result(name: str, side: str, median: float, unit: str) -> Result:
    machine = {"cpu": "EPYC", "cores": 2, "memory_gib": 24, "flags": [], "gpu": None, "system": "Linux"}
    return Result(
        title="Encode", group="batch", name=name, side=side, unit=unit, median=median, iqr=0.0, rounds=5,
        ratio=None, machine=machine, versions={"tempa": "0.1.0"}, date="2026-01-01", command="pytest benches",
    )  # fmt: skip


def test_cases_keep_their_order_and_a_faster_peer_is_shown_as_such() -> None:
    rows = [
        _result("64", "peer", 1.0, "s"),
        _result("64", "ours", 2.0, "s"),
        _result("1024", "ours", 3e6, "B/s"),
        _result("1024", "peer", 1e6, "B/s"),
        _result("memory", "peer", 4.0, "MiB"),
        _result("memory", "ours", 2.0, "MiB"),
    ]
    text = _report().section(compare(rows))
    table = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert table[1:] == [
        "| 64 | ours | 2 s | 0 s | 5 |  |",
        "| 64 | peer | 1 s | 0 s | 5 | 2 times slower |",
        "| 1024 | ours | 3 MB/s | 0 B/s | 5 |  |",
        "| 1024 | peer | 1 MB/s | 0 B/s | 5 | 3 times faster |",
        "| memory | ours | 2 MiB | 0 MiB | 5 |  |",
        "| memory | peer | 4 MiB | 0 MiB | 5 | 2 times lower |",
    ]
    assert "- `pytest benches`, 2026-01-01, EPYC, 2 cores, 24 GiB, Linux; tempa 0.1.0" in text
