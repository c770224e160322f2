"""Which partitions are emitted one after the other: those of a source with a budget of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from tempa.data.corpus.plan import Plan
from tempa.data.corpus.work import SIDES

# Partitions in order, and the most tokens that they may have together, 0 for all.
Run = tuple[list[int], int]


def emission_runs(plan: Plan) -> list[Run]:
    """The partitions in runs that do not depend on one another."""
    runs: list[Run] = []
    for number, group in groupby(range(len(plan.partitions)), lambda index: plan.partitions[index].source):
        indexes, most = list(group), plan.sources[number].max_tokens
        runs += [(indexes, most)] if most else [([index], 0) for index in indexes]
    return runs


def emit_run(
    run: Run, emit_one: Callable[[int, int], dict[str, Any]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Emit partitions until their budget is used up; those after that have no shards.

    Args:
        run: The partitions and the budget.
        emit_one: Emits a partition of at most so many tokens, 0 for all, and says what its shards hold.
    """
    indexes, most = run
    left, is_full = most, False
    for index in indexes:
        if is_full:
            yield index, dict.fromkeys(SIDES)
            continue
        made = emit_one(index, left)
        if most:
            left -= made["train"]["tokens"] if made["train"] else 0
            is_full = made["is_full"] or not left
        yield index, made
