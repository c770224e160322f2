"""Rotary positions (Su et al., 2021): pair `i` of a head turns by `position / theta^(2i/D)`.

Pairs are neighbours, (x[0], x[1]), (x[2], x[3]), as in the paper, so a rotation is one complex product.
Checkpoints that pair x[i] with x[i + D/2] need the rows of their query and key matrices permuted.
Angles are computed in float64 and kept in float32, whatever the model's dtype: above 256 bfloat16 cannot
even tell neighbouring positions apart.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from tempa.ops import cuda_tensors


def rotations(
    positions: Tensor,
    head_dim: int,
    *,
    max_positions: int,
    theta: float = 10000.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The complex factors for `rope`.

    Args:
        positions: (T,) int64, below `max_positions`.
        head_dim: Even width of a head.
        max_positions: Length of the table, which is made once and kept.
        theta: Base of the wavelengths.
        dtype: float32, or float64 for a model in float64.

    Returns:
        (T, 1, head_dim / 2) complex.
    """
    return _table(head_dim, max_positions, theta, dtype, positions.device).index_select(0, positions)


@lru_cache(maxsize=8)
def _table(
    head_dim: int, max_positions: int, theta: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    # Made outside inference mode even when asked for inside: training reads the same table.
    with torch.inference_mode(mode=False):
        frequencies = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float64), frequencies).unsqueeze(1)
        return torch.polar(torch.ones_like(angles), angles).to(device, dtype.to_complex())


def rope(x: Tensor, rotations: Tensor) -> Tensor:
    """Turn the pairs of each head.

    Args:
        x: (T, H, D).
        rotations: (T, 1, D/2) from `rotations`.

    Returns:
        (T, H, D) in the dtype of `x`; the product is in float32 or wider.
    """
    if cuda_tensors.has_kernels(x) and rotations.dtype == torch.complex64:
        fused: Tensor = torch.ops.tempa.rope(x, rotations, False)  # rope_cuda.py
        return fused
    return turned(x, rotations)


def turned(x: Tensor, rotations: Tensor) -> Tensor:
    """The same as `rope`, by torch."""
    pairs = x.to(rotations.dtype.to_real()).reshape(*x.shape[:-1], -1, 2)
    product = torch.view_as_complex(pairs) * rotations
    return torch.view_as_real(product).flatten(-2).to(x.dtype)
