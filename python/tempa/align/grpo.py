"""Policy gradients on groups of sampled answers that a rule can check (ch4 N2, N3, N8, T1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tempa.align.grade import exact_answer
from tempa.align.policy import PolicySettings, fit_policy
from tempa.align.policy_loss import POLICIES
from tempa.align.records import load_tasks
from tempa.align.rollout import Verified
from tempa.align.settings import Places, hold_out, load_start
from tempa.train.loop import FitResult
from tempa.train.run import RunDir


@dataclass(frozen=True, kw_only=True)
class GrpoSettings(PolicySettings):
    """Settings of a policy gradient on groups; the others are inherited.

    Attributes:
        samples: Responses to each prompt of a rollout.
    """

    samples: int = 8


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(Places, GrpoSettings):
    """Settings of `tempa grpo`.

    Attributes:
        algorithm: A row of the table in docs/alignment.md that has no value model.
    """

    algorithm: Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce_pp", "reinforce"] = "dr_grpo"


def grpo(config: GrpoConfig) -> FitResult:
    """Train the model in `config.model` on tasks with known answers; the reward is 1 for an equal answer.

    >>> from pathlib import Path
    >>> config = GrpoConfig(model=Path("runs/sft"), data=Path("tasks.jsonl"), out=Path("runs/grpo"))
    >>> grpo(config).metrics["reward"]  # doctest: +SKIP
    0.96
    """
    model, tokenizer = load_start(config.model)
    tasks, held_out = hold_out(load_tasks(config.data), config.data)
    run = RunDir.open(config.out, config, overwrite=config.overwrite)
    policy = POLICIES[config.algorithm]
    return fit_policy(model, tokenizer, tasks, held_out, Verified(exact_answer), policy, config, run)
