"""`tempa pretrain` end to end, and the table of recipes behind it."""

import dataclasses
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tempa import cli
from tempa.cli.train import RECIPES
from tempa.train.run import RunDir

SMALL = (
    "--tokenizer characters --seq-len 16 --batch-size 4 --steps 6 --eval-every 3 --save-every 3 --device cpu"
)
SHAPE = "--shape depth=1 width=16 num_heads=2"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{a} and {b} make {a + b}; " for a in range(12) for b in range(12)))
    return path


def pretrain(text: Path, out: Path, more: str = "") -> int:
    words = ["pretrain", "--data", str(text), "--out", str(out), *f"{SMALL} {more} {SHAPE}".split()]
    return cli.run(words)


@pytest.mark.parametrize("name", RECIPES)
def test_every_training_command_has_its_recipe(name: str) -> None:
    recipe = RECIPES[name]
    module = importlib.import_module(recipe.module)
    assert callable(getattr(module, name))
    assert dataclasses.is_dataclass(getattr(module, recipe.config))
    assert cli.COMMANDS[name][0] == "train"


def test_every_training_command_is_in_the_table() -> None:
    assert set(RECIPES) == {name for name, (module, _) in cli.COMMANDS.items() if module == "train"}


@pytest.mark.parametrize("name", RECIPES)
def test_the_options_of_an_example_exist_and_are_enough(name: str) -> None:
    recipe = RECIPES[name]
    config = getattr(importlib.import_module(recipe.module), recipe.config)
    required = {
        field.name
        for field in dataclasses.fields(config)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    for line in recipe.example.splitlines():
        options = {word.replace("-", "_") for word in re.findall(r"--([a-z-]+)", line)}
        assert required <= options <= {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize("name", RECIPES)
def test_help_shows_the_example_and_how_to_resume(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.run([name, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"tempa {name} --" in shown
    assert "the same command goes on" in " ".join(shown.split())


def test_pretrain_prints_where_the_model_is_and_how_good(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(text, tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}/run/checkpoints/step-000006: step 6  loss ")
    assert "bits_per_byte" in out
    assert pretrain(text, tmp_path / "run") == 0
    assert capsys.readouterr().out == out


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr().err.splitlines()
    errors = [line for line in shown if line.startswith("tempa pretrain: ")]
    assert len(errors) == 1
    return errors[0]


def test_a_changed_setting_is_one_line(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(text, tmp_path / "run") == 0
    assert pretrain(text, tmp_path / "run", "--lr 0.5") == 1
    assert "config.toml has lr = 0.003, this command has 0.5; choose another" in one_line(capsys)


def test_one_flipped_byte_in_a_checkpoint_is_one_line_that_says_what_to_delete(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(text, tmp_path / "run") == 0
    newest = RunDir(tmp_path / "run").latest_checkpoint()
    assert newest is not None
    path = newest / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    capsys.readouterr()
    assert pretrain(text, tmp_path / "run") == 1
    assert f"{path} is damaged or missing; delete {newest} to resume from step-000003" in one_line(capsys)
    shutil.rmtree(newest)
    assert pretrain(text, tmp_path / "run") == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds two checkpoints of the small model and no third."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=240k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    text: Path, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, keep = small_disk / "run", "--save-every 1 --keep-checkpoints 9"
    assert pretrain(text, out, keep) == 1
    message = one_line(capsys)
    assert "no space left on device; free some space and run the same command again" in message
    assert "is intact" in message
    # With room, the same command ends with the metrics of a run that always had it.
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    assert pretrain(text, moved, keep) == 0
    assert pretrain(text, tmp_path / "straight", keep) == 0
    rows = [untimed(RunDir(path)) for path in (moved, tmp_path / "straight")]
    assert rows[0] == rows[1]


def untimed(run: RunDir) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "time"} for row in run.rows()]


@pytest.mark.slow
def test_ctrl_c_saves_says_so_and_exits_with_130(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = f"--data {text} --out {out} --tokenizer characters --seq-len 16 --batch-size 4 --steps 100000"
    command = [sys.executable, "-m", "tempa", "pretrain", *words.split(), "--log-every", "1", *SHAPE.split()]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"train"' in metrics.read_text()):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=120)
    assert process.returncode == 130
    newest = RunDir(out).latest_checkpoint()
    assert newest is not None
    assert f"saved {newest}" in shown
    assert "tempa pretrain: interrupted; run the same command again to go on" in shown
    assert "Traceback" not in shown
