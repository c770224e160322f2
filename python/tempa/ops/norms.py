"""Normalisation over the last dimension, with statistics in float32 or wider."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """`x * weight / sqrt(mean(x^2) + eps)` (Zhang and Sennrich, 2019, equation 4).

    Args:
        x: (..., D), any floating dtype; the result has the same.
        weight: (D,) gain, or None for ones.
        eps: Added to the mean square, so an all-zero row stays zero.

    >>> rms_norm(torch.tensor([6.0, -8.0]))
    tensor([ 0.8485, -1.1314])
    """
    if weight is not None and weight.dtype != x.dtype:
        weight = weight.to(x.dtype)
    if _is_fused(x):
        fused: Tensor = torch.ops.tempa.norm(x, weight, None, eps, False)  # norm_cuda.py
        return fused
    if x.device.type == "cpu" and torch.is_grad_enabled():
        out: Tensor = _RmsNorm.apply(x, weight, eps)
        return out
    return F.rms_norm(x, x.shape[-1:], weight, eps)


class _RmsNorm(torch.autograd.Function):
    """Few passes both ways; torch composes its own on CPU from many, and takes three times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = _scale(wide, eps)
        ctx.save_for_backward(x, scale, weight)
        unit = wide * scale
        return (unit if weight is None else unit.mul_(weight)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, scale, weight = ctx.saved_tensors
        return *_gradients(grad, x, scale, weight), None


def rms_norm_gradients(
    grad: Tensor, x: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor | None]:
    """The gradients of `rms_norm` for x and, if there is one, for the weight."""
    scale = _scale(x.to(torch.promote_types(x.dtype, torch.float32)), eps)
    return _gradients(grad, x, scale, weight)


def _scale(x: Tensor, eps: float) -> Tensor:
    """(..., 1), what a row is multiplied by."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale: Tensor = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return scale


def _gradients(grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    grad = grad.to(scale.dtype)
    unit = x * scale
    by_unit = grad * unit
    # What moves a row along itself does not change the result.
    if weight is None:
        weight_grad, along = None, by_unit.sum(-1, keepdim=True)
    else:
        wide = weight.to(scale.dtype)
        weight_grad, along = by_unit.flatten(0, -2).sum(0).to(weight.dtype), (by_unit @ wide).unsqueeze(-1)
        grad = grad * wide
    x_grad = torch.addcmul(grad, unit, along, value=-1 / x.shape[-1]).mul_(scale)
    return x_grad.to(x.dtype), weight_grad


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """`(x - mean) / sqrt(variance + eps) * weight + bias`, eps under the root as in checkpoints (ch2 T9)."""
    if _is_fused(x):
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        fused: Tensor = torch.ops.tempa.norm(x, weight, bias, eps, True)
        return fused
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None = None, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """`rms_norm(x + residual)` and the sum itself, which is what the residual stream goes on with.

    >>> add_rms_norm(torch.tensor([2.0, -4.0]), torch.tensor([4.0, -4.0]))
    (tensor([ 0.8485, -1.1314]), tensor([ 6., -8.]))
    """
    if _is_fused(x) and x.dtype == residual.dtype:
        gain = None if weight is None else weight.to(x.dtype)
        normed, total = torch.ops.tempa.add_norm(x, residual, gain, None, eps, False)
    else:
        total = x + residual
        normed = rms_norm(total, weight, eps)
    return normed, total


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """`layer_norm(x + residual)` and the sum itself, as `add_rms_norm`."""
    if _is_fused(x) and x.dtype == residual.dtype:
        shift = None if bias is None else bias.to(x.dtype)
        normed, total = torch.ops.tempa.add_norm(x, residual, weight.to(x.dtype), shift, eps, True)
    else:
        total = x + residual
        normed = layer_norm(total, weight, bias, eps)
    return normed, total


def _is_fused(x: Tensor) -> bool:
    return x.device.type == "cuda" and x.dtype != torch.float64
