"""The plan of `tempa.ops.paged_plan` in NumPy: what the Rust one has to equal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tempa.ops.paged_plan import ITEM_FIELDS, TILE, WARP_ROWS, Plan

# Costs in the time of one tile, the same in Rust.
START_TILES = 2.0
SPLIT_TILES = 1 / 16
MAX_SPLITS = 128


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
    """As `paged_plan.plan`, whatever its time."""
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
