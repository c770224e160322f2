"""One new token a sequence against a paged cache: all that counts is how fast keys and values are read."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu.comparison import OURS, Case, Comparison, Run, Target
from gpu.rig import Rig, normal, size
from tempa.ops import AttentionSpec, LayerCache, paged_cuda
from tempa.ops.attention import paged_by_gather
from tempa.ops.paged_plan import plan

BLOCK_SIZE = 16
# Four query heads to a key head.
HEADS, KEY_HEADS, HEAD_DIM = 32, 8, 128
KINDS = {"bfloat16": torch.bfloat16, "int8": torch.int8, "e4m3": torch.float8_e4m3fn}
# bfloat16 results; all sides read the same rounded cache.
TOLERANCE = 1e-2
SHARE = Target("share", 0.85, 0.92)
LATENCY = Target("time", 9.5, 7.0)


@dataclass(frozen=True)
class Batch:
    """Sequences in a cache whose blocks are in no order, as after some hours of serving."""

    q: Tensor
    keys: Tensor
    values: Tensor
    tables: Tensor
    lengths: Tensor
    dtype: torch.dtype

    @property
    def num_key_heads(self) -> int:
        """Of the cache."""
        return KEY_HEADS if self.q.shape[1] == HEADS else 1

    @property
    def num_bytes(self) -> int:
        """What has to be read and written."""
        per_row = self.q.shape[2] * self.dtype.itemsize + (4 if self.dtype.itemsize == 1 else 0)
        rows = 2 * int(self.lengths.sum()) * self.num_key_heads
        return rows * per_row + 2 * self.q.nbytes

    def spec(self) -> AttentionSpec:
        """The batch for `ops.attention`."""
        slots = torch.zeros(len(self.q), dtype=torch.int64, device=self.q.device)
        return AttentionSpec.paged(self.tables, self.lengths, slots, block_size=BLOCK_SIZE)

    def widened(self) -> LayerCache:
        """The cache in bfloat16."""
        pools = (
            paged_cuda.unscaled(pool, self.num_key_heads, BLOCK_SIZE, self.q.shape[2])
            for pool in (self.keys, self.values)
        )
        return LayerCache(*(pool.to(self.q.dtype) for pool in pools))


def cases() -> list[Case]:
    """Throughput with at least 256 MiB of keys and values, and the latency of a single sequence."""
    listed = []
    for kind in KINDS:
        listed.append(_case(1, 4096, kind, (LATENCY,) if kind == "bfloat16" else ()))
        listed.append(_case(64, 4096, kind, (SHARE,) if kind == "bfloat16" else ()))
        listed.append(_case(256, 2048, kind, (SHARE,) if kind == "bfloat16" else ()))
    return listed


def _case(num_sequences: int, length: int, kind: str, targets: tuple[Target, ...]) -> Case:
    def build(rig: Rig) -> Comparison:
        batch = _batch(rig, size(rig, num_sequences, 3), size(rig, length, 70), KINDS[kind])
        ways = {OURS: _ours, "gather, torch SDPA": _gather, "FlashInfer": _flashinfer}
        sides = {name: _maker(way, rig, batch) for name, way in ways.items()}
        return Comparison(sides, TOLERANCE, batch.num_bytes, targets=targets)

    words = f"{num_sequences} of {length} tokens, {kind} cache"
    return Case(words, build, is_quick=kind == "bfloat16" and num_sequences != 256)


def _maker(way: Callable[[Rig, Batch], Run], rig: Rig, batch: Batch) -> Callable[[], Run]:
    return lambda: way(rig, batch)


def _batch(rig: Rig, num_sequences: int, length: int, dtype: torch.dtype) -> Batch:
    heads, key_heads, width = (HEADS, KEY_HEADS, HEAD_DIM) if not rig.is_tiny else (4, 1, 32)
    # One token is missing in the last block.
    blocks = -(-length // BLOCK_SIZE)
    count = num_sequences * blocks
    generator = torch.Generator(rig.device).manual_seed(count)
    order = torch.randperm(count, generator=generator, device=rig.device).int()
    keys, values = (
        stored(normal(rig, count, key_heads, BLOCK_SIZE, width, scale=scale), dtype) for scale in (1, 1.01)
    )
    lengths = torch.full((num_sequences,), length - 1, dtype=torch.int64, device=rig.device)
    q = normal(rig, num_sequences, heads, width)
    return Batch(q, keys, values, order.view(num_sequences, blocks), lengths, dtype)


def stored(pool: Tensor, dtype: torch.dtype) -> Tensor:
    """Blocks as the cache keeps them: of bytes, with a float32 scale for each row behind the rows."""
    if dtype not in paged_cuda.SCALED:
        return pool.to(dtype)
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    scales = pool.float().abs().amax(-1) / largest
    rows = pool.float() / scales[..., None]
    rows = rows.round() if dtype == torch.int8 else rows
    blocks = len(pool)
    rows_bytes = rows.to(dtype).view(torch.uint8).view(blocks, -1)
    return torch.cat([rows_bytes, scales.view(blocks, -1).view(torch.uint8)], 1).view(dtype)


def _ours(rig: Rig, batch: Batch) -> Run:
    group = batch.q.shape[1] // batch.num_key_heads
    properties = torch.cuda.get_device_properties(rig.device)
    variant = paged_cuda.Shape.of(
        *(batch.q.shape[2], BLOCK_SIZE, group, batch.keys.itemsize),
        shared_bytes=properties.shared_memory_per_block_optin,
    )
    starts = np.arange(len(batch.q) + 1)
    made = plan(
        batch.lengths.cpu().numpy(),
        starts,
        group=group,
        num_kv_heads=batch.num_key_heads,
        resident=paged_cuda.resident_blocks(rig.device, variant),
        max_row_warps=variant.max_row_warps,
    )
    on_device = [torch.from_numpy(array).to(rig.device) for array in (starts, made.items)]
    launches = [number for launch in made.launches for number in launch]
    arguments = (batch.q, batch.keys, batch.values, batch.tables, batch.lengths, *on_device, launches)
    rules = (BLOCK_SIZE, batch.num_key_heads, None, 0, None, None)
    return lambda: torch.ops.tempa.paged_attention(*arguments, *rules)


def _gather(rig: Rig, batch: Batch) -> Run:
    del rig
    spec = batch.spec()
    return lambda: paged_by_gather(batch.q, spec, batch.widened())


def _flashinfer(rig: Rig, batch: Batch) -> Run:
    flashinfer: Any = importlib.import_module("flashinfer")
    if batch.dtype != batch.q.dtype:
        raise NotImplementedError("its caches of bytes have one scale for all, not one for each row")
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=rig.device)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND", use_tensor_cores=True)
    pages = batch.tables.shape[1]
    starts = torch.arange(len(batch.q) + 1, dtype=torch.int32, device=rig.device) * pages
    last = ((batch.lengths - 1) % BLOCK_SIZE + 1).int()
    heads = (batch.q.shape[1], batch.num_key_heads, batch.q.shape[2])
    wrapper.plan(starts, batch.tables.flatten(), last, *heads, BLOCK_SIZE, q_data_type=batch.q.dtype)
    return lambda: wrapper.run(batch.q, (batch.keys, batch.values))
