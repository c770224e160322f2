"""One answer out of several: by a scorer, by their majority, by the least expected risk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def best_of(candidates: Sequence[T], score: Callable[[T], float]) -> T:
    """The candidate of the highest score, the first of equals (best-of-n; ch3 F9).

    Args:
        candidates: Such as the completions of one prompt.
        score: A verifier, a reward model, a log-probability.

    Raises:
        ValueError: If there is no candidate or a score is NaN.

    >>> best_of(["a", "ccc", "bb"], len)
    'ccc'
    """
    scores = [score(candidate) for candidate in _some(candidates)]
    if any(np.isnan(value) for value in scores):
        raise ValueError(f"the score of candidate {int(np.argmax(np.isnan(scores)))} is NaN")
    return candidates[int(np.argmax(scores))]


def majority(candidates: Sequence[T], key: Callable[[T], Hashable | None]) -> tuple[T, float]:
    """The first candidate with the most frequent answer, and its share (self-consistency; ch3 F8).

    Args:
        candidates: Such as sampled solutions.
        key: The answer of a candidate; None is no vote.

    Returns:
        The candidate, the first of all with the share 0 if there is no vote, and the share of all candidates.

    Raises:
        ValueError: If there is no candidate.

    >>> majority(["x = 3", "so 4", "it is 3"], lambda text: text[-1])
    ('x = 3', 0.6666666666666666)
    """
    answers = [key(candidate) for candidate in _some(candidates)]
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return candidates[0], 0.0
    # Of equally frequent answers the one that came first.
    answer, count = max(votes.items(), key=lambda vote: (vote[1], -answers.index(vote[0])))
    return candidates[answers.index(answer)], count / len(candidates)


def minimum_risk(
    candidates: Sequence[T], risk: Callable[[T, T], float], weights: Sequence[float] | None = None
) -> T:
    """The candidate that is expected to be least wrong (minimum Bayes risk; ch3 F10, equation 3.9).

    Args:
        candidates: Samples of the model, or beams with their weights.
        risk: What it costs to answer with the first where the second is right.
        weights: Of each candidate as what may be right; all the same when None, as for samples.

    Raises:
        ValueError: If there is no candidate, or the weights are not one for each.

    >>> minimum_risk([3, 4, 4, 9], lambda a, b: abs(a - b))
    4
    """
    share = np.ones(len(_some(candidates))) if weights is None else np.asarray(weights, float)
    if share.shape != (len(candidates),):
        raise ValueError(f"{len(candidates)} candidates but {len(share)} weights")
    risks = np.array([[risk(one, other) for other in candidates] for one in candidates])
    return candidates[int(np.argmin(risks @ share))]


def _some(candidates: Sequence[T]) -> Sequence[T]:
    if not candidates:
        raise ValueError("there is no candidate to choose")
    return candidates
