"""Proximal policy optimisation against a reward model, with a value model (ch4 P1-P7, N1, N5)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from tempa.align.policy import PolicySettings, fit_policy
from tempa.align.policy_loss import POLICIES
from tempa.align.records import load_prompts
from tempa.align.rollout import Learned
from tempa.align.settings import Places, hold_out, load_start
from tempa.model import load_scalar
from tempa.train.loop import FitResult
from tempa.train.precision import choose_device
from tempa.train.run import RunDir, resolve_model


@dataclass(frozen=True, kw_only=True)
class PpoSettings(PolicySettings):
    """Settings of a policy gradient with a value model; the others are inherited.

    Attributes:
        epochs: Passes over a rollout.
    """

    batch_size: int = 64
    kl_coef: float = 0.05
    minibatches: int = 2
    epochs: int = 2


@dataclass(frozen=True, kw_only=True)
class PpoConfig(Places, PpoSettings):
    """Settings of `tempa ppo`. The data may be any records with prompts, such as the pairs of `tempa reward`.

    Attributes:
        reward: The reward model, a run of `tempa reward`; the value model starts from it (ch4 P7).
    """

    reward: Path


def ppo(config: PpoConfig) -> FitResult:
    """Train the model in `config.model` on the prompts in `config.data` against a reward model.

    >>> paths = {"model": Path("runs/sft"), "data": Path("prompts.jsonl"), "out": Path("runs/ppo")}
    >>> ppo(PpoConfig(**paths, reward=Path("runs/reward"))).metrics["reward"]  # doctest: +SKIP
    2.1
    """
    model, tokenizer = load_start(config.model)
    directory = resolve_model(config.reward)
    value, known = load_scalar(directory)
    if known is None or known.sha256 != tokenizer.sha256:
        raise ValueError(f"{directory}: the reward model has another tokenizer than {config.model}")
    tasks, held_out = hold_out(load_prompts(config.data), config.data)
    run = RunDir.open(config.out, config, overwrite=config.overwrite)
    scorer = Learned(copy.deepcopy(value).to(choose_device(config.device)), micro_tokens=config.micro_tokens)
    return fit_policy(model, tokenizer, tasks, held_out, scorer, POLICIES["ppo"], config, run, value=value)
