"""Means with intervals: the percentile bootstrap, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tempa import _core

# Keeps resampling apart from everything else that is drawn with the same seed.
_RESAMPLE_STREAM = 0x424F_4F54

# Draws held in memory at once.
_CHUNK_DRAWS = 1 << 20


@dataclass(frozen=True)
class Estimate:
    """A mean and where it could as well have been.

    Attributes:
        mean: Over the items.
        low: Lower end of the interval.
        high: Upper end.
        count: Number of items.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}] of {self.count}"


def bootstrap_interval(
    values: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    seed: int = 0,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of `values` and its percentile bootstrap interval (Efron, 1979); items are drawn with replacement.

    Args:
        values: One for each item.
        weights: How much each item counts, such as its bytes; equal when None.
        seed: Of the resampling.
        num_resamples: How often the items are drawn.
        confidence: Share of the resampled means inside the interval.

    Raises:
        ValueError: If there are no values, or weights do not match them.

    >>> bootstrap_interval([1.0, 0.0, 1.0, 1.0] * 25).mean
    0.75
    """
    items = np.asarray(values, dtype=np.float64)
    shares = np.ones_like(items) if weights is None else np.asarray(weights, dtype=np.float64)
    if items.ndim != 1 or len(items) == 0:
        raise ValueError(f"an interval needs a flat array of at least one value, got shape {items.shape}")
    if shares.shape != items.shape or not shares.sum() > 0:
        raise ValueError(
            f"weights must be {items.size} numbers with a positive sum, got shape {shares.shape}"
        )
    n = len(items)
    rows = max(1, _CHUNK_DRAWS // n)
    means = []
    for start in range(0, num_resamples, rows):
        num_rows = min(rows, num_resamples - start)
        bits = _core.random_bits(seed, _RESAMPLE_STREAM, start * n, num_rows * n)
        # The high half times n, shifted back: a whole number below n.
        drawn = (
            ((bits >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.int64).reshape(num_rows, n)
        )
        drawn_shares = shares[drawn]
        means.append((items[drawn] * drawn_shares).sum(1) / np.maximum(drawn_shares.sum(1), 1e-300))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Estimate(float((items * shares).sum() / shares.sum()), float(low), float(high), n)


def non_overlapping(a: Estimate, b: Estimate) -> bool:
    """Whether two intervals have no value in common.

    >>> non_overlapping(Estimate(0.5, 0.4, 0.6, 10), Estimate(0.8, 0.7, 0.9, 10))
    True
    """
    return a.high < b.low or b.high < a.low
