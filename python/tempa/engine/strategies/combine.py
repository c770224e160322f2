"""What a request with several prompts draws from: functions for `Request.combine`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tempa.engine.request import Combine


def mix(weights: Sequence[float]) -> Combine:
    """The mean of probabilities with weights, one for each prompt: an ensemble (ch3 F4).

    >>> mix([3, 1])(torch.tensor([[0.0, -100.0], [-100.0, 0.0]])).exp()
    tensor([0.7500, 0.2500])
    """
    shares = torch.tensor(weights, dtype=torch.float32)
    if len(shares) < 2 or bool((shares < 0).any()) or not 0 < float(shares.sum()) < math.inf:
        raise ValueError(f"weights of two prompts or more must be finite and not negative, got {weights}")
    shares = shares / shares.sum()

    def combine(logits: Tensor) -> Tensor:
        if len(logits) != len(shares):
            raise ValueError(f"{len(logits)} prompts but {len(shares)} weights")
        mixed: Tensor = (logits.log_softmax(-1) + shares.to(logits.device).log()[:, None]).logsumexp(0)
        return mixed

    return combine


def guide(scale: float) -> Combine:
    """Away from the second prompt: `second + scale (first - second)` of log-probabilities.

    Classifier-free guidance (Sanchez et al., 2023, equation 7); 1 is the first prompt alone.
    """

    def combine(logits: Tensor) -> Tensor:
        first, second = _two(logits).log_softmax(-1)
        away: Tensor = second + scale * (first - second)
        return away

    return combine


def contrast(alpha: float = 0.1, beta: float = 0.5) -> Combine:
    """What the first prompt likes more than the second, among what it likes at all.

    Contrastive decoding (Li et al., 2023; O'Brien and Lewis, 2023): `(1 + beta) first - beta second` over the
    tokens that are at least `alpha` times as likely as the likeliest of the first.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}")

    def combine(logits: Tensor) -> Tensor:
        first, second = _two(logits)
        plausible = first >= first.max() + math.log(alpha)
        return torch.where(plausible, (1 + beta) * first - beta * second, -math.inf)

    return combine


def _two(logits: Tensor) -> Tensor:
    if len(logits) != 2:
        raise ValueError(f"expected two prompts, got {len(logits)}")
    return logits
