from __future__ import annotations

import dataclasses
import time

import pytest

from tempa.bench import results
from tempa.bench.machine import describe, machine, versions
from tempa.bench.results import Result
from tempa.bench.timing import MIN_ROUNDS, measure


def _result(side: str, median: float, unit: str = "s") -> Result:
    return Result(
        title="A bench",
        group="encode",
        name="short",
        side=side,
        unit=unit,
        median=median,
        iqr=0.0,
        rounds=5,
        ratio=None,
        machine=machine(),
        versions=versions("numpy"),
        date="2026-01-01",
        command="pytest benches",
    )


def test_a_ratio_says_how_many_times_better_ours_is() -> None:
    times = results.compare([_result("peer", 3.0), _result("ours", 2.0)])
    assert [row.ratio for row in times] == [1.5, None]
    rates = results.compare([_result("peer", 3.0, "B/s"), _result("ours", 2.0, "B/s")])
    assert rates[0].ratio == pytest.approx(2 / 3)


def test_a_case_without_our_side_has_no_ratio() -> None:
    assert results.compare([_result("peer", 3.0)])[0].ratio is None


def test_a_newer_result_replaces_the_older_of_its_side_only(tmp_path) -> None:
    path = tmp_path / "results" / "bench_encode.json"
    results.merge(path, [_result("ours", 2.0), _result("peer", 4.0)])
    results.merge(path, [_result("ours", 1.0)])
    assert [(row.side, row.median, row.ratio) for row in results.read(path)] == [
        ("ours", 1.0, None),
        ("peer", 4.0, 4.0),
    ]


def test_a_file_of_another_schema_is_named_in_the_error(tmp_path) -> None:
    path = tmp_path / "old.json"
    path.write_text('[{"name": "x"}]')
    with pytest.raises(ValueError, match=r"old\.json: not a list of results"):
        results.read(path)


def test_a_result_names_machine_and_versions() -> None:
    row = dataclasses.asdict(_result("ours", 1.0))
    assert row["machine"]["cores"] >= 1
    assert str(row["machine"]["cores"]) in describe(row["machine"])
    assert {"python", "numpy"} <= set(row["versions"])


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "s", "0 s"),
        (0.9999, "s", "1000 ms"),
        (90.0, "s", "90 s"),
        (5400.0, "s", "5400 s"),
        (2.5e9, "FLOP/s", "2.5 GFLOP/s"),
        (1.886, "nats", "1.89 nats"),
        (3 << 20, "B", "3.15 MB"),
    ],
)
def test_quantities_read_well(value, unit, text) -> None:
    assert results.quantity(value, unit) == text


def test_measuring_calls_at_least_the_least_number_of_rounds() -> None:
    rounds = measure(lambda: time.sleep(0.003), budget_s=0.0)
    assert len(rounds) == MIN_ROUNDS
    assert all(duration >= 0.003 for duration in rounds)
