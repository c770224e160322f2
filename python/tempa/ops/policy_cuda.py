"""`tempa::policy_loss`, behind `tempa.align.policy_loss` on CUDA; kernel in `cuda/policy_loss.cu`.

Registered for CUDA, CPU, fake tensors and autograd. The gradient is found with the loss, in one pass. The CPU
implementation is there to check the operator; `tempa.align.policy_loss` has the formula for other devices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tempa.ops import cuda_tensors, nvrtc
from tempa.ops.cuda_tensors import check_same

SOURCE = "policy_loss.cu"
THREADS = 128
# As in `policy_loss.cu`.
MAX_LOG_RATIO = 20.0

DEFINES: dict[str, str | int] = {"THREADS": THREADS}


def supports(logps: Tensor) -> bool:
    """Whether the kernel takes these log-probabilities."""
    return cuda_tensors.has_kernels(logps) and logps.dtype == torch.float32


def loss_into(
    losses: Tensor,
    gradient: Tensor,
    log_ratio: Tensor,
    is_clipped: Tensor,
    kl: Tensor,
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    offsets: Tensor,
    ref_logps: Tensor | None,
    *,
    clip: Sequence[float] | None,
    sequence: bool,
    weight: float,
    kl_kind: int,
    kl_coef: float,
) -> None:
    """Write the loss of each response, its gradient, and what is logged about each token.

    Args:
        losses: (n,) float32.
        gradient: (T,) float32, the derivative of the sum of losses by `logps`.
        log_ratio: (T,) float32.
        is_clipped: (T,) bool.
        kl: (T,) float32, zeros without a reference.
        logps: (T,) float32, now.
        old_logps: (T,) float32, when sampled.
        advantages: (T,) float32.
        offsets: (n + 1,) int64, response boundaries from 0 to T, which are not checked.
        ref_logps: (T,) float32 under the reference, or None.
        clip: How far below and above 1 the ratio has a gradient; None does not clip.
        sequence: The ratio is that of the response, not of the token.
        weight: Of each token; 0 for one by the length of its response.
        kl_kind: Estimate of the divergence from the reference: 2 or 3.
        kl_coef: Weight of the divergence.

    Raises:
        ValueError: If a shape, dtype, layout or device does not fit.
    """
    num_tokens, num_responses = logps.numel(), offsets.numel() - 1
    if kl_kind not in (2, 3):
        raise ValueError(f"policy_loss on CUDA: the estimate of the divergence is 2 or 3, got {kl_kind}")
    for tensor, length, dtype in (
        *((tensor, num_tokens, torch.float32) for tensor in (logps, old_logps, advantages, ref_logps)),
        *((tensor, num_tokens, torch.float32) for tensor in (gradient, log_ratio, kl)),
        (is_clipped, num_tokens, torch.bool),
        (losses, num_responses, torch.float32),
        (offsets, num_responses + 1, torch.int64),
    ):
        if tensor is None:
            continue
        check_same("policy_loss", logps, tensor, dtype)
        if tensor.shape != (length,) or not tensor.is_contiguous():
            raise ValueError(
                f"policy_loss on CUDA: expected {length} numbers in one piece, got {tuple(tensor.shape)}"
            )
    if num_responses > 0:
        low, high = bounds_of(clip)
        nvrtc.launch(
            _kernel(logps.device),
            *(losses, gradient, log_ratio, is_clipped, kl, logps, old_logps, advantages, ref_logps, offsets),
            *(int(sequence), low, high, weight, kl_kind, kl_coef),
            grid=num_responses,
            block=THREADS,
        )


def bounds_of(clip: Sequence[float] | None) -> tuple[float, float]:
    """Where the ratio is cut off."""
    return (-math.inf, math.inf) if clip is None else (1 - clip[0], 1 + clip[1])


@functools.cache
def _kernel(device: torch.device) -> nvrtc.Kernel:
    return nvrtc.load(SOURCE, "policy_loss", device, DEFINES)


def _loss_cuda(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    offsets: Tensor,
    ref_logps: Tensor | None,
    clip: Sequence[float] | None,
    sequence: bool,
    weight: float,
    kl_kind: int,
    kl_coef: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    logps, old_logps, advantages = (x.float().contiguous() for x in (logps, old_logps, advantages))
    if ref_logps is not None:
        ref_logps = ref_logps.float().contiguous()
    losses = logps.new_empty(max(offsets.numel() - 1, 0))
    gradient, log_ratio, kl = (torch.empty_like(logps) for _ in range(3))
    is_clipped = torch.empty_like(logps, dtype=torch.bool)
    loss_into(
        *(losses, gradient, log_ratio, is_clipped, kl, logps, old_logps, advantages),
        *(offsets.contiguous(), ref_logps),
        clip=clip,
        sequence=sequence,
        weight=weight,
        kl_kind=kl_kind,
        kl_coef=kl_coef,
    )
    return losses.sum(), gradient, log_ratio, is_clipped, kl


def _loss_cpu(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    offsets: Tensor,
    ref_logps: Tensor | None,
    clip: Sequence[float] | None,
    sequence: bool,
    weight: float,
    kl_kind: int,
    kl_coef: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    lengths = offsets.diff()
    rows = torch.arange(len(lengths)).repeat_interleave(lengths)

    def mean(values: Tensor) -> Tensor:
        """Of each response, for each of its tokens."""
        return (values.new_zeros(len(lengths)).index_add_(0, rows, values) / lengths)[rows]

    log_ratio = logps - old_logps
    used = mean(log_ratio) if sequence else log_ratio
    ratio = used.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    free, clipped = ratio * advantages, ratio.clamp(*bounds_of(clip)) * advantages
    is_clipped = clipped < free
    terms = -torch.where(is_clipped, clipped, free)
    slopes = torch.where(is_clipped | (used.abs() > MAX_LOG_RATIO), 0, -free)
    slopes = mean(slopes) if sequence else slopes
    kl = torch.zeros_like(logps)
    if ref_logps is not None:
        apart = logps - ref_logps
        e = apart.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        kl, slope = (e.square() / 2, e) if kl_kind == 2 else (torch.expm1(-e) + e, -torch.expm1(-e))
        terms = terms + kl_coef * kl
        slopes = slopes + kl_coef * torch.where(apart.abs() > MAX_LOG_RATIO, 0, slope)
    weights = (weight or 1 / lengths.to(logps.dtype)[rows]) * torch.ones_like(logps)
    return (terms * weights).sum(), slopes * weights, log_ratio, is_clipped, kl


def _loss_fake(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    offsets: Tensor,
    ref_logps: Tensor | None,
    clip: Sequence[float] | None,
    sequence: bool,
    weight: float,
    kl_kind: int,
    kl_coef: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    del old_logps, advantages, offsets, ref_logps, clip, sequence, weight, kl_kind, kl_coef
    gradient, log_ratio, kl = (torch.empty_like(logps) for _ in range(3))
    return logps.new_empty(()), gradient, log_ratio, torch.empty_like(logps, dtype=torch.bool), kl


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    del inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(output[1])


def _gradients(ctx: Any, dtotal: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    (gradient,) = ctx.saved_tensors
    return (dtotal * gradient, *(None,) * 9)


_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "policy_loss(Tensor logps, Tensor old_logps, Tensor advantages, Tensor offsets, Tensor? ref_logps,"
    " float[]? clip, bool sequence, float weight, int kl_kind, float kl_coef)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.impl("policy_loss", _loss_cuda, "CUDA")
_library.impl("policy_loss", _loss_cpu, "CPU")
torch.library.register_fake("tempa::policy_loss", _loss_fake, lib=_library)
torch.library.register_autograd("tempa::policy_loss", _gradients, setup_context=_setup_context, lib=_library)
