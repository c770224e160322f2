"""Batches that the attention kernels are tested on, by the simulator against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from simulator import Timing, simulate
from torch import Tensor

from tempa.ops.attention_kernels import Problem
from tempa.ops.calls import SMALLEST, Call, Target
from tempa.ops.reference import packed_attention

# Of the error that the reference makes in the dtype of the kernel, where it rounds after each step.
ALLOWED = 2.0


@dataclass(frozen=True)
class Case:
    """Lengths of sequences, tokens behind the last one included as `rest`."""

    head_dim: int
    heads: tuple[int, int]
    queries: Sequence[int]
    keys: Sequence[int]
    dtype: torch.dtype = torch.bfloat16
    rest: int = 0
    has_alibi: bool = False
    has_sinks: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def problem(self, seed: int = 0) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        num_heads, num_key_heads = self.heads
        # The heads of queries, keys and values lie side by side, as a model has them.
        num_queries, num_keys = sum(self.queries) + self.rest, sum(self.keys) + self.rest
        q = torch.randn(num_queries, num_heads, self.head_dim, generator=generator)
        kv = torch.randn(num_keys, 2 * num_key_heads, self.head_dim, generator=generator).to(self.dtype)
        k, v = kv.split(num_key_heads, dim=1)
        bounds = (torch.tensor([0, *lengths]).cumsum(0).int() for lengths in (self.queries, self.keys))
        return Problem(
            q.to(self.dtype),
            k,
            v,
            *bounds,
            torch.rand(num_heads, generator=generator) if self.has_alibi else None,
            torch.randn(num_heads, generator=generator) if self.has_sinks else None,
            **self.options,
        )


# Lengths that end inside a tile, at its end and behind it; sequences without queries, keys or both; fully
# masked queries; tokens of no sequence.
CASES = {
    "causal": Case(64, (4, 2), [130, 0, 33, 64, 1], [130, 0, 33, 64, 1], options={"right": 0}),
    "more keys": Case(64, (2, 1), [70, 0, 5, 0], [150, 7, 64, 0], rest=3, options={"right": 0}),
    "fewer keys": Case(64, (2, 2), [140, 33, 9], [20, 0, 8], rest=2, has_sinks=True, options={"right": 0}),
    "window": Case(64, (1, 1), [330], [330], options={"left": 200, "right": 0}),
    "window to both sides": Case(
        64, (3, 1), [70, 20], [160, 30], options={"left": 3, "right": 9, "scale": 0.3}
    ),
    "all pairs": Case(128, (2, 1), [40, 130], [100, 50], torch.float16),
    "soft-cap and ALiBi": Case(
        72, (2, 1), [20, 80], [64, 70], has_alibi=True, has_sinks=True, options={"right": 2, "softcap": 1.5}
    ),
    "wide heads": Case(256, (2, 1), [50, 30], [64, 30], options={"right": 0, "softcap": 5.0}),
    "small": Case(64, (2, 1), [9, 70], [0, 100], options={"right": 0}),
    "no keys": Case(64, (4, 2), [33, 40, 50, 60], [0, 0, 0, 0]),
    "nothing": Case(64, (2, 1), [0, 0], [0, 0], options={"right": 0}),
    "no sequence": Case(64, (2, 1), [], [], rest=5),
}


Edit = Callable[[Call], Call]


@dataclass(frozen=True)
class Results:
    out: Tensor
    lse: Tensor
    dq: Tensor
    dk: Tensor
    dv: Tensor


def simulate_calls(
    calls: Sequence[Call], seed: int, edit: Edit = lambda call: call, timing: Timing = "mixed"
) -> None:
    for call in map(edit, calls):
        simulate(
            call.source,
            call.entry,
            *call.arguments,
            grid=call.grid,
            block=call.num_threads,
            shared_bytes=call.shared_bytes,
            defines=dict(call.defines),
            seed=seed,
            timing=timing,
        )


def upstream(problem: Problem) -> tuple[Tensor, Tensor]:
    """The gradients of out and lse."""
    generator = torch.Generator().manual_seed(99)
    shape = problem.q.shape
    dout = torch.randn(shape, generator=generator).to(problem.q.dtype)
    return dout, torch.randn(shape[1], shape[0], generator=generator)


def forward(
    problem: Problem,
    seed: int = 0,
    *,
    target: Target = SMALLEST,
    edit: Edit = lambda call: call,
    timing: Timing = "mixed",
) -> tuple[Tensor, Tensor]:
    """By the kernels: out and lse, which start as NaN."""
    q = problem.q
    out, lse = torch.full(q.shape, torch.nan, dtype=q.dtype), torch.full((q.shape[1], q.shape[0]), torch.nan)
    simulate_calls(problem.forward(out, lse, target=target), seed, edit, timing)
    return out, lse


def by_kernels(
    problem: Problem,
    seed: int = 0,
    edit: Edit = lambda call: call,
    *,
    target: Target = SMALLEST,
    timing: Timing = "mixed",
    given: tuple[Tensor, Tensor] | None = None,
) -> Results:
    """Forward, and backward from `upstream` or what is given; the gradients start as NaN too."""
    out, lse = forward(problem, seed, target=target, edit=edit, timing=timing)
    dq, dk, dv = (torch.full(x.shape, torch.nan, dtype=x.dtype) for x in (problem.q, problem.k, problem.k))
    rows = torch.full((*lse.shape, 2), torch.nan)
    calls = problem.backward(dq, dk, dv, rows, out, lse, *(given or upstream(problem)), target=target)
    simulate_calls(calls, seed, edit, timing)
    return Results(out, lse, dq, dk, dv)


def by_reference(problem: Problem, dtype: torch.dtype) -> Results:
    """By the reference and autograd."""
    inputs = [x.to(dtype).requires_grad_() for x in (problem.q, problem.k, problem.v)]
    options = [getattr(problem, name) for name in ("scale", "left", "right", "softcap")]
    per_head = problem.alibi_slopes, problem.sinks
    out, lse = packed_attention(*inputs, problem.cu_seqlens_q, problem.cu_seqlens_k, *per_head, *options)
    dout, dlse = (x.to(dtype) for x in upstream(problem))
    dlse = dlse.masked_fill(lse.isneginf(), 0)
    total = (out * dout).sum() + (lse.masked_fill(lse.isneginf(), 0) * dlse).sum()
    return Results(out.detach(), lse.detach(), *torch.autograd.grad(total, inputs))


def distance(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).norm())


def assert_is_right(result: Tensor, exact: Tensor, rounded: Tensor, what: str = "out") -> None:
    """Compare with the reference in float64, and with what it gets wrong in the dtype of the kernel."""
    # Of fp16 and few keys nothing is left of the reference's error but the rounding of the result.
    allowed = ALLOWED * max(distance(rounded, exact), distance(exact.to(result.dtype), exact))
    assert distance(result, exact) <= allowed, what
