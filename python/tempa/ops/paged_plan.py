"""Which block of `cuda/paged.cu` attends to which keys: a pure function of the lengths of a batch.

Worked out once for a batch, for all its layers. A captured CUDA graph may keep a plan for longer sequences
than there are: every block cuts its share to the lengths on the device, and an empty share changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The same in paged.cu: keys of a tile, rows of a warp, columns of `Plan.items`.
TILE = 64
WARP_ROWS = 16
ITEM_FIELDS = 5

# Costs in the time of one tile, not yet measured on a GPU: filling the ring and writing the result; adding up
# one split more.
START_TILES = 2.0
SPLIT_TILES = 1 / 16
MAX_SPLITS = 128


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

    >>> plan(np.array([4096]), np.array([0, 1]), group=4, num_kv_heads=8, resident=264).launches
    ((1, 32, 32),)
    """
    counts = np.diff(starts)
    rows = counts * group
    # Few rows share a tile of 16 with the keys shared out, so that no warp is idle.
    warps = np.where(rows <= WARP_ROWS, 1, np.where(rows <= 2 * WARP_ROWS, 2, 4)).clip(max=max_row_warps)
    items, launches = [], []
    for row_warps in (1, 2, 4):
        chosen = np.flatnonzero((warps == row_warps) & (counts > 0))
        if not len(chosen):
            continue
        per_tile = WARP_ROWS * row_warps
        num = -(-rows[chosen] // per_tile)
        sequence = np.repeat(chosen, num)
        tile = np.arange(len(sequence)) - np.repeat(np.cumsum(num) - num, num)
        # The tiles of keys that the rows see: the same arithmetic as in the kernel.
        before = (lengths - counts)[sequence]
        last_row = np.minimum((tile + 1) * per_tile, rows[sequence]) - 1
        end = before + last_row // group + 1
        low = np.zeros_like(end) if window is None else before + tile * per_tile // group - window + 1
        low = low.clip(min=0) // TILE
        keys = np.minimum(-(-sinks // TILE), low) + -(-end // TILE) - low
        splits = -(-keys // _tiles_per_split(keys, num_kv_heads, resident))
        order = np.argsort(-(keys / splits), kind="stable")
        sequence, tile, splits = sequence[order], tile[order], splits[order]
        parts = np.where(splits > 1, splits, 0)
        table = np.stack([sequence, tile, splits, np.cumsum(parts) - parts])
        sequence, tile, num_splits, part = np.repeat(table, splits, axis=1)
        split = np.arange(len(sequence)) - np.repeat(np.cumsum(splits) - splits, splits)
        items.append(np.stack([sequence, tile, split, num_splits, part], 1))
        launches.append((row_warps, len(sequence), int(parts.sum())))
    table = np.concatenate(items) if items else np.zeros((0, ITEM_FIELDS))
    return Plan(np.ascontiguousarray(table, np.int32), tuple(launches))


def _tiles_per_split(tiles: NDArray[np.int64], num_kv_heads: int, resident: int) -> int:
    """What ends first by the costs above, over all sizes of a split of the longest; the largest of equals."""
    longest = max(int(tiles.max()), 1)
    sizes = np.unique(-(-longest // np.arange(1, min(longest, MAX_SPLITS) + 1)))[::-1]
    splits = -(-tiles[:, None] // sizes)
    waves = -(-splits.sum(0) * num_kv_heads // resident)
    return int(sizes[np.argmin(waves * (sizes + START_TILES) + SPLIT_TILES * splits.max(0))])
