"""Losses and log-probabilities straight from hidden states: (T, V) logits never exist all at once.

Both functions work on chunks of tokens, in float32 from the logits on. `linear_cross_entropy` finds the
gradient in the same pass, so no logits are kept; `linear_logp` computes them again in its backward, because
what multiplies its gradient is not known before. On CUDA in 16 bits, both are kernels (`linear_loss_cuda`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tempa.ops import linear_loss_cuda

# Logits per chunk: few enough to stay in the cache of a CPU between the passes over them.
CHUNK_LOGITS = 1 << 21
# Tokens per chunk, even if that is more logits: every chunk reads and adds to whole (V, D) matrices.
CHUNK_TOKENS = 512
# Up to so many logits, `linear_logp` keeps them for the backward instead of computing them again.
KEPT_LOGITS = 1 << 23


def softcap(logits: Tensor, cap: float | None) -> Tensor:
    """`cap * tanh(logits / cap)`: bounds logits to (-cap, cap); None leaves them as they are."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    chosen: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of `-log softmax(hidden @ weight.T)[target]`, and the sum of the weights.

    Tokens of weight 0 cost nothing and may have any target; without others the loss and its gradient are 0.

    Args:
        hidden: (T, D).
        weight: (V, D), the output embedding.
        targets: (T,) int64.
        weights: (T,) float32.
        chosen: (m,) int64, where weights are not 0, if it is known: to ask a device is to wait for it.
        softcap: Bound on the logits, if any.

    Returns:
        Two float32 scalars: the loss sum, differentiable in `hidden` and `weight`, and the weight sum.
    """
    total = weights.sum()
    if chosen is None:
        chosen = weights.nonzero().squeeze(1)
    if len(chosen) < len(weights):
        hidden, targets, weights = hidden[chosen], targets[chosen], weights[chosen]
    hidden, weight = _cast(hidden, weight)
    if linear_loss_cuda.supports(hidden, weight):
        logps, _ = torch.ops.tempa.linear_logp(hidden, weight, targets, 1.0, softcap)
        loss: Tensor = -torch.dot(logps, weights)
    elif torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss = _LinearCrossEntropy.apply(hidden, weight, targets, weights, softcap)
    else:
        logps = _chunked_logps(hidden, weight, targets, 1.0, softcap)
        loss = -torch.dot(logps, weights.to(logps.dtype))
    return loss, total


def linear_logp(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float = 1.0, softcap: float | None = None
) -> Tensor:
    """`log softmax(hidden @ weight.T / temperature)[target]` for each token.

    Args:
        hidden: (T, D).
        weight: (V, D), the output embedding.
        targets: (T,) int64.
        temperature: Divides the logits after the cap, as the sampler does.
        softcap: Bound on the logits, if any.

    Returns:
        (T,) float32, differentiable in `hidden` and `weight`.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive to score, got {temperature}")
    hidden, weight = _cast(hidden, weight)
    if linear_loss_cuda.supports(hidden, weight):
        fused: Tensor = torch.ops.tempa.linear_logp(hidden, weight, targets, temperature, softcap)[0]
        return fused
    if not (torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)):
        return _chunked_logps(hidden, weight, targets, temperature, softcap)
    if len(targets) * len(weight) <= KEPT_LOGITS:
        return _logps(F.linear(hidden, weight), targets, temperature, softcap)
    logps: Tensor = _LinearLogp.apply(hidden, weight, targets, temperature, softcap)
    return logps


def _cast(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Under autocast, cast the large matrix once instead of once per chunk."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        return hidden.to(dtype), weight.to(dtype)
    return hidden, weight


def _logps(logits: Tensor, targets: Tensor, temperature: float, cap: float | None) -> Tensor:
    logits = softcap(_wide(logits), cap)
    if temperature != 1.0:
        logits = logits / temperature
    return -F.cross_entropy(logits, targets, reduction="none")


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _capped(logits: Tensor, cap: float | None) -> tuple[Tensor, Tensor | None]:
    """Capped logits and the derivative of the cap, where there is one; `logits` is consumed."""
    if cap is None:
        return logits, None
    bounded = logits.div_(cap).tanh_()
    slope = 1 - bounded.square()
    return bounded.mul_(cap), slope


def _chunks(num_tokens: int, vocab_size: int) -> range:
    return range(0, num_tokens, max(CHUNK_TOKENS, CHUNK_LOGITS // vocab_size))


def _chunked_logps(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, cap: float | None
) -> Tensor:
    chunks = _chunks(len(targets), len(weight))
    parts = [slice(i, i + chunks.step) for i in chunks] or [slice(0)]
    return torch.cat([_logps(hidden[p] @ weight.T, targets[p], temperature, cap) for p in parts])


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += a.T @ b`, without a temporary of that size where the dtypes allow."""
    if total.dtype == a.dtype:
        total.addmm_(a.T, b)
    else:
        total += a.T @ b


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, cap: float | None
    ) -> Tensor:
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        chunks = _chunks(len(targets), len(weight))
        loss = weights.new_zeros(())
        for start in chunks:
            part = slice(start, start + chunks.step)
            h, target, w = hidden[part], targets[part, None], weights[part]
            logits, slope = _capped(_wide(h @ weight.T), cap)
            norm = logits.logsumexp(1, keepdim=True)
            loss += torch.dot((norm - logits.gather(1, target)).squeeze(1), w.to(logits.dtype))
            grad = logits.sub_(norm).exp_()
            grad.scatter_add_(1, target, grad.new_full((1, 1), -1.0).expand_as(target))
            grad *= w[:, None]
            if slope is not None:
                grad *= slope
            grad = grad.to(weight.dtype)
            hidden_grad[part] = grad @ weight
            _add_product(weight_grad, grad, h)
        ctx.save_for_backward(hidden_grad, weight_grad.to(weight.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * grad, weight_grad * grad, None, None, None


class _LinearLogp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, cap: float | None
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature, ctx.cap = temperature, cap
        return _chunked_logps(hidden, weight, targets, temperature, cap)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, weight, targets = ctx.saved_tensors
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        chunks = _chunks(len(targets), len(weight))
        for start in chunks:
            part = slice(start, start + chunks.step)
            h, target, g = hidden[part], targets[part, None], grad[part, None]
            logits, slope = _capped(_wide(h @ weight.T), ctx.cap)
            logits_grad = (logits / ctx.temperature).softmax(1).neg_()
            logits_grad.scatter_add_(1, target, logits_grad.new_ones((1, 1)).expand_as(target))
            logits_grad *= g / ctx.temperature
            if slope is not None:
                logits_grad *= slope
            logits_grad = logits_grad.to(weight.dtype)
            hidden_grad[part] = logits_grad @ weight
            _add_product(weight_grad, logits_grad, h)
        return hidden_grad, weight_grad.to(weight.dtype), None, None, None
