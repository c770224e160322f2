"""The training loop: one for every stage.

The gradient of a step is the sum over its micro-batches of `loss.total / denominator`, with a denominator
counted before the first backward pass. What a step does depends on the seed and the step's number alone, so a
run that was stopped or killed and started again gives the same weights and the same metrics.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tempa._core import TempaError
from tempa.model import ScalarHead, Transformer, save_model
from tempa.report import write_run_report
from tempa.train import checkpoint
from tempa.train.optim import Optimizer, clip_gradients
from tempa.train.precision import choose_device, choose_precision
from tempa.train.progress import TrainProgress
from tempa.train.run import RunDir, config_hash
from tempa.train.schedule import lr_scale
from tempa.train.settings import TrainConfig
from tempa.train.stage import Stage
from tempa.train.stop import StopRequest, stop_on_signal

if TYPE_CHECKING:
    from tempa.tokenizer import Tokenizer

OPTIMIZER_FILE = "optimizer.safetensors"


class DivergedError(TempaError):
    """The loss or its gradient is not a finite number."""


@dataclass(frozen=True)
class FitResult:
    """What a finished run has to show.

    Attributes:
        run: The run directory.
        checkpoint: The last checkpoint, also a model directory.
        metrics: The last evaluation.
        steps: Updates done.
        train_cpu_s: CPU seconds spent in updates, all threads, since the run began.
        train_s: Wall seconds spent in updates, since the run began.
    """

    run: RunDir
    checkpoint: Path
    metrics: dict[str, float]
    steps: int
    train_cpu_s: float
    train_s: float


def fit(
    model: Transformer | ScalarHead,
    stage: Stage,
    config: TrainConfig,
    run: RunDir,
    tokenizer: Tokenizer | None = None,
) -> FitResult:
    """Train `model` until `config.steps`, from the newest checkpoint in `run` if there is one.

    Args:
        model: Trained in place.
        stage: What to train on; see `Stage`.
        config: How to train; a recipe's configuration is one too.
        run: Where metrics, samples and checkpoints go.
        tokenizer: Saved in each checkpoint, so that the checkpoint is a complete model directory.

    Raises:
        DivergedError: If the loss or the gradient is not finite; the weights before that step are saved.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, once the step is finished and saved.
        ValueError: If a checkpoint is damaged or belongs to another configuration.
        OSError: If a file cannot be written; earlier checkpoints are intact.
    """
    return _Fit(model, stage, config, run, tokenizer).train()


class _Fit:
    def __init__(
        self,
        model: Transformer | ScalarHead,
        stage: Stage,
        config: TrainConfig,
        run: RunDir,
        tokenizer: Tokenizer | None,
    ) -> None:
        self.model, self.stage, self.config, self.run, self.tokenizer = model, stage, config, run, tokenizer
        self.device = choose_device(config.device)
        self.modules = stage.modules()
        for module in (model, *self.modules.values()):
            module.to(self.device)
        bf16 = choose_precision(config.precision, self.device, model) == "bf16"
        self.autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=bf16)
        named = [("", model), *((f"{name}.", module) for name, module in self.modules.items())]
        self.optimizer = Optimizer(named, config)
        self.step = self.num_tokens = 0
        self.train_s = self.train_cpu_s = 0.0
        self.summary = (
            f"{stage.name}: {self.device}, {'bf16' if bf16 else 'fp32'}\n{self.optimizer.describe()}"
        )

    def train(self) -> FitResult:
        config, run = self.config, self.run
        with ExitStack() as stack:
            stack.enter_context(run.lock())
            newest = run.latest_checkpoint()
            if newest:
                self._load(newest)
            run.cut_back(self.step if newest else -1)
            checkpoint.remove_leftovers(run.checkpoints)
            if newest is None or self.step < config.steps:
                stop = stack.enter_context(stop_on_signal())
                self.progress = stack.enter_context(TrainProgress(self.stage.name, config.steps, self.step))
                self.progress.note(f"resuming from {newest}" if newest else self.summary)
                newest = self._train_on(stop, fresh=newest is None)
                write_run_report(run.path)
            metrics = next(row["eval"] for row in reversed(run.rows()) if "eval" in row)
            return FitResult(run, newest, metrics, self.step, self.train_cpu_s, self.train_s)

    def _train_on(self, stop: StopRequest, *, fresh: bool) -> Path:
        config = self.config
        if fresh:
            self._evaluate()
        unsaved = False
        while self.step < config.steps:
            measures = self._update()
            done = self.step == config.steps
            if self.step % config.log_every == 0 or done:
                self._log({"train": measures})
            if done or (config.eval_every and self.step % config.eval_every == 0):
                self._evaluate()
            unsaved |= bool(config.save_every and self.step % config.save_every == 0) or stop.asked
            if done or (unsaved and self.stage.can_save(self.step)):
                newest = self._save()
                unsaved = False
                if stop.asked:
                    self.progress.note(f"saved {newest}")
                    raise KeyboardInterrupt
        return newest

    def _update(self) -> dict[str, float]:
        """One step: gradients of all micro-batches, clip, update."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._seed_step()
        micro_batches, denominator = self.stage.micro_batches(self.step)
        if micro_batches and not denominator > 0:
            raise ValueError(f"{self.stage.name} counted {denominator} things to learn in step {self.step}")
        total: Tensor | float = 0.0
        sums: dict[str, tuple[Tensor | float, Tensor | float]] = {}
        num_tokens = 0
        for micro in micro_batches:
            with self.autocast():
                loss = self.stage.loss(self.model, micro)
            torch.autograd.backward(loss.total / denominator)
            total = total + loss.total.detach()
            for name, (amount, count) in loss.metrics.items():
                amount_before, count_before = sums.get(name, (0.0, 0.0))
                sums[name] = (amount_before + amount, count_before + count)
            num_tokens += loss.num_tokens
        measures = {"loss": float(total) / denominator} if micro_batches else {}
        scale = lr_scale(self.step, self.config)
        if micro_batches:
            norm = float(clip_gradients(self.optimizer.parameters.values(), self.config.clip_norm))
            if not (math.isfinite(measures["loss"]) and math.isfinite(norm)):
                raise self._diverged(measures["loss"], norm)
            self.optimizer.step(scale)
            measures["grad_norm"] = norm
        measures |= {
            name: float(amount) / float(count) for name, (amount, count) in sums.items() if float(count)
        }
        measures |= self.stage.measures(self.step)
        self.step += 1
        self.num_tokens += num_tokens
        step_s = time.perf_counter() - wall
        self.train_s += step_s
        self.train_cpu_s += time.process_time() - cpu
        self.progress.update(self.step, measures.get("loss", 0.0), num_tokens, step_s)
        return {**measures, "lr": self.config.lr * scale, "tokens": self.num_tokens}

    def _seed_step(self) -> None:
        """Make torch's global random numbers a function of (seed, step)."""
        seed = self.config.seed << 32 | self.step
        # Not torch.manual_seed, which takes a millisecond to ask for every kind of device.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def _diverged(self, loss: float, norm: float) -> DivergedError:
        self.optimizer.zero_grad()
        where = f"step {self.step}: the loss is {loss:g}, its gradient norm {norm:g}"
        saved = "the last checkpoint is intact"
        if self.stage.can_save(self.step):
            saved = f"the weights before it are in {self._save()}"
        return DivergedError(
            f"{where}; {saved}; lower lr (now {self.config.lr:g}) or clip_norm and start a new run"
        )

    def _evaluate(self) -> None:
        self.model.eval()
        with torch.no_grad(), self.autocast():
            measures = self.stage.evaluate(self.model, self.step)
            samples = self.stage.samples(self.model, self.step)
        self.model.train()
        self._log({"eval": measures})
        for sample in samples:
            self.run.append(self.run.samples, {"step": self.step, **sample})

    def _log(self, row: dict[str, Any]) -> None:
        rate = self.num_tokens / self.train_s if self.train_s else 0.0
        clock = {"train_s": self.train_s, "train_cpu_s": self.train_cpu_s, "tokens_per_s": rate}
        self.run.append(self.run.metrics, {"step": self.step, **row, "time": clock})

    def _save(self) -> Path:
        """A checkpoint of this moment; the one that is there if this step is saved already."""
        newest = self.run.latest_checkpoint()
        if newest and newest.name == checkpoint.name_of(self.step):
            return newest
        state = {
            "config": config_hash(self.config),
            "stage": self.stage.state(),
            "num_tokens": self.num_tokens,
            "time": {"train_s": self.train_s, "train_cpu_s": self.train_cpu_s},
        }
        root, keep = self.run.checkpoints, self.config.keep_checkpoints
        return checkpoint.save(root, self.step, self._write, state, keep=keep)

    def _write(self, directory: Path) -> None:
        save_model(directory, self.model, self.tokenizer)
        for name, module in self.modules.items():
            save_file(module.state_dict(), directory / f"{name}.safetensors")
        save_file(self.optimizer.state(), directory / OPTIMIZER_FILE)

    def _load(self, path: Path) -> None:
        state = checkpoint.load_state(path)
        if state["config"] != config_hash(self.config):
            raise ValueError(f"{path} was saved with other settings; use another --out, or --overwrite")
        self.model.load_state_dict(load_file(path / "model.safetensors"))
        for name, module in self.modules.items():
            module.load_state_dict(load_file(path / f"{name}.safetensors"))
        self.optimizer.load_state(load_file(path / OPTIMIZER_FILE))
        self.stage.load_state(state["stage"])
        self.step, self.num_tokens = state["step"], state["num_tokens"]
        self.train_s, self.train_cpu_s = state["time"]["train_s"], state["time"]["train_cpu_s"]
