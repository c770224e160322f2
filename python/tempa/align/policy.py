"""Policy gradients: one stage for GRPO, PPO and their relatives (ch4 P1-P7, N1-N5).

A round is a rollout and the updates made from it. The stage can be saved between rounds only, so a resumed
run repeats no half-used rollout and needs nothing but the weights.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tempa import _core
from tempa.align.grade import Task
from tempa.align.policy_loss import Policy, kl_estimate, policy_loss, value_loss
from tempa.align.rollout import (
    Experience,
    Scorer,
    make_experience,
    render_prompts,
    rollout_seeds,
    sample,
    take,
    token_logps,
    token_values,
)
from tempa.align.sequences import packed, records_of_step, response_logps, split_by_tokens
from tempa.align.settings import AlignSettings, ready
from tempa.data.packed import Packed
from tempa.engine import Engine
from tempa.model import ScalarHead, Transformer
from tempa.tokenizer import Tokenizer
from tempa.train.loop import FitResult, fit
from tempa.train.run import RunDir
from tempa.train.stage import Loss, Stage

# Keeps the order of responses within a round apart from everything else that is drawn with the same seed.
_MINIBATCH_STREAM = 0x4D49_4E49 << 32

# Rollout and trainer compute the same log-probabilities in float32 up to the order of sums.
_MAX_GAP = 1e-4


@dataclass(frozen=True, kw_only=True)
class PolicySettings(AlignSettings):
    """Settings of policy gradients; the others are inherited. A record is a prompt.

    Attributes:
        max_new_tokens: The longest response.
        temperature: Of the sampling, and of the log-probabilities that are trained.
        kl_coef: Weight of the divergence from the model that training starts from; 0 needs no reference.
        minibatches: Updates that one pass over a rollout is cut into.
    """

    lr: float = 1e-4
    max_new_tokens: int = 64
    temperature: float = 1.0
    kl_coef: float = 0.0
    minibatches: int = 1

    @property
    def samples(self) -> int:
        """Responses to each prompt of a rollout."""
        return 1

    @property
    def epochs(self) -> int:
        """Passes over a rollout."""
        return 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "max_new_tokens", "minibatches", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.kl_coef < 0:
            raise ValueError(f"kl_coef must not be negative, got {self.kl_coef}")


@dataclass(frozen=True)
class Micro:
    """Some responses of an update.

    Attributes:
        batch: Prompts and responses.
        experience: What is known about the responses.
        is_fresh: Whether no update has been made since they were sampled.
    """

    batch: Packed
    experience: Experience
    is_fresh: bool


class PolicyStage(Stage):
    """Sample responses, score them, and make the better ones likelier.

    Args:
        model: The policy; as it is now, it is also the reference.
        tokenizer: Renders the conversations.
        tasks: Conversations to answer; those that leave no room for a response are left out.
        held_out: Those to evaluate on, with the likeliest response.
        scorer: Scores the responses of a rollout.
        policy: The algorithm.
        settings: Rollouts, batches, number format.
        value: The value model, for adv="gae"; trained beside the policy.

    Raises:
        ValueError: If no task fits, or policy, settings and value do not go together.
    """

    name = "policy"

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        tasks: Sequence[Task],
        held_out: Sequence[Task],
        scorer: Scorer,
        policy: Policy,
        settings: PolicySettings,
        *,
        value: ScalarHead | None = None,
    ) -> None:
        if (value is None) == (policy.adv == "gae"):
            raise ValueError(
                f"adv={policy.adv!r} and {'no' if value is None else 'a'} value model: one needs the other"
            )
        if policy.is_grouped and settings.samples < 2:
            raise ValueError(
                f"adv={policy.adv!r} compares samples of a prompt: samples must be at least 2, got 1"
            )
        if settings.kl_coef and policy.kl is None:
            raise ValueError("kl_coef is set, but the algorithm has no divergence; choose one with kl")
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.scorer, self.policy, self.value = scorer, policy, value
        room = model.config.max_positions - settings.max_new_tokens
        self.tasks, self.held_out = (_fitting(tokenizer, part, room) for part in (tasks, held_out))
        if not self.tasks:
            raise ValueError(
                f"none of {len(tasks)} prompts leaves room for {settings.max_new_tokens} new tokens "
                f"in the {model.config.max_positions} tokens the model reads"
            )
        left_out = len(tasks) + len(held_out) - len(self.tasks) - len(self.held_out)
        if left_out:
            print(f"{self.name}: prompts longer than {room} tokens left out: {left_out}", file=sys.stderr)
        self.updates_per_round = settings.minibatches * settings.epochs
        self.engine = Engine(model, tokenizer)
        self.reference = copy.deepcopy(model).requires_grad_(False) if settings.kl_coef else None
        self.number_format = partial(ready, settings)
        self.experience: Experience | None = None
        self._shown: list[dict[str, Any]] = []

    def modules(self) -> dict[str, nn.Module]:
        """The value model, if there is one."""
        return {} if self.value is None else {"value": self.value}

    def can_save(self, step: int) -> bool:
        """Between rounds."""
        return step % self.updates_per_round == 0

    def micro_batches(self, step: int) -> tuple[Sequence[Micro], float]:
        """Pieces of one update; the first update of a round samples a rollout."""
        round_index, update = divmod(step, self.updates_per_round)
        if update == 0 or self.experience is None:
            self.experience = self._collect(round_index)
        epoch, minibatch = divmod(update, self.settings.minibatches)
        order = np.arange(len(self.experience.responses))
        if self.settings.minibatches > 1:
            stream = _MINIBATCH_STREAM | (round_index * self.settings.epochs + epoch)
            order = np.argsort(_core.random_bits(self.settings.seed, stream, 0, len(order)), kind="stable")
        chosen = np.array_split(order, self.settings.minibatches)[minibatch].tolist()
        experience = take(self.experience, chosen)
        rows = [response.row for response in experience.responses]
        micros: list[Micro] = []
        for run in split_by_tokens([len(row.ids) for row in rows], self.settings.micro_tokens):
            micros.append(Micro(packed(rows[run]), take(experience, range(len(rows))[run]), update == 0))
        return micros, self.policy.denominator(experience.offsets.diff())

    @torch.no_grad()
    def _collect(self, round_index: int) -> Experience:
        settings = self.settings
        records = records_of_step(len(self.tasks), settings.batch_size, round_index, settings.seed)
        with self.number_format(self.model):
            responses = sample(
                self.engine,
                self.tokenizer,
                [self.tasks[i] for i in records],
                num_samples=settings.samples,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                seeds=rollout_seeds(settings.seed, round_index, len(records)),
            )
            scores = self.scorer(responses)
            ref_logps = values = None
            rows = [response.row for response in responses]
            if self.reference is not None:
                ref_logps = token_logps(
                    self.reference.to(self.model.device),
                    rows,
                    settings.micro_tokens,
                    temperature=settings.temperature,
                )
            if self.value is not None:
                values = token_values(self.value, rows, settings.micro_tokens)
        return make_experience(
            responses,
            scores,
            settings.samples,
            self.policy,
            kl_coef=settings.kl_coef,
            ref_logps=ref_logps,
            values=values,
        )

    def loss(self, model: Transformer, micro: Micro) -> Loss:
        """Weighted policy loss, plus the value loss with the same weights.

        Raises:
            ValueError: If the policy that is trained is not the one that was sampled.
        """
        known, device = micro.experience, model.device
        offsets = known.offsets.to(device)
        batch = micro.batch.to(device)
        logps = response_logps(model, batch, temperature=self.settings.temperature)
        terms = policy_loss(
            logps,
            known.old_logps.to(device),
            known.advantages.to(device),
            offsets,
            policy=self.policy,
            max_tokens=self.settings.max_new_tokens,
            ref_logps=None if known.ref_logps is None else known.ref_logps.to(device),
            kl_coef=self.settings.kl_coef,
        )
        count = len(logps)
        moved = kl_estimate(known.old_logps.to(device), logps.detach(), "k3")
        metrics: dict[str, tuple[Tensor | float, Tensor | float]] = {
            "clip_fraction": (terms.is_clipped.sum(), count),
            "kl_to_sampler": (moved.sum(), count),
        }
        if micro.is_fresh:
            metrics["logp_gap"] = (self._gap(terms.log_ratio, logps), count)
        total = terms.total
        if self.value is not None and known.returns is not None and known.old_values is not None:
            values = self.value(batch)[batch.weights > 0]
            losses = value_loss(
                values,
                known.returns.to(device),
                old_values=known.old_values.to(device),
                clip=self.policy.value_clip,
            )
            weights = self.policy.token_weights(offsets.diff(), self.settings.max_new_tokens)
            total = total + (losses * weights).sum()
            metrics["value_loss"] = (losses.detach().sum(), count)
        return Loss(total, batch.num_tokens, metrics)

    def _gap(self, log_ratio: Tensor, logps: Tensor) -> Tensor:
        """Summed distance of the trainer's log-probabilities from the sampler's, before any update."""
        gap = log_ratio.abs()
        exact = not torch.is_autocast_enabled(logps.device.type)
        if exact and float(gap.max()) > _MAX_GAP:
            raise ValueError(
                f"trainer and sampler disagree by {float(gap.max()):.2g} nats on a token before any update; "
                "the weights changed between the two, or they score another distribution"
            )
        return gap.sum()

    def measures(self, step: int) -> dict[str, float]:  # noqa: ARG002
        """Means over the rollout that the update was made from."""
        return {} if self.experience is None else self.experience.summary

    def evaluate(self, model: Transformer, step: int) -> dict[str, float]:  # noqa: ARG002
        """Reward, length and stop rate of the likeliest responses to the held-out tasks."""
        if not self.held_out:
            return {}
        responses = sample(
            self.engine,
            self.tokenizer,
            self.held_out,
            num_samples=1,
            max_new_tokens=self.settings.max_new_tokens,
            temperature=0.0,
            seeds=[0] * len(self.held_out),
        )
        scores = self.scorer(responses)
        self._shown = [
            {
                "prompt": response.task.messages[-1]["content"],
                "response": response.text,
                "reward": float(value),
            }
            for response, value in zip(responses[:8], scores, strict=False)
        ]
        return {
            "reward": float(scores.mean()),
            "length": float(np.mean([len(response.logps) for response in responses])),
            "stop_rate": float(np.mean([response.is_finished for response in responses])),
        }

    def samples(self, model: Transformer, step: int) -> list[dict[str, Any]]:  # noqa: ARG002
        """Some responses of the last evaluation."""
        return self._shown


def _fitting(tokenizer: Tokenizer, tasks: Sequence[Task], room: int) -> list[Task]:
    if not tasks:
        return []
    prompts = render_prompts(tokenizer, tasks)
    return [task for task, prompt in zip(tasks, prompts, strict=True) if len(prompt.ids) <= room]


def fit_policy(
    model: Transformer,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    held_out: Sequence[Task],
    scorer: Scorer,
    policy: Policy,
    settings: PolicySettings,
    run: RunDir,
    *,
    value: ScalarHead | None = None,
) -> FitResult:
    """Train `model` in place on its own responses, or go on where the run stopped.

    To go on, hand in the model that the run began with: it is the reference.
    """
    stage = PolicyStage(model, tokenizer, tasks, held_out, scorer, policy, settings, value=value)
    return fit(model, stage, settings, run, tokenizer)
