"""`tempa::attention`, the torch operator behind `ops.attention` on CUDA; launches by `attention_kernels`.

It has what `ops.attention` does not ask for: sequences with fewer or more keys than queries, windows to both
sides, soft-cap, ALiBi, sinks and the logarithm of each row's sum; `attention_kernels.Problem` describes them.
Registered for CUDA, CPU, fake tensors and autograd. The CPU implementation makes all pairs of tokens; it is
there to check the operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tempa.ops import reference
from tempa.ops.attention_kernels import Problem, is_readable
from tempa.ops.calls import Target


def _readable(x: Tensor) -> Tensor:
    return x if is_readable(x) else x.clone(memory_format=torch.contiguous_format)


def _forward_cuda(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    problem = Problem(_readable(q), _readable(k), _readable(v), *options)
    out, lse = q.new_empty(q.shape), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    for call in problem.forward(out, lse, target=Target.of(q.device)):
        call.launch(q.device)
    return out, lse


def _backward_cuda(
    dout: Tensor,
    dlse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    problem = Problem(_readable(q), _readable(k), _readable(v), *options)
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    rows = lse.new_empty(*lse.shape, 2)
    dout, dlse = _readable(dout.contiguous()), None if dlse is None else dlse.contiguous()
    for call in problem.backward(dq, dk, dv, rows, out, lse, dout, dlse, target=Target.of(q.device)):
        call.launch(q.device)
    return dq, dk, dv, _sink_gradient(problem.sinks, lse, rows[..., 1])


def _sink_gradient(sinks: Tensor | None, lse: Tensor, delta: Tensor) -> Tensor:
    """(H,): a sink takes its share of each row's weight, and its value is 0; delta is dout . out - dlse."""
    if sinks is None:
        return lse.new_empty(0)
    share = (sinks[:, None] - lse.masked_fill(lse.isneginf(), torch.inf)).exp()
    return -(share * delta).sum(1).to(sinks.dtype)


def _forward_cpu(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    wide = _sum_dtype(q)
    out, lse = reference.packed_attention(q.to(wide), k.to(wide), v.to(wide), *options)
    return out.to(q.dtype).contiguous(), lse.contiguous()


def _backward_cpu(
    dout: Tensor,
    dlse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    group = q.shape[1] // k.shape[1]
    wide_q, wide_k, wide_v, dout, out = (x.to(_sum_dtype(q)) for x in (q, k, v, dout, out))
    bounds = cu_seqlens_q, cu_seqlens_k
    scores, derivative = reference.packed_scores(wide_q, wide_k, *bounds, alibi_slopes, *options)
    weights = (scores - lse.masked_fill(lse.isneginf(), 0)[..., None]).exp()
    delta = torch.einsum("ihd,ihd->hi", dout, out)
    if dlse is not None:
        delta = delta - dlse
    slants = torch.einsum("ihd,jhd->hij", dout, wide_v.repeat_interleave(group, dim=1)) - delta[..., None]
    slants = weights * slants * derivative
    dq = torch.einsum("hij,jhd->ihd", slants, wide_k.repeat_interleave(group, dim=1))
    dk = _by_key_head(torch.einsum("hij,ihd->jhd", slants, wide_q), group)
    dv = _by_key_head(torch.einsum("hij,ihd->jhd", weights, dout), group)
    dq, dk, dv = (x.to(q.dtype).contiguous() for x in (dq, dk, dv))
    return dq, dk, dv, _sink_gradient(sinks, lse, delta)


def _by_key_head(x: Tensor, group: int) -> Tensor:
    """(Tk, H, D) to (Tk, Hkv, D): the sum over the query heads of each key head."""
    return x.view(len(x), x.shape[1] // group, group, x.shape[2]).sum(2)


def _sum_dtype(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _forward_fake(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[1], q.shape[0], dtype=_sum_dtype(q))


def _backward_fake(
    dout: Tensor,
    dlse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del dout, dlse, out, cu_seqlens_q, cu_seqlens_k, alibi_slopes
    dsinks = lse.new_empty(0) if sinks is None else sinks.new_empty(sinks.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dsinks


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.left, ctx.right, ctx.softcap = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    out, lse, *tensors = ctx.saved_tensors
    dout = torch.zeros_like(out) if dout is None else dout
    dq, dk, dv, dsinks = torch.ops.tempa.attention_backward(
        dout, dlse, out, lse, *tensors, ctx.scale, ctx.left, ctx.right, ctx.softcap
    )
    return dq, dk, dv, None, None, None, None if tensors[6] is None else dsinks, None, None, None, None


_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor cu_seqlens_q, Tensor cu_seqlens_k, Tensor? alibi_slopes=None, "
    "Tensor? sinks=None, float? scale=None, int? left=None, int? right=None, float softcap=0.0"
)
_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(f"attention({_INPUTS}) -> (Tensor, Tensor)")
_library.define(
    f"attention_backward(Tensor dout, Tensor? dlse, Tensor out, Tensor lse, {_INPUTS}) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
_library.impl("attention", _forward_cuda, "CUDA")
_library.impl("attention", _forward_cpu, "CPU")
_library.impl("attention_backward", _backward_cuda, "CUDA")
_library.impl("attention_backward", _backward_cpu, "CPU")
torch.library.register_fake("tempa::attention", _forward_fake, lib=_library)
torch.library.register_fake("tempa::attention_backward", _backward_fake, lib=_library)
torch.library.register_autograd("tempa::attention", _gradients, setup_context=_setup_context, lib=_library)
