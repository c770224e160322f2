"""Direct preference optimisation: pairs teach the policy itself, no reward model between (ch4 O1-O4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tempa.align.policy_loss import segment_sum
from tempa.align.preference import PreferenceKind, preference_loss
from tempa.align.record_stage import Micro, RecordStage
from tempa.align.records import Pair, load_pairs
from tempa.align.reward import pair_rows
from tempa.align.sequences import response_logps, response_offsets
from tempa.align.settings import Places, RecordSettings, hold_out, load_start, ready, with_steps
from tempa.data.packed import Packed
from tempa.model import Transformer
from tempa.tokenizer import Tokenizer
from tempa.train.loop import FitResult, fit
from tempa.train.run import RunDir
from tempa.train.stage import Loss


@dataclass(frozen=True, kw_only=True)
class DpoSettings(RecordSettings):
    """Settings of direct preference optimisation; the others are inherited.

    Attributes:
        kind: Which loss; see `preference_loss`.
        beta: How strongly the policy is held to the model it starts from.
        label_smoothing: Share of labels taken to be wrong; with "sigmoid" this is conservative DPO.
    """

    lr: float = 1e-4
    kind: PreferenceKind = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        preference_loss(torch.zeros(1), kind=self.kind, beta=self.beta, label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class DpoConfig(Places, DpoSettings):
    """Settings of `tempa dpo`."""


class DpoStage(RecordStage):
    """A preference loss on pairs, against the model as it is when the stage is made.

    The reference log-probabilities are computed once, here, in the micro-batches of the first epoch: the
    first step repeats the same products, and its loss is log 2 but for the last bits.

    Args:
        model: The model that will be trained; now it is the reference.
        tokenizer: Renders the conversations.
        pairs: To train on.
        held_out: To evaluate on.
        settings: Loss, batches, number format.

    Raises:
        ValueError: If no pair fits.
    """

    name = "dpo"
    settings: DpoSettings

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        pairs: Sequence[Pair],
        held_out: Sequence[Pair],
        settings: DpoSettings,
    ) -> None:
        rows, held_rows = pair_rows(tokenizer, pairs), pair_rows(tokenizer, held_out)
        super().__init__(rows, held_rows, model.config.max_positions, settings)
        self.reference = torch.zeros(len(self.rows), 2)
        self.held_reference = torch.zeros(len(self.held_rows), 2)
        num_steps = min(settings.steps, -(-len(self.rows) // settings.batch_size))
        with torch.no_grad(), ready(settings, model):
            # Backwards, so that where the last step begins a second epoch, the first one has the last word.
            for step in reversed(range(num_steps)):
                for micro in self.micro_batches(step)[0]:
                    self.reference[micro.records] = pair_logps(model, micro.batch).cpu()
            for micro in self.held_out():
                self.held_reference[micro.records] = pair_logps(model, micro.batch).cpu()

    def loss(self, model: Transformer, micro: Micro) -> Loss:
        """Summed loss of the pairs; the metrics are the implicit rewards (ch4 O3)."""
        logps = pair_logps(model, micro.batch)
        ratios = logps - self.reference[micro.records].to(logps.device)
        return Loss(
            self._losses(ratios).sum(),
            micro.batch.num_tokens,
            {name: (value.sum(), len(value)) for name, value in self._measures(logps, ratios).items()},
        )

    def evaluate(self, model: Transformer, step: int) -> dict[str, float]:  # noqa: ARG002
        """Loss and implicit rewards on the held-out pairs."""
        parts = [pair_logps(model, micro.batch).cpu() for micro in self.held_out()]
        if not parts:
            return {}
        logps = torch.cat(parts)
        ratios = logps - self.held_reference
        measures = {"loss": self._losses(ratios), **self._measures(logps, ratios)}
        return {name: float(value.mean()) for name, value in measures.items()}

    def _losses(self, ratios: Tensor) -> Tensor:
        s = self.settings
        margin = ratios[:, 0] - ratios[:, 1]
        return preference_loss(margin, kind=s.kind, beta=s.beta, label_smoothing=s.label_smoothing)

    def _measures(self, logps: Tensor, ratios: Tensor) -> dict[str, Tensor]:
        chosen, rejected = (self.settings.beta * ratios.detach()).unbind(1)
        return {
            "accuracy": (chosen > rejected).float(),
            "margin": chosen - rejected,
            "reward_chosen": chosen,
            "reward_rejected": rejected,
            "logp_chosen": logps.detach()[:, 0],
        }


def pair_logps(model: Transformer, batch: Packed) -> Tensor:
    """(pairs, 2) summed log-probability of the chosen and the rejected answers (ch4 O4)."""
    batch = batch.to(model.device)
    return segment_sum(response_logps(model, batch), response_offsets(batch)).view(-1, 2)


def fit_dpo(
    model: Transformer,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    settings: DpoSettings,
    run: RunDir,
) -> FitResult:
    """Train `model` in place on pairs, held to what it is now, or go on where the run stopped.

    To go on, hand in the model that the run began with: it is the reference.
    """
    settings = with_steps(settings, len(pairs))
    return fit(model, DpoStage(model, tokenizer, pairs, held_out, settings), settings, run, tokenizer)


def dpo(config: DpoConfig) -> FitResult:
    """Train the model in `config.model` on the pairs in `config.data`.

    >>> from pathlib import Path
    >>> config = DpoConfig(model=Path("runs/sft"), data=Path("pairs.jsonl"), out=Path("runs/dpo"))
    >>> dpo(config).metrics["accuracy"]  # doctest: +SKIP
    0.87
    """
    model, tokenizer = load_start(config.model)
    pairs, held_out = hold_out(load_pairs(config.data), config.data)
    run = RunDir.open(config.out, config, overwrite=config.overwrite)
    return fit_dpo(model, tokenizer, pairs, held_out, config, run)
