"""A small stage on made-up sequences, for tests of the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempa.data.packed import Packed
from tempa.model import ModelConfig, Transformer
from tempa.train.loop import FitResult, fit
from tempa.train.run import RunDir
from tempa.train.settings import TrainConfig
from tempa.train.stage import Loss, Stage

SHAPE = ModelConfig(vocab_size=16, depth=1, width=16, num_heads=2, max_positions=64)


@dataclass
class Counting(Stage):
    """Learns to count modulo 16, on ragged sequences, in two micro-batches a step."""

    name: str = "counting"
    steps_seen: list[int] = field(default_factory=list)
    save_only_every: int = 1
    during_step: Callable[[int], None] = lambda step: None
    scale: Callable[[int], float] = lambda step: 1.0

    def micro_batches(self, step: int) -> tuple[Sequence[Packed], float]:
        self.during_step(step)
        self.steps_seen.append(step)
        rng = np.random.default_rng(step)
        rows = [(rng.integers(16) + np.arange(rng.integers(2, 30))) % 16 for _ in range(8)]
        pieces = [Packed.from_rows(rows[:3]), Packed.from_rows(rows[3:])]
        return pieces, sum(float(piece.weights.sum()) for piece in pieces)

    def loss(self, model: Transformer, micro: Packed) -> Loss:
        total, count = model.loss(micro)
        total = total * self.scale(self.steps_seen[-1])
        return Loss(total, micro.num_tokens, {"doubled": (2 * total.detach(), count)})

    def evaluate(self, model: Transformer, step: int) -> dict[str, float]:
        total, count = model.loss(Packed.from_rows([np.arange(16)]))
        return {"loss": float(total / count)}

    def samples(self, model: Transformer, step: int) -> list[dict[str, Any]]:
        return [{"text": f"after {step}"}]

    def state(self) -> dict[str, Any]:
        return {"last": self.steps_seen[-1]}

    def load_state(self, state: dict[str, Any]) -> None:
        self.steps_seen.append(state["last"])

    def can_save(self, step: int) -> bool:
        return step % self.save_only_every == 0


@pytest.fixture
def counting() -> type[Counting]:
    return Counting


@pytest.fixture
def train_config() -> TrainConfig:
    return TrainConfig(
        steps=12, warmup_steps=2, eval_every=4, save_every=4, log_every=1, device="cpu", precision="fp32"
    )


@pytest.fixture
def train(tmp_path: Path, train_config: TrainConfig) -> Callable[..., FitResult]:
    """Train a fresh tiny model in a directory of this test."""

    def run(
        stage: Stage | None = None, config: TrainConfig = train_config, name: str = "run", **options: Any
    ) -> FitResult:
        directory = RunDir.open(tmp_path / name, config, **options)
        return fit(Transformer(SHAPE), stage or Counting(), config, directory)

    return run
