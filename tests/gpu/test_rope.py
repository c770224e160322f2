"""Rotary positions on the device against the float64 reference, with poisoned outputs."""

from __future__ import annotations

import pytest
import torch

from tempa import ops
from tempa.ops import LayerCache, reference, rope_cuda

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}


def _inputs(num_tokens, num_heads, num_kv_heads, head_dim, dtype):
    generator = torch.Generator("cuda").manual_seed(head_dim)
    heads = num_heads + 2 * num_kv_heads
    qkv = torch.randn(num_tokens, heads, head_dim, generator=generator, device="cuda").to(dtype)
    positions = torch.randint(0, 4096, (num_tokens,), generator=generator, device="cuda")
    turns = ops.rotations(positions, head_dim, max_positions=4096)
    return qkv.split((num_heads, num_kv_heads, num_kv_heads), dim=1), positions, turns


def _reference(x, positions):
    return reference.rope(x.double().cpu(), positions.cpu()).cuda()


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("head_dim", [2, 6, 64, 80, 128, 256])
@pytest.mark.parametrize(("num_tokens", "num_heads"), [(1, 1), (33, 12), (2000, 5)])
def test_forward_and_backward_equal_the_reference(num_tokens, num_heads, head_dim, dtype) -> None:
    (q, _, dy), positions, turns = _inputs(num_tokens, num_heads, num_heads, head_dim, dtype)
    y, dx = torch.full_like(q, torch.nan).contiguous(), torch.full_like(q, torch.nan).contiguous()
    rope_cuda.turn_into(y, q, turns)
    rope_cuda.turn_into(dx, dy, turns, inverse=True)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(y.double(), _reference(q, positions), **close)
    # Turning forward gives back what was turned backward, by two roundings.
    again = torch.empty_like(dx)
    rope_cuda.turn_into(again, dx, turns)
    close = {"rtol": 2 * TOLERANCE[dtype], "atol": 4 * TOLERANCE[dtype]}
    torch.testing.assert_close(again.double(), dy.double(), **close)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("head_dim", [6, 64, 128])
def test_keys_and_values_go_to_their_slots_and_nowhere_else(head_dim, dtype) -> None:
    (q, k, v), positions, turns = _inputs(300, 8, 2, head_dim, dtype)
    cache, expected = (
        LayerCache(*(torch.full((40, 2, 16, head_dim), 7.0, dtype=dtype, device="cuda") for _ in range(2)))
        for _ in range(2)
    )
    slots = torch.randperm(640, device="cuda")[:300]
    slots[::7] = -1
    q_out, k_out = torch.ops.tempa.rope_to_cache(q, k, v, turns, slots, cache.keys, cache.values)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(q_out.double(), _reference(q, positions), **close)
    torch.testing.assert_close(k_out.double(), _reference(k, positions), **close)
    kept = slots >= 0
    expected.write(slots[kept], k_out[kept], v[kept])
    assert torch.equal(cache.keys, expected.keys)
    assert torch.equal(cache.values, expected.values)


def test_a_compiled_model_gives_the_same_values_and_gradients() -> None:
    (q, _, dy), _, turns = _inputs(64, 4, 4, 64, torch.bfloat16)
    x = q.clone().requires_grad_()
    eager, compiled = ops.rope(x, turns), torch.compile(ops.rope, fullgraph=True)(x, turns)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(torch.autograd.grad(compiled, x, dy), torch.autograd.grad(eager, x, dy))
