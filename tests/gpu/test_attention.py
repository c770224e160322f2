"""Attention on the device against the float64 reference, with poisoned outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tempa import ops
from tempa.ops.attention_kernels import Problem
from tempa.ops.calls import SMALLEST, Target
from tempa.ops.reference import packed_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
DTYPES = [torch.bfloat16, torch.float16]
# Ends inside a tile and at its end; no queries, no keys, neither.
LENGTHS = ([1, 0, 200, 128, 33, 0, 300], [1, 9, 250, 128, 0, 0, 170])
FEATURES: dict[str, dict[str, Any]] = {
    "all": {},
    "causal": {"right": 0},
    "window": {"left": 100, "right": 0},
    "both sides": {"left": 20, "right": 40, "scale": 0.2},
    "soft-cap": {"right": 0, "softcap": 2.0},
    "ALiBi": {"right": 0, "alibi_slopes": True},
    "sinks": {"left": 31, "right": 0, "sinks": True},
    "everything": {"left": 90, "right": 3, "softcap": 3.0, "alibi_slopes": True, "sinks": True},
}


@dataclass(frozen=True)
class Batch:
    q: Tensor
    k: Tensor
    v: Tensor
    options: dict[str, Any]
    dout: Tensor
    dlse: Tensor


def _batch(head_dim: int, heads: tuple[int, int], dtype: torch.dtype, feature: str) -> Batch:
    generator = torch.Generator("cuda").manual_seed(head_dim)
    num_heads, num_key_heads = heads
    num_queries, num_keys = map(sum, LENGTHS)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    bounds = [torch.tensor([0, *lengths]).cumsum(0).int().cuda() for lengths in LENGTHS]
    per_head = {"alibi_slopes": draw(num_heads).abs() / 8, "sinks": draw(num_heads)}
    options = {name: per_head.get(name, value) for name, value in FEATURES[feature].items()}
    # Queries lie among keys and values, as a model's product leaves them.
    q = draw(num_queries, num_heads + 2, head_dim).to(dtype)[:, :num_heads]
    k, v = draw(num_keys, 2 * num_key_heads, head_dim).to(dtype).split(num_key_heads, dim=1)
    options |= {"cu_seqlens_q": bounds[0], "cu_seqlens_k": bounds[1]}
    dout = draw(num_queries, num_heads, head_dim).to(dtype)
    return Batch(q, k, v, options, dout, draw(num_heads, num_queries))


def _theirs(batch: Batch, dtype: torch.dtype) -> dict[str, Tensor]:
    inputs = [x.to(dtype).requires_grad_() for x in (batch.q, batch.k, batch.v)]
    out, lse = packed_attention(*inputs, **batch.options)
    finite = lse.masked_fill(lse.isneginf(), 0)
    total = (out * batch.dout.to(dtype)).sum() + (finite * batch.dlse.to(dtype)).sum()
    dq, dk, dv = torch.autograd.grad(total, inputs)
    return {"out": out.detach(), "lse": lse.detach(), "dq": dq, "dk": dk, "dv": dv}


def _ours(batch: Batch, target: Target) -> dict[str, Tensor]:
    problem = Problem(batch.q, batch.k, batch.v, **batch.options)
    dout, dlse = batch.dout, batch.dlse
    out, dq = torch.full_like(dout, torch.nan), torch.full_like(dout, torch.nan)
    dk, dv = (x.new_full(x.shape, torch.nan) for x in (batch.k, batch.v))
    lse = torch.full_like(dlse, torch.nan)
    rows = lse.new_full((*lse.shape, 2), torch.nan)
    for call in problem.forward(out, lse, target=target):
        call.launch(batch.q.device)
    for call in problem.backward(dq, dk, dv, rows, out, lse, dout, dlse, target=target):
        call.launch(batch.q.device)
    return {"out": out, "lse": lse, "dq": dq, "dk": dk, "dv": dv}


@pytest.fixture(params=["kernels for every device", "kernels for this device"])
def target(request) -> Target:
    return SMALLEST if "every" in request.param else Target.of(torch.device("cuda", 0))


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("head_dim", "heads"), [(64, (4, 4)), (64, (6, 2)), (128, (4, 1)), (72, (2, 1)), (256, (2, 2))]
)
def test_forward_and_backward_equal_the_reference(head_dim, heads, dtype, feature, target) -> None:
    batch = _batch(head_dim, heads, dtype, feature)
    ours, exact, rounded = (
        _ours(batch, target),
        _theirs(batch, torch.float64),
        _theirs(batch, dtype),
    )
    for name in ("out", "dq", "dk", "dv"):
        expected = exact[name]
        # Twice what torch gets wrong in this dtype, where it rounds after each step.
        allowed = 2 * max(
            float((rounded[name].double() - expected).norm()),
            float((expected.to(dtype).double() - expected).norm()),
        )
        assert float((ours[name].double() - expected).norm()) <= allowed, name
    # Float32 sums, and exponentials to 2^-22.
    torch.testing.assert_close(ours["lse"].double(), exact["lse"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("feature", ["causal", "everything"])
def test_results_repeat_bit_for_bit(feature, target) -> None:
    batch = _batch(128, (4, 2), torch.bfloat16, feature)
    first, second = (_ours(batch, target) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("feature", ["all", "causal", "everything"])
def test_results_do_not_depend_on_how_many_blocks_share_the_work(head_dim, feature) -> None:
    batch, target = _batch(head_dim, (8, 2), torch.bfloat16, feature), Target.of(torch.device("cuda", 0))
    first = _ours(batch, target)
    for num_blocks in (1, 7):
        other = _ours(batch, replace(target, num_multiprocessors=num_blocks))
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_the_operator_passes_opcheck() -> None:
    batch = _batch(64, (2, 1), torch.bfloat16, "everything")
    inputs = [x.detach().requires_grad_() for x in (batch.q, batch.k, batch.v)]
    torch.library.opcheck(torch.ops.tempa.attention.default, tuple(inputs), batch.options)


@pytest.mark.parametrize("window", [None, 50])
def test_attention_of_a_spec_equals_that_on_the_cpu(window) -> None:
    ends = torch.tensor([0, 100, 100, 333, 340])
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(340, 8, 64, generator=generator).bfloat16()
    outs, grads = [], []
    for device in ("cpu", "cuda"):
        x = qkv.to(device).requires_grad_()
        q, k, v = x.split((4, 2, 2), dim=1)
        out = ops.attention(q, k, v, ops.AttentionSpec.packed(ends.to(device), window=window))
        out.float().square().sum().backward()
        assert x.grad is not None
        outs.append(out.detach().cpu())
        grads.append(x.grad.cpu())
    # A few roundings of bfloat16 on either side.
    torch.testing.assert_close(outs[1], outs[0], rtol=2**-6, atol=2**-6)
    torch.testing.assert_close(grads[1], grads[0], rtol=2**-5, atol=2**-4)
