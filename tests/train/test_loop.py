import dataclasses
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tempa.model import load_model
from tempa.train import checkpoint
from tempa.train.adamw import AdamW
from tempa.train.loop import DivergedError, FitResult
from tempa.train.settings import TrainConfig

Train = Callable[..., FitResult]


def untimed(result_or_run: Any) -> list[dict[str, Any]]:
    """The rows of a run without their clock readings, the only thing that may differ between equal runs."""
    run = getattr(result_or_run, "run", result_or_run)
    return [{key: value for key, value in row.items() if key != "time"} for row in run.rows()]


def weights(result: FitResult) -> str:
    return hashlib.sha256((result.checkpoint / "model.safetensors").read_bytes()).hexdigest()


def test_a_run_writes_rows_samples_and_a_loadable_checkpoint(train: Train) -> None:
    result = train()
    rows = result.run.rows()
    assert [row["step"] for row in rows if "train" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "eval" in row] == [0, 4, 8, 12]
    assert set(rows[1]["train"]) == {"loss", "doubled", "grad_norm", "lr", "tokens"}
    assert [json.loads(line)["step"] for line in result.run.samples.read_text().splitlines()] == [0, 4, 8, 12]
    assert result.metrics == rows[-1]["eval"]
    assert result.metrics["loss"] < rows[0]["eval"]["loss"]
    model, _ = load_model(result.checkpoint)
    assert isinstance(model, torch.nn.Module)


def test_logged_loss_is_the_sum_over_the_denominator(train: Train) -> None:
    # Trap L4: the log shows what was minimised; "doubled" is twice the same sum over the same count.
    for row in train().run.rows():
        if "train" in row:
            assert row["train"]["doubled"] == pytest.approx(2 * row["train"]["loss"], rel=1e-6)


def test_a_finished_run_is_not_trained_again(train: Train, counting: Any) -> None:
    first = train()
    again = counting()
    second = train(again)
    assert again.steps_seen == [11]  # what its state said, and no step
    assert untimed(first) == untimed(second)
    assert second.metrics == first.metrics


@pytest.mark.parametrize("lost", [(12,), (8, 12), "all"])
def test_a_run_resumed_from_any_checkpoint_equals_an_uninterrupted_one(
    train: Train, lost: Any, train_config: TrainConfig
) -> None:
    config = dataclasses.replace(train_config, keep_checkpoints=9)
    straight = train(config=config, name="straight")
    first = train(config=config, name="resumed")
    for path in first.run.checkpoints.iterdir():
        if lost == "all" or int(path.name[5:]) in lost:
            shutil.rmtree(path)
    resumed = train(config=config, name="resumed")
    assert untimed(resumed) == untimed(straight)
    assert weights(resumed) == weights(straight)
    assert resumed.run.samples.read_text() == straight.run.samples.read_text()


def test_a_run_resumed_with_the_adamw_of_cuda_equals_an_uninterrupted_one(
    train: Train, train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdamW, "supports", lambda _: True)
    test_a_run_resumed_from_any_checkpoint_equals_an_uninterrupted_one(train, (8, 12), train_config)


def interrupt_at(step: int, times: int = 1) -> Callable[[int], None]:
    def during(current: int) -> None:
        if current == step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return during


def test_ctrl_c_finishes_the_step_and_saves_it(train: Train, counting: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(counting(during_step=interrupt_at(5)))
    newest = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert checkpoint.load_state(newest)["step"] == 6
    assert untimed(train()) == untimed(train(name="straight"))


def test_ctrl_c_waits_until_the_stage_can_be_saved(train: Train, counting: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(counting(during_step=interrupt_at(4), save_only_every=3))
    newest = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert newest.name == "step-000006"


def test_a_second_ctrl_c_stops_at_once(train: Train, counting: Any, tmp_path: Path) -> None:
    stage = counting(during_step=interrupt_at(5, times=2))
    with pytest.raises(KeyboardInterrupt):
        train(stage)
    assert stage.steps_seen == [0, 1, 2, 3, 4]
    newest = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert newest.name == "step-000004"


def test_signal_handlers_are_put_back(train: Train) -> None:
    before = signal.getsignal(signal.SIGINT)
    train()
    assert signal.getsignal(signal.SIGINT) is before


def test_saving_waits_until_the_stage_can_be_saved(train: Train, counting: Any) -> None:
    result = train(counting(save_only_every=3), TrainConfig(steps=12, save_every=4, keep_checkpoints=9))
    assert sorted(path.name for path in result.run.checkpoints.iterdir()) == [
        "step-000006",  # 4 was due
        "step-000009",  # 8 was due
        "step-000012",
    ]


def test_a_loss_that_is_not_finite_stops_the_run_with_the_weights_before_it(
    train: Train, counting: Any, tmp_path: Path
) -> None:
    stage = counting(scale=lambda step: float("nan") if step == 6 else 1.0)
    with pytest.raises(DivergedError, match=r"step 6: the loss is nan.*step-000006; lower lr") as error:
        train(stage)
    saved = tmp_path / "run" / "checkpoints" / "step-000006"
    assert str(saved) in str(error.value)
    model, _ = load_model(saved)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_damaged_checkpoint_is_named_and_deleting_it_resumes_from_the_one_before(train: Train) -> None:
    first = train()
    weights_file = first.checkpoint / "model.safetensors"
    data = bytearray(weights_file.read_bytes())
    data[-1] ^= 1
    weights_file.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged") as error:
        train()
    assert f"delete {first.checkpoint} to resume from step-000008" in str(error.value)
    shutil.rmtree(first.checkpoint)
    assert untimed(train()) == untimed(train(name="straight"))


def test_a_checkpoint_of_another_configuration_is_refused(train: Train, train_config: TrainConfig) -> None:
    run = train().run
    run.config.unlink()
    with pytest.raises(ValueError, match="was saved with other settings"):
        train(config=dataclasses.replace(train_config, lr=0.5))


def test_a_step_without_micro_batches_updates_nothing(train: Train, counting: Any) -> None:
    class Idle(counting):  # type: ignore[misc]
        def micro_batches(self, step: int) -> tuple[list[Any], float]:
            super().micro_batches(step)
            return [], 0.0

    result = train(Idle())
    evals = {row["eval"]["loss"] for row in result.run.rows() if "eval" in row}
    assert len(evals) == 1
    assert "loss" not in result.run.rows()[1]["train"]


def test_micro_batches_that_count_nothing_are_an_error(train: Train, counting: Any) -> None:
    class Empty(counting):  # type: ignore[misc]
        def micro_batches(self, step: int) -> tuple[Any, float]:
            return super().micro_batches(step)[0], 0.0

    with pytest.raises(ValueError, match=r"counting counted 0\.0 things to learn in step 0"):
        train(Empty())


def test_modules_beside_the_model_are_trained_saved_and_resumed(train: Train, counting: Any) -> None:
    class WithHead(counting):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(1, 1)
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)

        def modules(self) -> dict[str, torch.nn.Module]:
            return {"head": self.head}

        def loss(self, model: Any, micro: Any) -> Any:
            loss = super().loss(model, micro)
            x = torch.full((1, 1), float(self.steps_seen[-1]))
            return dataclasses.replace(loss, total=loss.total + (self.head(x) - 3).square().sum())

    straight, first, second = WithHead(), WithHead(), WithHead()
    train(straight, name="straight")
    result = train(first)
    assert (result.checkpoint / "head.safetensors").exists()
    shutil.rmtree(result.checkpoint)
    train(second)
    assert first.head.weight.item() != 0
    assert torch.equal(second.head.weight, straight.head.weight)


def test_global_random_numbers_of_a_step_depend_on_seed_and_step_alone(train: Train, counting: Any) -> None:
    draws: dict[int, list[float]] = {}

    def draw(step: int) -> None:
        draws.setdefault(step, []).append(float(torch.rand(())))

    train(counting(during_step=draw), name="one")
    torch.rand(7)
    train(counting(during_step=draw), name="two")
    assert all(len(set(values)) == 1 for values in draws.values())
    assert len({values[0] for values in draws.values()}) == 12
