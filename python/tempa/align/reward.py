"""Reward models: a scalar head that ranks answers as people did (ch4 M1, M5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tempa.align.record_stage import Micro, RecordStage, Rows
from tempa.align.records import Pair, load_pairs
from tempa.align.reward_loss import pair_loss
from tempa.align.sequences import packed, render_answers, split_by_tokens
from tempa.align.settings import Places, RecordSettings, hold_out, load_start, with_steps
from tempa.chat import Rendered
from tempa.data.packed import Packed
from tempa.model import ScalarHead
from tempa.tokenizer import Tokenizer
from tempa.train.loop import FitResult, fit
from tempa.train.run import RunDir
from tempa.train.stage import Loss


@dataclass(frozen=True, kw_only=True)
class RewardSettings(RecordSettings):
    """Settings of reward modelling; the others are inherited.

    Attributes:
        center_coef: Weight of the squared sum of a pair's scores, which keeps scores near 0 (ch4 B5).
    """

    center_coef: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.center_coef < 0:
            raise ValueError(f"center_coef must not be negative, got {self.center_coef}")


@dataclass(frozen=True, kw_only=True)
class RewardConfig(Places, RewardSettings):
    """Settings of `tempa reward`."""


class RewardStage(RecordStage):
    """Bradley-Terry loss on pairs (ch4 M5).

    Args:
        model: Says how long a sequence may be.
        tokenizer: Renders the conversations.
        pairs: To train on.
        held_out: To evaluate on.
        settings: Loss, batches, seed.

    Raises:
        ValueError: If no pair fits.
    """

    name = "reward"
    settings: RewardSettings

    def __init__(
        self,
        model: ScalarHead,
        tokenizer: Tokenizer,
        pairs: Sequence[Pair],
        held_out: Sequence[Pair],
        settings: RewardSettings,
    ) -> None:
        rows, held_rows = pair_rows(tokenizer, pairs), pair_rows(tokenizer, held_out)
        super().__init__(rows, held_rows, model.config.max_positions, settings)

    def loss(self, model: ScalarHead, micro: Micro) -> Loss:
        """Summed loss of the pairs, and the share that is ranked right."""
        chosen, rejected = end_scores(model, micro.batch).view(-1, 2).unbind(1)
        losses = pair_loss(chosen, rejected, center_coef=self.settings.center_coef)
        margins, count = (chosen - rejected).detach(), len(micro.records)
        metrics = {"accuracy": ((margins > 0).sum(), count), "margin": (margins.sum(), count)}
        return Loss(losses.sum(), micro.batch.num_tokens, metrics)

    def evaluate(self, model: ScalarHead, step: int) -> dict[str, float]:  # noqa: ARG002
        """Loss, accuracy, margin and mean score on the held-out pairs."""
        parts = [end_scores(model, micro.batch) for micro in self.held_out()]
        if not parts:
            return {}
        chosen, rejected = torch.cat(parts).view(-1, 2).unbind(1)
        return {
            "loss": float(pair_loss(chosen, rejected).mean()),
            "accuracy": float((chosen > rejected).float().mean()),
            "margin": float((chosen - rejected).mean()),
            "score": float((chosen + rejected).mean() / 2),
        }


def pair_rows(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[Rows]:
    """The chosen and the rejected sequence of each pair, trained on the answer alone."""
    if not pairs:
        return []
    prompts = [pair.messages for pair in pairs]
    chosen = render_answers(tokenizer, prompts, [pair.chosen for pair in pairs])
    rejected = render_answers(tokenizer, prompts, [pair.rejected for pair in pairs])
    return list(zip(chosen, rejected, strict=True))


def end_scores(model: ScalarHead, batch: Packed) -> Tensor:
    """(n,) float32 value at the last token of each sequence, which has seen all others (ch4 M1)."""
    batch = batch.to(model.backbone.device)
    scores: Tensor = model(batch)[batch.cu_seqlens[1:] - 1]
    return scores


@torch.no_grad()
def score(model: ScalarHead, rows: Sequence[Rendered], *, micro_tokens: int = 8192) -> Tensor:
    """(n,) reward of each sequence.

    Args:
        model: A reward model.
        rows: Conversations that end with an answer and its end token.
        micro_tokens: Tokens that are in memory at once.
    """
    runs = split_by_tokens([len(row.ids) for row in rows], micro_tokens)
    return torch.cat([end_scores(model, packed(rows[run])).cpu() for run in runs])


def fit_reward(
    model: ScalarHead,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    settings: RewardSettings,
    run: RunDir,
) -> FitResult:
    """Train a reward model in place on pairs, or go on where the run stopped."""
    settings = with_steps(settings, len(pairs))
    return fit(model, RewardStage(model, tokenizer, pairs, held_out, settings), settings, run, tokenizer)


def reward(config: RewardConfig) -> FitResult:
    """Train a reward model on the pairs in `config.data`, from the language model in `config.model`.

    >>> from pathlib import Path
    >>> config = RewardConfig(model=Path("runs/sft"), data=Path("pairs.jsonl"), out=Path("runs/reward"))
    >>> reward(config).metrics["accuracy"]  # doctest: +SKIP
    0.91
    """
    backbone, tokenizer = load_start(config.model)
    pairs, held_out = hold_out(load_pairs(config.data), config.data)
    run = RunDir.open(config.out, config, overwrite=config.overwrite)
    return fit_reward(ScalarHead(backbone), tokenizer, pairs, held_out, config, run)
