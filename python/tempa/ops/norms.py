"""Normalisation over the last dimension, with statistics in float32 or wider.

`for_product` says that the result goes to matrix products and nowhere else. Under autocast on CUDA it is then
rounded to their dtype by the kernel of the norm, and not by another one after it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tempa.ops import cuda_tensors


def rms_norm(
    x: Tensor, weight: Tensor | None = None, eps: float = 1e-6, *, for_product: bool = False
) -> Tensor:
    """`x * weight / sqrt(mean(x^2) + eps)` (Zhang and Sennrich, 2019, equation 4).

    Args:
        x: (..., D), any floating dtype; the result has the same.
        weight: (D,) gain, or None for ones.
        eps: Added to the mean square, so an all-zero row stays zero.
        for_product: See above.

    >>> rms_norm(torch.tensor([6.0, -8.0]))
    tensor([ 0.8485, -1.1314])
    """
    if weight is not None and weight.dtype != x.dtype:
        weight = weight.to(x.dtype)
    if _is_fused(x):
        dtype = _result_dtype(x, for_product)
        fused: Tensor = torch.ops.tempa.norm(x, weight, None, eps, False, dtype)  # norm_cuda.py
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


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    for_product: bool = False,
) -> Tensor:
    """`(x - mean) / sqrt(variance + eps) * weight + bias`, eps under the root as in checkpoints (ch2 T9)."""
    if _is_fused(x):
        gain, shift, dtype = _like(x, weight), _like(x, bias), _result_dtype(x, for_product)
        fused: Tensor = torch.ops.tempa.norm(x, gain, shift, eps, True, dtype)
        return fused
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    *,
    for_product: bool = False,
) -> tuple[Tensor, Tensor]:
    """`rms_norm(x + residual)` and the sum itself, which is what the residual stream goes on with.

    >>> add_rms_norm(torch.tensor([2.0, -4.0]), torch.tensor([4.0, -4.0]))
    (tensor([ 0.8485, -1.1314]), tensor([ 6., -8.]))
    """
    if _is_fused_sum(x, residual):
        gain, dtype = _like(residual, weight), _result_dtype(residual, for_product)
        normed, total = torch.ops.tempa.add_norm(x, residual, gain, None, eps, False, dtype)
    else:
        total = x + residual
        normed = rms_norm(total, weight, eps, for_product=for_product)
    return normed, total


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    for_product: bool = False,
) -> tuple[Tensor, Tensor]:
    """`layer_norm(x + residual)` and the sum itself, as `add_rms_norm`."""
    if _is_fused_sum(x, residual):
        gain, shift = _like(residual, weight), _like(residual, bias)
        dtype = _result_dtype(residual, for_product)
        normed, total = torch.ops.tempa.add_norm(x, residual, gain, shift, eps, True, dtype)
    else:
        total = x + residual
        normed = layer_norm(total, weight, bias, eps, for_product=for_product)
    return normed, total


def _is_fused(x: Tensor) -> bool:
    return cuda_tensors.has_kernels(x) and x.dtype != torch.float64


def _is_fused_sum(x: Tensor, residual: Tensor) -> bool:
    """Both of one dtype, or a product of autocast beside a float32 stream."""
    return _is_fused(residual) and (x.dtype == residual.dtype or residual.dtype == torch.float32)


def _result_dtype(x: Tensor, for_product: bool) -> torch.dtype | None:
    kind = x.device.type
    if for_product and x.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


def _like(x: Tensor, vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.to(x.dtype)
