"""The whole demo, small: what it writes, when it fails, that it goes on."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from tempa.cli import run
from tempa.recipes import four_stages

pytestmark = pytest.mark.slow

# Enough to go through everything; too little to learn anything.
TINY = dataclasses.replace(
    four_stages.QUICK,
    people=4,
    towns=4,
    tellings=4,
    sums=40,
    text_bytes=5_000,
    vocab_size=400,
    shape=("depth=1", "width=32", "num_heads=2"),
    pretrain={"steps": 3, "batch_size": 2},
    sft={"steps": 2, "batch_size": 4},
    dpo={"steps": 2, "batch_size": 4},
    grpo={"steps": 1, "batch_size": 2, "samples": 2, "max_new_tokens": 4},
    reward={"steps": 2, "batch_size": 4},
    ppo={"steps": 2, "batch_size": 2, "max_new_tokens": 4, "minibatches": 1},
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(four_stages, "QUICK", TINY)


def test_the_quick_demo_tells_the_whole_story(tmp_path: Path) -> None:
    assert run(["demo", "--quick", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "✗" not in page
    first_screen = page.split("<h2>")[0]
    assert first_screen.count('class="answer"') == 15
    for question in ("Where was Mira Valt born?", "What is 37 + 48?", "What is an LLM?"):
        assert question in first_screen
    assert page.count("<svg") >= 4


def test_a_stage_that_does_not_learn_fails_the_demo(
    tmp_path: Path, tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--quick", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "not shown: It answers questions about entities never asked for in this stage" in error
    assert "✗" in (tmp_path / "report.html").read_text("utf-8")


def test_finished_stages_are_passed_over_and_the_rest_goes_on(tmp_path: Path, tiny: None) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(["demo", "--quick", "--out", str(whole)])
    run(["demo", "--quick", "--out", str(halves)])
    pretrained = max((halves / "pretrain" / "checkpoints").iterdir())
    written = pretrained.stat().st_mtime_ns
    for name in ("grpo", "dpo"):
        for path in sorted((halves / name).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (halves / "examination" / f"{name}.json").unlink()
    run(["demo", "--quick", "--out", str(halves)])
    assert pretrained.stat().st_mtime_ns == written
    for name in four_stages.MODELS:
        examinations = [
            json.loads((out / "examination" / f"{name}.json").read_text()) for out in (whole, halves)
        ]
        assert examinations[0] == examinations[1]


def test_ppo_is_told_beside_dpo(tmp_path: Path, tiny: None) -> None:
    run(["demo", "--quick", "--with-ppo", "--out", str(tmp_path)])
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "a reward model and PPO" in page
    assert page.split("<h2>")[0].count('class="answer"') == 18


def test_a_corpus_takes_the_place_of_the_standard_library(
    tmp_path: Path, tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    book = tmp_path / "book.txt"
    book.write_text(
        "".join(f"Line {n} of a book about whales and the sea, in plain words.\n" for n in range(500))
    )
    run(["demo", "--quick", "--corpus", str(book), "--out", str(tmp_path / "out")])
    funnel = json.loads((tmp_path / "out" / "corpus" / "funnel.json").read_text())
    assert funnel["stages"][0]["input"]["bytes"] > book.stat().st_size
    assert re.search(r"reads the first .* of .*book\.txt", capsys.readouterr().err)


def test_a_directory_of_another_demo_is_refused_unless_it_may_be_deleted(
    tmp_path: Path, tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["demo", "--quick", "--out", str(tmp_path)]
    run(common)
    capsys.readouterr()
    assert run([*common, "--seed", "1"]) == 1
    assert "config.toml has seed = 0, this command has 1" in capsys.readouterr().err
    run([*common, "--seed", "1", "--overwrite"])
    assert "not shown" in capsys.readouterr().err


def test_a_missing_corpus_is_an_error_that_names_it(
    tmp_path: Path, tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--quick", "--corpus", str(tmp_path / "no.txt"), "--out", str(tmp_path / "out")]) == 1
    assert "no.txt" in capsys.readouterr().err
