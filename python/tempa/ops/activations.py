"""Element-wise non-linearities of the feed-forward layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tempa.ops import cuda_tensors


def swiglu(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up` for the two halves of the last dimension (Shazeer, 2020, equation 6).

    Args:
        gate_up: (..., 2 D): one matrix product gives both halves.

    Returns:
        (..., D)
    """
    if _is_fused(gate_up):
        fused: Tensor = torch.ops.tempa.activation(gate_up, "silu", True)  # glu_cuda.py
        return fused
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def geglu(gate_up: Tensor) -> Tensor:
    """`gelu(gate) * up` for the two halves of the last dimension (Shazeer, 2020, equation 6).

    Args:
        gate_up: (..., 2 D): one matrix product gives both halves.

    Returns:
        (..., D)
    """
    if _is_fused(gate_up):
        fused: Tensor = torch.ops.tempa.activation(gate_up, "gelu", True)
        return fused
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate) * up


def relu2(x: Tensor) -> Tensor:
    """`max(x, 0)^2` (So et al., 2021).

    >>> relu2(torch.tensor([-1.0, 2.0]))
    tensor([0., 4.])
    """
    out: Tensor = torch.ops.tempa.activation(x, "relu2", False) if _is_fused(x) else _Relu2.apply(x)
    return out


def _is_fused(x: Tensor) -> bool:
    return cuda_tensors.has_kernels(x) and x.dtype != torch.float64


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
