import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tempa.train import checkpoint
from tempa.train.run import RunDir, config_hash, resolve_model


@dataclass(frozen=True)
class Inner:
    depth: int = 2


@dataclass(frozen=True)
class Config:
    out: str = "somewhere"
    overwrite: bool = False
    lr: float = 0.1
    name: str | None = None
    model: Inner = Inner()


def test_a_new_directory_holds_the_configuration(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path / "deep" / "run", Config(lr=0.25))
    assert "lr = 0.25" in run.config.read_text()
    assert "depth = 2" in run.config.read_text()


def test_the_same_configuration_opens_again_wherever_it_lies(tmp_path: Path) -> None:
    RunDir.open(tmp_path, Config(out="a"))
    RunDir.open(tmp_path, Config(out="b"))


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        (Config(lr=0.2), "lr = 0.1, this command has 0.2"),
        (Config(model=Inner(3)), r"model\.depth = 2, this command has 3"),
        (Config(name="x"), 'name = nothing, this command has "x"'),
    ],
)
def test_another_configuration_is_refused_by_its_first_difference(
    tmp_path: Path, config: Config, difference: str
) -> None:
    RunDir.open(tmp_path, Config())
    with pytest.raises(ValueError, match=difference + "; choose another directory with --out.*--overwrite"):
        RunDir.open(tmp_path, config)


def test_overwrite_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path, Config())
    run.append(run.metrics, {"step": 1})
    run.append(run.samples, {"step": 1})
    checkpoint.save(run.checkpoints, 1, lambda directory: None, {}, keep=1)
    (tmp_path / "notes.txt").write_text("mine")
    RunDir.open(tmp_path, Config(lr=0.2), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "notes.txt"]
    assert "lr = 0.2" in run.config.read_text()


def test_the_saved_configuration_never_says_overwrite(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path, Config(overwrite=True), overwrite=True)
    assert "overwrite = false" in run.config.read_text()


def test_cut_back_keeps_rows_up_to_the_step_and_drops_a_torn_one(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step in (0, 1, 2, 2, 3):
        run.append(run.metrics, {"step": step, "text": "ä\n"})
    whole = run.metrics.read_bytes()
    run.metrics.write_bytes(whole + b'{"step": 3, "los')
    run.cut_back(3)
    assert run.metrics.read_bytes() == whole
    run.cut_back(2)
    assert [row["step"] for row in run.rows()] == [0, 1, 2, 2]
    run.cut_back(-1)
    assert run.rows() == []


def test_rows_are_json_lines(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.append(run.metrics, {"step": 1, "loss": 0.5})
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == run.rows()


def test_a_directory_is_held_by_one_process(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with run.lock(), pytest.raises(ValueError, match="another process trains here"), run.lock():
        pass
    with run.lock():
        pass


def test_a_failed_write_names_the_file(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "gone")
    with pytest.raises(FileNotFoundError) as error:
        run.append(run.metrics, {"step": 1})
    assert error.value.filename == str(run.metrics)


def save_model_file(directory: Path) -> None:
    (directory / "model.safetensors").write_text("weights")


def test_a_model_is_found_from_its_own_a_checkpoints_or_a_runs_directory(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step in (1, 2):
        newest = checkpoint.save(run.checkpoints, step, save_model_file, {}, keep=2)
    assert resolve_model(tmp_path) == newest
    assert resolve_model(str(run.checkpoints)) == newest
    assert resolve_model(run.checkpoints / "step-000001") == run.checkpoints / "step-000001"


def test_a_directory_without_a_model_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        resolve_model(tmp_path / "nothing")
    assert error.value.filename == str(tmp_path / "nothing")


def test_the_hash_of_a_configuration_ignores_only_its_place() -> None:
    assert config_hash(Config()) == config_hash(Config(out="b", overwrite=True))
    assert config_hash(Config()) != config_hash(Config(lr=0.2))
    assert config_hash(Config()) != config_hash(Config(model=Inner(3)))
