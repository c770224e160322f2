"""The report of a run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tempa.report import write_run_report


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    clock = {"train_s": 12.0, "train_cpu_s": 24.0, "tokens_per_s": 1234.0}
    rows: list[dict[str, Any]] = [{"step": 0, "eval": {"loss": 3.0}, "time": clock}]
    rows += [
        {"step": n, "train": {"loss": 3.0 / n, "lr": 0.1, "tokens": n}, "time": clock} for n in (1, 2, 3)
    ]
    rows += [{"step": 3, "eval": {"loss": 1.5, "reward": 0.25}, "time": clock}]
    (tmp_path / "metrics.jsonl").write_text(lines(rows))
    (tmp_path / "config.toml").write_text('lr = 0.1\nname = "<b>"\n')
    (tmp_path / "samples.jsonl").write_text(lines([{"step": 3, "text": "</pre><script>alert(1)</script>"}]))
    return tmp_path


def test_the_report_has_configuration_curves_measures_and_samples(run_dir: Path) -> None:
    html = write_run_report(run_dir).read_text("utf-8")
    assert html.count("<svg") == 1  # the loss; one point of reward is a row of the table
    for text in ("3 steps, 12 s, 1,234 tokens/s", "1.5", "0.25", "lr = 0.1", "&lt;script&gt;"):
        assert text in html
    assert "<script" not in html


def test_equal_runs_give_equal_reports(run_dir: Path) -> None:
    assert write_run_report(run_dir).read_bytes() == write_run_report(run_dir).read_bytes()


def test_a_run_with_metrics_alone_has_a_report(run_dir: Path) -> None:
    (run_dir / "config.toml").unlink()
    (run_dir / "samples.jsonl").unlink()
    assert write_run_report(run_dir).exists()


def test_a_run_that_has_measured_nothing_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    assert "Nothing has been measured" in write_run_report(tmp_path).read_text("utf-8")


def test_a_row_cut_short_by_a_kill_is_left_out(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "tra')
    assert "3 steps" in write_run_report(run_dir).read_text("utf-8")


def test_a_damaged_row_is_named(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write("oops\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 6 is not a JSON object"):
        write_run_report(run_dir)


def test_a_directory_without_metrics_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        write_run_report(tmp_path)
