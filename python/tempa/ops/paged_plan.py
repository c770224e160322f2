"""Which block of `cuda/paged.cu` attends to which keys: a pure function of the lengths of a batch.

Worked out once for a batch, for all its layers. A captured CUDA graph may keep a plan for longer sequences
than there are: every block cuts its share to the lengths on the device, and an empty share changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tempa import _core

# The same in paged.cu and in Rust: keys of a tile, rows of a warp, columns of `Plan.items`.
TILE = 64
WARP_ROWS = 16
ITEM_FIELDS = 5


@dataclass(frozen=True)
class Plan:
    """Which block of which launch does what.

    Attributes:
        items: (N, 5) int32: sequence, number of its rows' tile, split, number of splits, first part; done
            once for every key head. The launches have their items one after the other.
        launches: (row_warps, items, parts) of each launch: a part keeps what one split has found.
    """

    items: NDArray[np.int32]
    launches: tuple[tuple[int, int, int], ...]


def plan(
    lengths: NDArray[np.int64],
    starts: NDArray[np.int64],
    *,
    group: int,
    num_kv_heads: int,
    resident: int,
    max_row_warps: int = 4,
    window: int | None = None,
    sinks: int = 0,
) -> Plan:
    """Cut the keys that the new tokens of each sequence see, so that all blocks end at about the same time.

    Args:
        lengths: (n,) tokens of each sequence, the new ones included.
        starts: (n + 1,) where the new tokens of each sequence start.
        group: Query heads to a key head.
        num_kv_heads: Key heads.
        resident: Blocks that the device runs at once.
        max_row_warps: As in `Shape`.
        window: How many tokens back a query sees, itself included; all when None.
        sinks: How many of the first tokens every query sees, whatever the window.

    Raises:
        ValueError: If an option is not positive, or the starts do not fit the lengths.

    >>> plan(np.array([4096]), np.array([0, 1]), group=4, num_kv_heads=8, resident=264).launches
    ((1, 32, 32),)
    """
    items, launches = _core.plan_splits(
        lengths, starts, group, num_kv_heads, resident, max_row_warps, window, sinks
    )
    return Plan(items, tuple(launches))
