"""Losses on preference pairs, from sequence log-probabilities.

All kinds are functions of one margin per pair,

    h = [log pi(chosen) - log pi_ref(chosen)] - [log pi(rejected) - log pi_ref(rejected)],

with log-probabilities summed, never averaged, over the response (ch4 O4).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

PreferenceKind = Literal["sigmoid", "robust", "ipo", "hinge"]


def preference_loss(
    margin: Tensor, *, kind: PreferenceKind = "sigmoid", beta: float = 0.1, label_smoothing: float = 0.0
) -> Tensor:
    """Loss of each pair from its margin `h`; `e` is the share of labels taken to be wrong.

    - "sigmoid": `-log sigma(beta h)`, DPO (ch4 O4; Rafailov et al., 2023). With `e > 0` conservative DPO
      (ch4 N7): `-(1 - e) log sigma(beta h) - e log sigma(-beta h)`.
    - "robust": `(-(1 - e) log sigma(beta h) + e log sigma(-beta h)) / (1 - 2e)`, whose mean under labels
      flipped with probability `e` is the clean loss (Chowdhury et al., 2024).
    - "ipo": `(h - 1 / (2 beta))^2` (ch4 N7; Azar et al., 2023).
    - "hinge": `max(0, 1 - beta h)`, SLiC (ch4 N7; Zhao et al., 2023).

    Args:
        margin: (pairs,) log-ratio of the chosen minus that of the rejected response.
        kind: Which loss.
        beta: How strongly the policy is held to the reference.
        label_smoothing: `e`, in [0, 0.5); only the first two kinds have it.

    Raises:
        ValueError: If an argument is out of its range.

    >>> import torch
    >>> round(preference_loss(torch.tensor(1.5), beta=0.1).item(), 6)
    0.620957
    """
    if kind not in get_args(PreferenceKind):
        raise ValueError(f"unknown preference loss {kind!r}; known: {', '.join(get_args(PreferenceKind))}")
    if beta <= 0:
        raise ValueError(f"beta must be positive, got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), got {label_smoothing}")
    if label_smoothing and kind not in ("sigmoid", "robust"):
        raise ValueError(f"the {kind} loss has no label smoothing")
    if kind == "ipo":
        return (margin - 1 / (2 * beta)).square()
    if kind == "hinge":
        return F.relu(1 - beta * margin)
    right, wrong = -F.logsigmoid(beta * margin), -F.logsigmoid(-beta * margin)
    if kind == "robust":
        return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * right + label_smoothing * wrong
