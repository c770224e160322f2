"""`tempa::rope_to_scaled_cache`, rotary positions with the write to a cache of bytes.

The kernel is in `cuda/rope_scaled.cu`; `tempa.ops.scaled` describes the blocks. Registered for CUDA, CPU and
fake tensors; caches keep no gradients.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from tempa.ops import nvrtc, scaled
from tempa.ops.cuda_tensors import ELEMENTS
from tempa.ops.rope import turned
from tempa.ops.rope_cuda import MAX_PACKS, readable, strides_of, vector_of

SOURCE = "rope_scaled.cu"
THREADS = 256
KEPT = {torch.int8: "int8", torch.float8_e4m3fn: "e4m3"}


def defines(dtype: torch.dtype, kept: torch.dtype, head_dim: int, vector: int) -> dict[str, str | int]:
    """The macros that `rope_scaled.cu` is compiled with."""
    types = {"ELEMENT": ELEMENTS[dtype], "KEPT": KEPT[kept]}
    packs = head_dim // vector
    shape = {"VECTOR": vector, "HEAD_PACKS": packs, "LANES": lanes_of(packs), "THREADS": THREADS}
    return types | shape


def lanes_of(head_packs: int) -> int:
    """Lanes that share a row: a power of two, since they add up by halves."""
    return min(32, 1 << (head_packs - 1).bit_length())


def turn_to_scaled_cache(
    q_out: Tensor,
    k_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotations: Tensor | None,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    block_size: int,
) -> None:
    """Write turned queries and keys, and keep turned keys and values in a cache of bytes.

    Args:
        q_out: (T, H, D), contiguous.
        k_out: (T, Hkv, D), contiguous.
        q: (T, H, D); here and in k and v, tokens and heads may have gaps between them.
        k: (T, Hkv, D).
        v: (T, Hkv, D).
        rotations: (T, 1, D/2) complex64 from `ops.rotations`; None turns nothing.
        slots: (T,) int64, `block * block_size + place`; what is not in the cache, such as -1, is not kept.
        keys: (blocks, bytes) int8 or e4m3, contiguous.
        values: As keys.
        block_size: Tokens of a block.

    Raises:
        ValueError: If a shape, dtype, layout or device does not fit.
    """
    (T, H, D), (_, heads, _) = q.shape, k.shape
    vector = vector_of(k, (q, k, v), (k_out, q_out), rotations)
    if slots.dtype != torch.int64 or slots.shape != (T,) or not slots.is_contiguous():
        raise _error(f"expected {T} slots of int64 in one piece, got {tuple(slots.shape)} of {slots.dtype}")
    if k.shape != (T, heads, D) or v.shape != k.shape or q_out.shape != q.shape:
        raise _error(f"queries, keys and values do not fit: {[tuple(x.shape) for x in (q_out, q, k, v)]}")
    num_bytes = scaled.block_bytes(heads, block_size, D)
    for pool in (keys, values):
        if pool.dtype not in KEPT or pool.dtype != keys.dtype or pool.device != k.device:
            raise _error(
                f"a cache of int8 or e4m3 on {k.device} is needed, got {pool.dtype} on {pool.device}"
            )
        if pool.shape != (len(keys), num_bytes) or not pool.is_contiguous():
            raise _error(f"expected blocks of {num_bytes} bytes in one piece, got shape {tuple(pool.shape)}")
        if pool.data_ptr() % 4 or num_bytes % 4 or heads * block_size * D % 4:
            raise _error(f"scales would not be aligned in blocks of {heads} x {block_size} rows of {D} bytes")
        if pool.data_ptr() % vector or num_bytes % vector:
            vector = 2
    if slots.device != k.device or len(keys) * block_size > MAX_PACKS:
        raise _error(f"slots on {slots.device} for {len(keys)} blocks of {block_size} on {k.device}")
    blocks = -(-T * (H + 2 * heads) * lanes_of(D // vector) // THREADS)
    if blocks:
        nvrtc.launch(
            _kernel(k.dtype, keys.dtype, D, vector, k.device),
            *(q_out, k_out, keys, values, q, k, v, rotations, slots, T, H, heads),
            *(stride for tensor in (q, k, v) for stride in strides_of(tensor)),
            *(len(keys) * block_size, block_size),
            grid=blocks,
            block=THREADS,
        )


def _error(message: str) -> ValueError:
    return ValueError(f"rope_to_scaled_cache on CUDA: {message}")


@functools.cache
def _kernel(
    dtype: torch.dtype, kept: torch.dtype, head_dim: int, vector: int, device: torch.device
) -> nvrtc.Kernel:
    return nvrtc.load(SOURCE, "rope_to_scaled_cache", device, defines(dtype, kept, head_dim, vector))


def _cuda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotations: Tensor | None,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    block_size: int,
) -> tuple[Tensor, Tensor]:
    q_out, k_out = q.new_empty(q.shape), k.new_empty(k.shape)
    q, k, v = readable(q), readable(k), readable(v)
    turns = None if rotations is None else rotations.contiguous()
    places = slots.contiguous()
    turn_to_scaled_cache(q_out, k_out, q, k, v, turns, places, keys, values, block_size=block_size)
    return q_out, k_out


def _cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotations: Tensor | None,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    block_size: int,
) -> tuple[Tensor, Tensor]:
    q, k = (x.clone() if rotations is None else turned(x.contiguous(), rotations) for x in (q, k))
    scaled.write(keys, slots, k, block_size)
    scaled.write(values, slots, v, block_size)
    return q.contiguous(), k.contiguous()


def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotations: Tensor | None,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    block_size: int,
) -> tuple[Tensor, Tensor]:
    del v, rotations, slots, keys, values, block_size
    return q.new_empty(q.shape), k.new_empty(k.shape)


_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "rope_to_scaled_cache(Tensor q, Tensor k, Tensor v, Tensor? rotations, Tensor slots, Tensor(a!) keys,"
    " Tensor(b!) values, int block_size) -> (Tensor, Tensor)"
)
_library.impl("rope_to_scaled_cache", _cuda, "CUDA")
_library.impl("rope_to_scaled_cache", _cpu, "CPU")
torch.library.register_fake("tempa::rope_to_scaled_cache", _fake, lib=_library)
