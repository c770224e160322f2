"""Run directories: what a run was asked, what it measured, what it saved.

- config.toml: the full configuration, from which the run can be repeated;
- metrics.jsonl: one row per logged step or evaluation;
- samples.jsonl: what the model produced at evaluations;
- checkpoints/step-000100/ and so on, each also a model directory;
- report.html, written by `tempa.report`.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempa.config import to_dict, to_toml
from tempa.train import checkpoint

# Settings that say where a run goes and not what it is.
_PLACE = ("out", "overwrite")


@dataclass(frozen=True)
class RunDir:
    """The directory of one run; `open` makes or checks it.

    Attributes:
        path: The directory.
    """

    path: Path

    @classmethod
    def open(cls, path: Path, config: Any, *, overwrite: bool = False) -> RunDir:
        """Make the directory for a run of `config`, or find the same run there.

        Args:
            path: Where; parents are made.
            config: The recipe's configuration, saved as config.toml.
            overwrite: Start anew, deleting what a run has written here before.

        Raises:
            ValueError: If the directory holds a run with another configuration.
        """
        run = cls(path)
        if overwrite:
            run.clear()
        # A file that says overwrite would delete the run that it is used to resume.
        text = to_toml(
            dataclasses.replace(config, overwrite=False) if hasattr(config, "overwrite") else config
        )
        if run.config.exists():
            difference = _first_difference(tomllib.loads(run.config.read_text("utf-8")), tomllib.loads(text))
            if difference:
                raise ValueError(
                    f"{run.config} has {difference}; choose another directory with --out, "
                    "or start anew with --overwrite"
                )
            return run
        path.mkdir(parents=True, exist_ok=True)
        partial = run.config.with_suffix(".toml.partial")
        partial.write_text(text, "utf-8")
        partial.rename(run.config)
        return run

    @property
    def config(self) -> Path:
        """The saved configuration."""
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        """Rows of measures."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """Rows of sampled text."""
        return self.path / "samples.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The directory of checkpoints."""
        return self.path / "checkpoints"

    def latest_checkpoint(self) -> Path | None:
        """The newest finished checkpoint, or None."""
        return checkpoint.latest(self.checkpoints)

    def rows(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl."""
        return _rows(self.metrics)

    def append(self, path: Path, row: dict[str, Any]) -> None:
        """Add one row to `metrics` or `samples`; it is in the system's hands when this returns."""
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    def cut_back(self, step: int) -> None:
        """Drop rows of later steps, and a row that a kill has cut short, from metrics and samples."""
        for path in (self.metrics, self.samples):
            if path.exists():
                os.truncate(path, _end_of_step(path.read_bytes(), step))

    def clear(self) -> None:
        """Delete what a run writes; other files in the directory stay."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for path in (self.metrics, self.samples, self.path / "report.html", self.config):
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory, so that a second process cannot train in it.

        Raises:
            ValueError: If another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # The lock goes with the descriptor, so a killed process holds nothing.
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self.path}: another process trains here; wait for it or use --out") from None
        else:
            yield
        finally:
            os.close(descriptor)


def resolve_model(path: Path | str) -> Path:
    """The model directory that a path means: itself, or the newest checkpoint of a run.

    Args:
        path: A model directory, a checkpoint, or a run directory.

    Raises:
        FileNotFoundError: If there is no model there.
    """
    path = Path(path)
    if (path / "model.safetensors").exists():
        return path
    newest = checkpoint.latest(path / "checkpoints") or checkpoint.latest(path)
    if newest is None:
        raise FileNotFoundError(
            2, "no model here; expected model.safetensors, or checkpoints of a run", str(path)
        )
    return newest


def config_hash(config: Any) -> str:
    """SHA-256 of a configuration without the settings that only say where the run goes."""
    values = {key: value for key, value in to_dict(config).items() if key not in _PLACE}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _first_difference(old: dict[str, Any], new: dict[str, Any], table: str = "") -> str:
    for key in [*new, *(key for key in old if key not in new)]:
        if not table and key in _PLACE:
            continue
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            inner = _first_difference(was, now, f"{table}{key}.")
            if inner:
                return inner
        elif was != now:
            return f"{table}{key} = {_shown(was)}, this command has {_shown(now)}"
    return ""


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _end_of_step(data: bytes, step: int) -> int:
    """How many bytes of a file of rows belong to steps up to `step`."""
    end = 0
    for line in data.splitlines(keepends=True):
        try:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        end += len(line)
    return end
