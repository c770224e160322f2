"""Caches of bytes: rows of keys and values as int8 or e4m3, each with a float32 scale.

A block is `num_heads * block_size` rows of D bytes, then their scales: who copies a block copies its scales.
Rows of int8 are those that `Decoder` keeps, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALE_BYTES = 4
# What the largest number of a row becomes.
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


def is_scaled(dtype: torch.dtype) -> bool:
    """Whether a cache of this dtype has scales."""
    return dtype in LARGEST


def block_bytes(num_heads: int, block_size: int, head_dim: int) -> int:
    """Bytes of the keys, or values, of one block of a layer."""
    return num_heads * block_size * (head_dim + SCALE_BYTES)


def quantised(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows (..., D) in that dtype, and the scales (...) float32 that they are to be multiplied by.

    What is not finite makes the scale so. Such a row is zeros, as is one of numbers too small for a scale.

    >>> quantised(torch.tensor([[1.0, -2.0]]), torch.int8)
    (tensor([[  64, -127]], dtype=torch.int8), tensor([0.0157]))
    """
    rows = rows.float()
    scales = rows.abs().amax(-1) / LARGEST[dtype]
    has_scale = (scales > torch.finfo(torch.float32).tiny) & scales.isfinite()
    numbers = torch.where(has_scale[..., None], rows * (1 / scales)[..., None], 0)
    if dtype == torch.int8:
        return numbers.round().to(dtype), scales
    return numbers.clamp(-LARGEST[dtype], LARGEST[dtype]).to(dtype), scales


def write(pool: Tensor, slots: Tensor, rows: Tensor, block_size: int) -> None:
    """Keep rows in the slots of a pool, `block * block_size + place`; a slot that is not there is left out.

    Args:
        pool: (blocks, bytes) int8 or e4m3.
        slots: (T,) int64.
        rows: (T, num_heads, D).
        block_size: Tokens of a block.
    """
    _, num_heads, head_dim = rows.shape
    is_kept = (slots >= 0) & (slots < len(pool) * block_size)
    blocks, places = slots[is_kept] // block_size, slots[is_kept] % block_size
    numbers, scales = quantised(rows[is_kept], pool.dtype)
    # Not every device can index e4m3, and not every block starts where a float may.
    kept, scale_bytes = _parts(pool.view(torch.int8), num_heads, block_size, head_dim)
    kept[blocks, :, places] = numbers.view(torch.int8)
    scale_bytes[blocks, :, places] = scales[..., None].contiguous().view(torch.int8)


def unscaled(pool: Tensor, num_heads: int, block_size: int, head_dim: int) -> Tensor:
    """The values of blocks of bytes, (blocks, num_heads, block_size, D) float32; other blocks as they are."""
    if not is_scaled(pool.dtype):
        return pool
    kept, scales = _parts(pool.view(torch.int8), num_heads, block_size, head_dim)
    return kept.contiguous().view(pool.dtype).float() * scales.contiguous().view(torch.float32)


def scrub(pool: Tensor, num_heads: int, block_size: int, head_dim: int) -> None:
    """Make zeros of scales that are not finite, (..., bytes); the rows that have them are zeros already."""
    _, scales = _parts(pool.view(torch.int8), num_heads, block_size, head_dim)
    finite = scales.contiguous().view(torch.float32).nan_to_num_(0, 0, 0)
    scales.copy_(finite.view(torch.int8))


def _parts(pool: Tensor, num_heads: int, block_size: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Views of the bytes of rows and scales, (..., num_heads, block_size, D or 4)."""
    num_bytes = num_heads * block_size * head_dim
    rows, scales = pool[..., :num_bytes], pool[..., num_bytes:]
    outer = (*pool.shape[:-1], num_heads, block_size)
    return rows.view(*outer, head_dim), scales.view(*outer, SCALE_BYTES)
