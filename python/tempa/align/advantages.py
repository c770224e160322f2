"""Advantages: how much better a response, or a token, was than expected.

Group baselines take scores as (prompts, samples) and give one advantage per response. Token baselines take
rewards per token, ragged over responses, and give one advantage per token. Both treat rewards as constants:
no gradient flows through them.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tempa.ops import scan_cuda as scan_cuda  # registers torch.ops.tempa.discounted_sums

# Keeps a division finite when scores differ by rounding only; small enough not to move a real z-score.
_EPS = 1e-8


def group_z(scores: Tensor, *, std: Literal["population", "sample"] = "population") -> Tensor:
    """`(R - mean R) / std R` within each group: GRPO (ch4 N2; Shao et al., 2024).

    A group of equal scores gets zeros. The two deviations differ by `sqrt(G / (G - 1))`, 7% at 8 samples.

    Args:
        scores: (prompts, samples), one row for each group.
        std: Divide the squared deviations by G ("population") or by G - 1 ("sample").

    Raises:
        ValueError: If a group has fewer than two samples.

    >>> group_z(torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])).tolist()
    [[1.0, -1.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    centred = group(scores)
    deviation = scores.float().std(dim=1, keepdim=True, correction=int(std == "sample"))
    return torch.where(is_flat(scores)[:, None], 0.0, centred / (deviation + _EPS))


def group(scores: Tensor) -> Tensor:
    """`R - mean R` within each group: Dr. GRPO (Liu et al., 2025), which weighs easy and hard prompts alike.

    Args:
        scores: (prompts, samples), one row for each group.

    Raises:
        ValueError: If a group has fewer than two samples.
    """
    _check_groups(scores)
    scores = scores.float()
    return scores - scores.mean(dim=1, keepdim=True)


def leave_one_out(scores: Tensor) -> Tensor:
    """`R - mean of the other R` within each group: RLOO (ch4 N3; Ahmadian et al., 2024).

    Args:
        scores: (prompts, samples), one row for each group.

    Raises:
        ValueError: If a group has fewer than two samples.
    """
    return group(scores) * (scores.shape[1] / (scores.shape[1] - 1))


def is_flat(scores: Tensor) -> Tensor:
    """(prompts,) bool: groups whose scores are all equal, which teach nothing."""
    return scores.amax(dim=1) == scores.amin(dim=1)


def _check_groups(scores: Tensor) -> None:
    if scores.ndim != 2:
        raise ValueError(f"group baselines need (prompts, samples) scores, got shape {tuple(scores.shape)}")
    if scores.shape[1] < 2:
        raise ValueError("a group baseline needs at least 2 samples per prompt, got 1; use adv='batch_z'")


def reward_to_go(rewards: Tensor, offsets: Tensor, *, gamma: float = 1.0) -> Tensor:
    """`sum_{k >= t} gamma^(k - t) r_k` within each response (ch4 R7).

    Args:
        rewards: (T,) per token, responses one after the other.
        offsets: (n + 1,) int64, response boundaries from 0 to T.
        gamma: Discount.

    >>> reward_to_go(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 2, 3])).tolist()
    [1.0, 1.0, 2.0]
    """
    bounds = offsets.to(rewards.device)
    sums: Tensor = torch.ops.tempa.discounted_sums(rewards.detach(), None, None, bounds, gamma, 1.0)[0]
    return sums


def gae(
    rewards: Tensor,
    values: Tensor,
    offsets: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    last_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (ch4 N1; Schulman et al., 2016): advantages and returns.

    `delta_t = r_t + gamma V_{t+1} - V_t`, `A_t = delta_t + gamma lam A_{t+1}`, `return_t = A_t + V_t`.
    `lam=0` is the one-step error (ch4 R10), `lam=1` is reward-to-go minus the value (ch4 R8).

    Args:
        rewards: (T,) per token, responses one after the other.
        values: (T,) value of the state in which each token was chosen.
        offsets: (n + 1,) int64, response boundaries from 0 to T.
        gamma: Discount.
        lam: Weight of longer looks ahead.
        last_values: (n,) value after the last token: 0, the default, for a response that ended by itself.

    >>> rewards, values = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    >>> advantages, returns = gae(rewards, values, torch.tensor([0, 2]), lam=1.0)
    >>> advantages.tolist(), returns.tolist()
    ([0.5, 0.5], [1.0, 1.0])
    """
    last = None if last_values is None else last_values.detach()
    bounds = offsets.to(rewards.device)
    sums: tuple[Tensor, Tensor] = torch.ops.tempa.discounted_sums(
        rewards.detach(), values.detach(), last, bounds, gamma, lam
    )
    return sums


def whiten(values: Tensor, *, shift_mean: bool = True) -> Tensor:
    """`(x - mean) / std` over all values; `shift_mean=False` keeps the mean, as reward whitening does.

    A single value, or equal ones, have no scale: they are only shifted.
    """
    values = values.float()
    if values.numel() == 0:
        return values
    mean = values.mean()
    scale = 1.0 if values.min() == values.max() else values.std(correction=0) + _EPS
    return (values - mean) / scale + (0.0 if shift_mean else mean)
