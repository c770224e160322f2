"""The bench of kernels without a GPU: how it checks, times, judges, records, goes on and reports."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from pretended import PretendedRig

from gpu import __main__ as bench
from gpu import ceilings, sections, supervise, tables, worker
from gpu.comparison import OURS, Case, Comparison, Target, difference
from gpu.measure import rows_of
from gpu.record import Record, Row, file_name
from gpu.rig import compiled
from gpu.sections import SECTIONS, Section, ends
from gpu.supervise import End, blame


def _gives(*values: float) -> Callable[[], Callable[[], torch.Tensor]]:
    return lambda: lambda: torch.tensor(values)


def _raises(error: Exception) -> Callable[[], Callable[[], torch.Tensor]]:
    def make():
        raise error

    return make


def _rows(rig: PretendedRig, sides, **options) -> dict[str, Row]:
    problem = Comparison(sides, **{"tolerance": 0.01, "amount": 3.0, **options})
    return {row.side: row for row in rows_of(rig, "s", Case("c", lambda _: problem), {"copy": 4e6})}


def test_a_difference_is_of_norms_and_never_hides_what_is_not_a_number() -> None:
    one = torch.tensor([3.0, 4.0])
    assert difference([one, one * 1.1], [one, one]) == pytest.approx(0.1, rel=1e-6)
    assert difference([torch.tensor([3.0, math.nan])], [one]) == math.inf
    assert difference([one], [torch.zeros(2)]) == math.inf
    assert difference([torch.zeros(2)], [torch.zeros(2)]) == 0
    assert difference([one], [one, one]) == math.inf
    assert difference([one[:1]], [one]) == math.inf
    assert difference([torch.tensor([1, 2])], [torch.tensor([1, 3])]) == 0.5


def test_times_rates_shares_and_ratios(rig: PretendedRig, monkeypatch) -> None:
    seconds = iter([[1e-6] * 30, [2e-6] * 10 + [3e-6] * 10 + [4e-6] * 10])
    monkeypatch.setattr(rig, "times", lambda run, pace, rounds: next(seconds))
    rows = _rows(rig, {OURS: _gives(1.0), "peer": _gives(1.001)}, targets=(Target("share", 0.7, 0.8),))
    mine, peer = rows[OURS], rows["peer"]
    assert (mine.median_s, mine.rate, mine.share, mine.ratio) == (1e-6, 3e6, 0.75, None)
    assert (peer.median_s, peer.p10_s, peer.p90_s) == pytest.approx((3e-6, 2e-6, 4e-6))
    assert peer.rounds == 30
    assert (peer.ratio, peer.share) == (3.0, 0.25)
    assert mine.targets == [["at least 70% of copy, goal 80%", "met"]]
    assert mine.error == pytest.approx(0.001, rel=1e-2)


def test_a_wrong_result_fails_and_is_timed_all_the_same(rig: PretendedRig) -> None:
    rows = _rows(rig, {OURS: _gives(1.1), "peer": _gives(1.0)})
    assert rows[OURS].status == "FAIL"
    assert "0.1 away, allowed is 0.01" in rows[OURS].note
    assert rows[OURS].median_s
    assert rows["peer"].ratio == 1


def test_a_peer_that_is_missing_or_wrong_is_reported_and_stops_nothing(rig: PretendedRig) -> None:
    missing = ModuleNotFoundError("No module named 'x'\nand more")
    rows = _rows(rig, {OURS: _gives(1.0), "a": _raises(missing), "b": _gives(1.0), "c": _gives(2.0)})
    assert rows[OURS].status == "ok"
    assert (rows["a"].status, rows["a"].note) == ("unavailable", "ModuleNotFoundError: No module named 'x'")
    assert (rows["b"].status, rows["c"].status) == ("ok", "unavailable")
    assert rows["c"].note == "its result is 1 away from that of b"


def test_without_any_peer_a_result_counts_as_wrong(rig: PretendedRig) -> None:
    rows = _rows(rig, {OURS: _gives(1.0), "a": _raises(ImportError("gone"))})
    assert (rows[OURS].status, rows[OURS].note) == ("FAIL", "no peer is available to check the result")
    assert _rows(rig, {OURS: _gives(1.0)}, tolerance=0.0)[OURS].status == "ok"


def test_a_side_with_random_numbers_of_its_own_is_timed_and_checks_nothing(rig: PretendedRig) -> None:
    rows = _rows(rig, {OURS: _gives(1.0), "a": _gives(5.0), "b": _gives(1.0)}, unchecked=("a",))
    assert [row.status for row in rows.values()] == ["ok"] * 3
    assert _rows(rig, {OURS: _gives(1.0), "a": _gives(1.0)}, unchecked=("a",))[OURS].status == "FAIL"


def test_an_error_of_ours_is_a_failure_and_nothing_is_timed(rig: PretendedRig) -> None:
    rows = _rows(rig, {OURS: _raises(ValueError("bad shape")), "peer": _gives(1.0)})
    assert list(rows) == [OURS]
    assert (rows[OURS].status, rows[OURS].note) == ("FAIL", "ValueError: bad shape")
    assert rig.num_timed == 0


@pytest.mark.parametrize(
    ("target", "value", "words", "verdict"),
    [
        (Target("rate", 370e12, 580e12), 400e12, "at least 370 TFLOP/s, goal 580", "met"),
        (Target("time", 9.5, 7.0), 6.9, "at most 9.5 µs, goal 7", "goal met"),
        (Target("ratio", 1.1, peer="nanoGPT"), 1.0, "at least 1.10 times as fast as nanoGPT", "short"),
        (Target("memory", 0.1, peer="torch"), 0.2, "at most 10% of the memory of torch", "short"),
    ],
)
def test_targets_are_shown_and_judged(target, value, words, verdict) -> None:
    assert target.words("FLOP/s", "gemm") == words
    assert target.verdict(value) == verdict


def test_memory_and_ratio_are_judged_beside_their_peer(rig: PretendedRig) -> None:
    targets = Target("memory", 0.1, peer="peer"), Target("ratio", 1.0, peer="peer")
    sides = {OURS: _gives(1.0), "peer": _gives(1.0)}
    rows = _rows(rig, sides, targets=targets, measures_memory=True)
    assert rows[OURS].targets == []
    assert [verdict for _, verdict in rows["peer"].targets] == ["short", "met"]


def _sections(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Sections of two cases each, of which the second fails in "bad"."""

    def cases(name: str) -> list[Case]:
        def build(value: float) -> Callable[..., Comparison]:
            return lambda _: Comparison({OURS: _gives(value), "peer": _gives(1.0)}, 0.01, 1.0)

        return [Case("one", build(1.0), is_quick=True), Case("two", build(2.0 if name == "bad" else 1.0))]

    listed = {name: Section(f"Of {name}", lambda name=name: cases(name), 10) for name in names}
    for module in (sections, worker, tables):
        monkeypatch.setattr(module, "SECTIONS", listed)


def test_a_run_is_written_row_by_row_and_goes_on_where_it_was(tmp_path, rig, monkeypatch, capsys) -> None:
    _sections(monkeypatch, "good", "bad")
    path = tmp_path / "gpu.json"
    whole = {"is_quick": False, "begun": time.time(), "budget_s": 100.0}
    assert worker.work(rig, Record(), path, ["good", "bad"], **whole)
    record = Record.read(path)
    assert [(row.section, row.case) for row in record.rows if row.side == OURS] == [
        ("good", "one"), ("good", "two"), ("bad", "one"), ("bad", "two"),
    ]  # fmt: skip
    assert [(row.section, row.case) for row in record.failures] == [("bad", "two")]
    assert set(record.ceilings) == {"copy", "read", "gemm"}
    assert "FAIL" in capsys.readouterr().out
    record.rows = [row for row in record.rows if row.case == "one"]
    num_timed = rig.num_timed
    worker.work(rig, record, path, ["good"], **whole)
    assert rig.num_timed == num_timed + 2
    assert {f"{row.section} {row.case}" for row in Record.read(path).rows} == {
        "good one",
        "good two",
        "bad one",
    }


def test_a_section_without_time_left_is_skipped_and_quick_runs_take_some_cases(
    tmp_path, rig, monkeypatch
) -> None:
    _sections(monkeypatch, "good", "late")
    record = Record()
    worker.work(rig, record, tmp_path / "r.json", ["good"], is_quick=True, begun=time.time(), budget_s=9.0)
    assert record.done == {"good / one"}
    worker.work(rig, record, tmp_path / "r.json", ["late"], is_quick=False, begun=0.0, budget_s=9.0)
    skipped = [row for row in record.rows if row.status == "skipped"]
    assert [row.note for row in skipped] == ["no time is left; --only late"] * 2
    assert not record.failures


def test_a_section_ends_later_when_those_before_it_were_short() -> None:
    until = ends(list(SECTIONS), 500.0)
    assert list(until.values())[-1] == pytest.approx(500.0)
    assert sorted(until.values()) == list(until.values())


def test_what_a_dead_process_was_at_is_blamed_on_the_side_at_work() -> None:
    record = Record(current="decode / one of 4096 tokens")
    blame(record, End(-11))
    assert (record.rows[-1].status, record.rows[-1].side) == ("FAIL", OURS)
    assert record.rows[-1].note == "the process ended with status -11"
    record = Record(rows=[Row("decode", "x", OURS)], current="decode / x")
    blame(record, End(None))
    assert (record.rows[-1].status, record.rows[-1].side) == ("unavailable", "a peer")
    assert record.current == ""


class _Process:
    """Dies or hangs in its first case, and comes to its end when it is started again."""

    def __init__(self, path: Path, status: int | None) -> None:
        self.path, self.status, self.num_started = path, status, 0

    def start(self, command: list[str]) -> _Process:
        self.num_started += 1
        record = Record.read(self.path)
        if record.rows:
            record.rows.append(Row("s", "second", OURS))
        else:
            record.current = "s / first"
        record.write(self.path)
        return self

    def wait(self, timeout: float | None = None) -> int:
        if self.num_started > 1:
            return 0
        if self.status is None and timeout is not None:
            raise subprocess.TimeoutExpired("gpu", timeout)
        return self.status or -9

    def kill(self) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "note"), [(70, "the process ended with status 70"), (None, "killed: silent for 150 s")]
)
def test_a_process_that_dies_or_hangs_costs_its_case_and_no_other(
    tmp_path, monkeypatch, status, note
) -> None:
    path = tmp_path / "gpu.json"
    Record().write(path)
    process, seconds = _Process(path, status), iter(range(10_000))
    monkeypatch.setattr(subprocess, "Popen", process.start)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    assert supervise.run(["gpu"], path)
    rows = Record.read(path).rows
    assert [(row.case, row.status, row.note) for row in rows] == [
        ("first", "FAIL", note),
        ("second", "ok", ""),
    ]


def test_a_process_that_dies_before_its_first_case_is_not_started_again(tmp_path) -> None:
    path = tmp_path / "gpu.json"
    Record().write(path)
    assert not supervise.run([sys.executable, "-S", "-c", "raise SystemExit(1)"], path)
    assert Record.read(path).rows == []


def test_ceilings_are_rates_of_all_bytes_and_operations(rig: PretendedRig) -> None:
    found = ceilings.measure(rig)
    median = 1e-6 * (1 + 14.5 / 30)
    assert found == {
        name: pytest.approx(amount / median)
        for name, amount in {"copy": 2 * 4096, "read": 4096, "gemm": 2 * 16**3}.items()
    }


def test_the_backward_of_a_compiled_function_may_be_timed_again_and_again(monkeypatch) -> None:
    # Without the C++ compiler, which takes most of a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    x = torch.randn(4, 8, requires_grad=True)
    out = compiled(lambda x: (x.exp() * x).sin(), repeats_backward=True)(x)
    runs = [torch.autograd.grad(out, x, torch.ones_like(out), retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*runs)


def test_the_help_has_an_example_and_every_section() -> None:
    text = bench._parser().format_help()
    assert "make gpu-bench ARGS=" in text
    assert all(name in text for name in SECTIONS)


def test_a_damaged_record_is_named(tmp_path) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"rows": [{"section": "s"}]}))
    with pytest.raises(ValueError, match="not a record of a GPU"):
        Record.read(path)
    assert file_name("NVIDIA H200") == "gpu-nvidia-h200.json"


def test_the_page_shows_every_side_and_no_numbers_without_a_run(monkeypatch) -> None:
    _sections(monkeypatch, "good")
    assert tables.page(None).splitlines()[2] == tables.NOT_RUN
    mine = Row(
        "good", "one", OURS, median_s=9e-6, p10_s=8e-6, p90_s=1e-5, rounds=30, rate=2e12, unit="B/s",
        share=0.7, ceiling="copy", targets=[["at most 9.5 µs, goal 7", "met"]],
    )  # fmt: skip
    wrong = Row("good", "two", OURS, "FAIL", note="0.1 | away", median_s=1e-6, p10_s=1e-6, p90_s=1e-6)
    gone = Row("good", "one", "FA3", "unavailable", note="no module")
    record = Record({"name": "H100", "driver": "580"}, {"copy": 3e12}, [mine, gone, wrong], date="2026-01-02")
    lines = tables.page(record).splitlines()
    assert "H100: driver 580; ." in lines
    assert "Measured ceilings: copy 3 TB/s." in lines
    assert [line for line in lines if line.startswith(("| one", "| two"))] == [
        "| one | tempa | 9 µs | 8 µs to 10 µs | 2 TB/s | 70% of copy |  | at most 9.5 µs, goal 7: met |",
        "| one | FA3 | unavailable: no module |  |  |  |  |  |",
        "| two | tempa | 1 µs | 1 µs to 1 µs |  |  |  | FAIL: 0.1 / away |",
    ]
    assert "FAIL      good: two: 0.1 | away" in tables.summary(record)
    assert "met       good: one: at most 9.5 µs, goal 7" in tables.summary(record)
    assert all(tables.line(row) for row in record.rows)
