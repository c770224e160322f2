"""Losses that turn human judgements into a scoring model: pairs, rankings, ratings, segment labels.

A reward is defined only up to a constant per prompt, so pair and ranking losses see differences alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_loss(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | float = 0.0, center_coef: float = 0.0
) -> Tensor:
    """Bradley-Terry loss of pairs (ch4 M5, B5): `-log sigma(r_c - r_r - margin) + center_coef (r_c + r_r)^2`.

    The printed regulariser has a minus and is unbounded below (ch4 X3); with a plus it keeps scores near 0.

    Args:
        chosen: (pairs,) scores of the preferred responses.
        rejected: (pairs,) scores of the others.
        margin: By how much the chosen should win.
        center_coef: Weight of the regulariser; 0.01 is usual.

    >>> round(pair_loss(torch.tensor(1.5), torch.tensor(0.5), center_coef=0.01).item(), 6)
    0.353262
    """
    loss = -F.logsigmoid(chosen - rejected - margin)
    return loss + center_coef * (chosen + rejected).square() if center_coef else loss


def ranking_pairs_loss(scores: Tensor) -> Tensor:
    """Mean Bradley-Terry loss over the `N (N - 1) / 2` pairs of a ranking (ch4 B1).

    The printed sum runs over all ordered pairs and is least at equal scores (ch4 X2); only pairs whose first
    was ranked above the second teach anything.

    Args:
        scores: (..., N) in rank order, best first.
    """
    above, below = torch.triu_indices(scores.shape[-1], scores.shape[-1], offset=1, device=scores.device)
    return pair_loss(scores[..., above], scores[..., below]).mean(-1)


def plackett_luce_loss(scores: Tensor) -> Tensor:
    """`-sum_k [r_k - logsumexp(r_k .. r_N)]`, a ranking drawn without replacement (ch4 B2; Plackett, 1975).

    The set left to choose from at stage k is `r_k .. r_N` (ch4 X9). Two items give the Bradley-Terry loss.

    Args:
        scores: (..., N) in rank order, best first.
    """
    return (scores.flip(-1).logcumsumexp(-1).flip(-1) - scores).sum(-1)


def rating_loss(scores: Tensor, ratings: Tensor) -> Tensor:
    """`(rating - r)^2` (ch4 B4, B11), positive where the book prints a minus (ch4 X4)."""
    return (ratings - scores).square()


def segment_hinge_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """`max(0, 1 - r * label)` with labels +1 and -1 (ch4 B12); with 0 for -1 half would not train (ch4 X5).

    Raises:
        ValueError: If a label is neither.
    """
    if not bool((labels.abs() == 1).all()):
        raise ValueError("segment labels must be +1 or -1")
    return F.relu(1 - scores * labels)
