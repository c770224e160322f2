"""Advantages of many rollouts: a reverse scan in segments, beside the loop that torch needs for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gpu.comparison import OURS, Case, Comparison, Run
from gpu.rig import Rig, normal, size

GAMMA, LAMBDA = 0.99, 0.95
# Float32 sums of a few hundred terms in another order.
TOLERANCE = 1e-4


def cases() -> list[Case]:
    """Rollouts of one length, so that torch can go over all of them at once."""
    return [
        Case("1024 rollouts of 1024 tokens", lambda rig: _problem(rig, 1024, 1024), is_quick=True),
        Case("64 rollouts of 16384 tokens", lambda rig: _problem(rig, 64, 16384)),
    ]


def _problem(rig: Rig, num_rollouts: int, length: int) -> Comparison:
    num_rollouts, length = size(rig, num_rollouts, 3), size(rig, length, 7)
    rewards = normal(rig, num_rollouts, length, dtype=torch.float32)
    values = normal(rig, length, num_rollouts, dtype=torch.float32).T.contiguous()
    offsets = torch.arange(num_rollouts + 1, device=rig.device) * length

    def ours() -> Run:
        flat = rewards.flatten(), values.flatten()
        return lambda: torch.ops.tempa.discounted_sums(*flat, None, offsets, GAMMA, LAMBDA)

    def torchs(function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Run:
        return lambda: function(rewards, values)

    sides = {
        OURS: ours,
        "torch, a step a token": lambda: torchs(_by_steps),
        "torch, one product": lambda: torchs(_by_product),
    }
    # Rewards and values read, advantages and returns written.
    return Comparison(sides, TOLERANCE, 4 * rewards.nbytes)


def _deltas(rewards: Tensor, values: Tensor) -> Tensor:
    following = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], 1)
    return rewards + GAMMA * following - values


def _by_steps(rewards: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    deltas = _deltas(rewards, values).T.contiguous()
    advantages = torch.empty_like(deltas)
    last = torch.zeros_like(deltas[0])
    for place in reversed(range(len(deltas))):
        last = torch.add(deltas[place], last, alpha=GAMMA * LAMBDA)
        advantages[place] = last
    flat = advantages.T.flatten()
    return flat, flat + values.flatten()


def _by_product(rewards: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """With a matrix of all powers: as many operations as pairs of tokens."""
    place = torch.arange(rewards.shape[1], device=rewards.device)
    behind = place[:, None] - place
    powers = torch.where(behind >= 0, (GAMMA * LAMBDA) ** behind.clamp(min=0).float(), 0.0)
    flat = (_deltas(rewards, values) @ powers).flatten()
    return flat, flat + values.flatten()
