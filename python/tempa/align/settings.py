"""What the recipes of alignment share: settings, the model to start from, records to hold out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from tempa.model import ScalarHead, Transformer, load_model
from tempa.tokenizer import Tokenizer
from tempa.train.precision import choose_device, choose_precision
from tempa.train.run import resolve_model
from tempa.train.settings import TrainConfig

Record = TypeVar("Record")
Settings = TypeVar("Settings", bound="RecordSettings")

# An evaluation should take a small part of a run, and intervals narrow slowly beyond this.
_MOST_HELD_OUT = 256


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a recipe reads and writes.

    Attributes:
        model: The model to start from: a model, checkpoint or run directory.
        data: Records, .jsonl or .json; the last tenth, at most 256, is held out for evaluation.
        out: The run directory.
        overwrite: Delete the run that is in `out` and start anew.
    """

    model: Path
    data: Path
    out: Path
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class AlignSettings(TrainConfig):
    """Settings of all alignment; those of the loop are described in `TrainConfig`.

    Attributes:
        batch_size: Records in a step.
        micro_tokens: Tokens that are in memory at once; a step's gradient does not depend on it.
    """

    steps: int = 200
    lr: float = 3e-4
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.0
    batch_size: int = 16
    micro_tokens: int = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "micro_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class RecordSettings(AlignSettings):
    """Settings of the stages that read their records, in place of sampling.

    Attributes:
        epochs: Passes over the records; sets `steps` when positive.
    """

    epochs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 0:
            raise ValueError(f"epochs must not be negative, got {self.epochs}")


def with_steps(settings: Settings, num_records: int) -> Settings:
    """The settings with their epochs as steps; the last step is filled up from the epoch after."""
    if not settings.epochs:
        return settings
    return dataclasses.replace(settings, steps=-(-settings.epochs * num_records // settings.batch_size))


def load_start(path: Path) -> tuple[Transformer, Tokenizer]:
    """The model and tokenizer that alignment starts from.

    Raises:
        FileNotFoundError: If there is no model.
        ValueError: If it was saved without a tokenizer.
    """
    directory = resolve_model(path)
    model, tokenizer = load_model(directory)
    if tokenizer is None:
        raise ValueError(f"{directory}: the model was saved without a tokenizer, so it cannot read chats")
    return model, tokenizer


def hold_out(records: Sequence[Record], path: Path) -> tuple[list[Record], list[Record]]:
    """All but the last tenth to train on, and that tenth.

    Raises:
        ValueError: If there are not at least two records.
    """
    if len(records) < 2:
        raise ValueError(f"{path}: one record is to be held out, so at least 2 are needed")
    held = min(max(len(records) // 10, 1), _MOST_HELD_OUT)
    return list(records[:-held]), list(records[-held:])


def ready(config: TrainConfig, model: Transformer | ScalarHead) -> AbstractContextManager[Any]:
    """Move the model to where `fit` will train it, and give the number format `fit` will use there."""
    device = choose_device(config.device)
    model.to(device)
    bf16 = choose_precision(config.precision, device, model) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)
