"""A cheap model first, a better one where the cheap one is unsure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tempa.engine.engine import Engine
from tempa.engine.request import Ids
from tempa.engine.sampling import Completion, Sampling


def confidence(completion: Completion) -> float:
    """Geometric mean of the probabilities of what was drawn."""
    return float(np.exp(np.nanmean(completion.logps)))


def cascade(
    engines: Sequence[Engine],
    prompts: Sequence[Ids],
    sampling: Sampling,
    *,
    threshold: float,
    score: Callable[[Completion], float] = confidence,
) -> list[tuple[Completion, int]]:
    """Complete prompts with the first engine that is sure enough (ch3 F12).

    Args:
        engines: From cheap to good, with one vocabulary; the last answers whatever is left.
        prompts: Token ids, at least one each.
        sampling: With `n` 1.
        threshold: Least score of an answer that is taken.
        score: How sure an answer is.

    Returns:
        For each prompt, the answer and the place of the engine that gave it.

    Raises:
        ValueError: If there is no engine, or more than one sample is asked for.
    """
    if not engines:
        raise ValueError("a cascade needs an engine")
    if sampling.n != 1:
        raise ValueError(f"a cascade gives one sample, got n = {sampling.n}")
    answers: dict[int, tuple[Completion, int]] = {}
    for place, engine in enumerate(engines):
        left = [i for i in range(len(prompts)) if i not in answers]
        for i, (completion,) in zip(left, engine.generate([prompts[i] for i in left], sampling), strict=True):
            if place == len(engines) - 1 or score(completion) >= threshold:
                answers[i] = completion, place
    return [answers[i] for i in range(len(prompts))]
