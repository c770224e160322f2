"""What alignment computes of every token: advantages by a reverse scan, and the clipped policy loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gpu.comparison import OURS, Case, Comparison, Run
from gpu.rig import Rig, normal, size

GAMMA, LAMBDA = 0.99, 0.95
CLIP, KL_COEF = (0.2, 0.3), 0.1
# Float32 sums of a few hundred terms in another order.
TOLERANCE = 1e-4


def cases() -> list[Case]:
    """Rollouts of one length, so that torch can go over all of them at once."""
    return [
        Case("advantages, 1024 rollouts of 1024 tokens", lambda rig: _sums(rig, 1024, 1024), is_quick=True),
        Case("advantages, 64 rollouts of 16384 tokens", lambda rig: _sums(rig, 64, 16384)),
        Case("clipped policy loss and its gradient, 1024 rollouts of 4096 tokens", _policy_loss),
    ]


def _sums(rig: Rig, num_rollouts: int, length: int) -> Comparison:
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


def _policy_loss(rig: Rig) -> Comparison:
    num_rollouts, length = size(rig, 1024, 3), size(rig, 4096, 7)
    total = num_rollouts * length
    logps, moved, advantages, apart = normal(rig, 4, total, dtype=torch.float32)
    old, ref = logps - moved / 5, logps - apart / 5
    offsets = torch.arange(num_rollouts + 1, device=rig.device) * length

    def ours(logps: Tensor) -> Tensor:
        rules = (list(CLIP), False, 1 / total, 3, KL_COEF)
        out: Tensor = torch.ops.tempa.policy_loss(logps, old, advantages, offsets, ref, *rules)[0]
        return out

    def torchs(logps: Tensor) -> Tensor:
        ratio, behind = (logps - old).exp(), ref - logps
        bounded = ratio.clamp(1 - CLIP[0], 1 + CLIP[1])
        surrogate = torch.minimum(ratio * advantages, bounded * advantages)
        return (KL_COEF * (behind.exp() - 1 - behind) - surrogate).mean()

    def made(function: Callable[[Tensor], Tensor]) -> Run:
        leaf = logps.detach().requires_grad_()

        def run() -> tuple[Tensor, ...]:
            loss = function(leaf)
            return loss.detach(), *torch.autograd.grad(loss, leaf)

        return run

    sides = {
        OURS: lambda: made(ours),
        "torch": lambda: made(torchs),
        "torch.compile": lambda: made(rig.compiled(torchs)),
    }
    # Four numbers of a token read; the gradient, three more and a byte written, for what is logged.
    return Comparison(sides, TOLERANCE, 29 * total)
