"""Element-wise non-linearities of the feed-forward layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up` for the two halves of the last dimension (Shazeer, 2020, equation 6).

    Args:
        gate_up: (..., 2 D): one matrix product gives both halves.

    Returns:
        (..., D)
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def relu2(x: Tensor) -> Tensor:
    """`max(x, 0)^2` (So et al., 2021).

    >>> relu2(torch.tensor([-1.0, 2.0]))
    tensor([0., 4.])
    """
    out: Tensor = _Relu2.apply(x)
    return out


class _Relu2(torch.autograd.Function):
    """Keeps the rectified values only: their sign is the mask of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rectified = F.relu(x)
        ctx.save_for_backward(rectified)
        return rectified.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rectified,) = ctx.saved_tensors
        doubled: Tensor = (grad * rectified).mul_(2)
        return doubled
