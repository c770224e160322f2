"""How long a call takes, over rounds."""

from __future__ import annotations

import time
from collections.abc import Callable

# A round shorter than this is mostly the clock's own noise, so it repeats the call.
ROUND_S = 0.002
MIN_ROUNDS = 5


def measure(function: Callable[[], object], *, budget_s: float = 1.0) -> list[float]:
    """Seconds per call in each of several rounds, after one call to warm up.

    Args:
        function: What to time.
        budget_s: When to stop, as soon as there are five rounds.
    """
    function()
    start = time.perf_counter()
    function()
    number = max(1, int(ROUND_S / max(time.perf_counter() - start, 1e-9)))
    rounds: list[float] = []
    end = time.perf_counter() + budget_s
    while len(rounds) < MIN_ROUNDS or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(number):
            function()
        rounds.append((time.perf_counter() - start) / number)
    return rounds
