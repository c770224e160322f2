"""From scores of responses, steps, segments or several models to the rewards that training uses."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

StepMode = Literal["count", "log_sum", "product", "min", "mean", "last"]
EnsembleMode = Literal["mean", "weighted", "min", "uncertainty"]


def terminal_rewards(scores: Tensor, offsets: Tensor) -> Tensor:
    """(T,) zeros, with each response's score at its last token (ch4 R12).

    Raises:
        ValueError: If a response has no token to carry its score.
    """
    lengths = offsets.diff()
    if not bool((lengths > 0).all()):
        empty = int((lengths == 0).nonzero()[0])
        raise ValueError(f"response {empty} is empty: no token can carry its score")
    rewards = torch.zeros(int(offsets[-1]), dtype=scores.dtype, device=scores.device)
    rewards[offsets[1:] - 1] = scores
    return rewards


def kl_rewards(scores: Tensor, logps: Tensor, ref_logps: Tensor, offsets: Tensor, *, beta: float) -> Tensor:
    """`r_t = -beta (log pi_old - log pi_ref) + [t is last] score`, constants (ch4 P4, X6).

    The divergence is in the reward because the gradient of the same term in the loss has mean zero.
    """
    return terminal_rewards(scores, offsets) - beta * (logps - ref_logps).detach()


def shaped_rewards(rewards: Tensor, potentials: Tensor, offsets: Tensor, *, gamma: float = 1.0) -> Tensor:
    """`r_t + gamma Phi(s_{t+1}) - Phi(s_t)` with Phi = 0 after the last token (ch4 B6; Ng et al., 1999).

    The discounted sum of a response changes by `-Phi(s_1)` alone, so the best policy stays the best.
    """
    following = torch.cat([potentials[1:], potentials.new_zeros(1)])
    following[offsets[1:] - 1] = 0
    return rewards + gamma * following - potentials


def segment_scores(prefix_scores: Tensor) -> Tensor:
    """`s(segments 1..k) - s(segments 1..k-1)`: scores of growing prefixes to scores of segments (ch4 B10)."""
    return prefix_scores.diff()


def aggregate_steps(probabilities: Tensor, mode: StepMode) -> Tensor:
    """One score from the probability that each reasoning step is right (ch4 T4, T5).

    "count" and "log_sum" grow or fall with the number of steps, so a policy trained on them is paid for
    splitting or merging steps (ch4 X15); "mean", "min" and "last" are not.

    Raises:
        ValueError: If the mode is unknown.
    """
    if mode == "count":
        return (probabilities > 0.5).sum(-1).to(probabilities.dtype)
    if mode == "log_sum":
        return probabilities.log().sum(-1)
    if mode == "product":
        return probabilities.prod(-1)
    if mode == "min":
        return probabilities.amin(-1)
    if mode == "mean":
        return probabilities.mean(-1)
    if mode == "last":
        return probabilities[..., -1]
    raise ValueError(f"unknown mode {mode!r}; known: {', '.join(get_args(StepMode))}")


def combine_rewards(
    scores: Tensor, mode: EnsembleMode, *, weights: Tensor | None = None, uncertainty: float = 1.0
) -> Tensor:
    """One score from those of K reward models, the first axis (ch4 B14).

    "weighted" divides by the sum of the weights; the printed 1/K lets them change the scale (ch4 X14).
    "uncertainty" is the mean minus `uncertainty` times the variance over models (Coste et al., 2023).

    Raises:
        ValueError: If the mode is unknown, or weights and mode do not go together.
    """
    if (mode == "weighted") != (weights is not None):
        raise ValueError("weights go with mode 'weighted'")
    if weights is not None:
        return weights @ scores / weights.sum()
    if mode == "mean":
        return scores.mean(0)
    if mode == "min":
        return scores.amin(0)
    if mode == "uncertainty":
        return scores.mean(0) - uncertainty * scores.var(0, correction=0)
    raise ValueError(f"unknown mode {mode!r}; known: {', '.join(get_args(EnsembleMode))}")


def soft_preference(logp_a: Tensor, logp_b: Tensor) -> Tensor:
    """`P(A)` from a judge's log-probabilities of its two label tokens (ch4 L3)."""
    return torch.sigmoid(logp_a - logp_b)
