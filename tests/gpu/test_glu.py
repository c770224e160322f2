"""Activations on the device against the float64 reference, with poisoned outputs."""

from __future__ import annotations

import pytest
import torch

from tempa import ops
from tempa.ops import glu_cuda
from tempa.ops.reference import activation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
# A result is rounded once; the fast exponential of float32 adds a few units.
TOLERANCE = {torch.float32: 8e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}


@pytest.mark.parametrize(("function", "gated"), [("silu", True), ("gelu", True), ("relu2", False)])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(("num_rows", "width"), [(1, 1), (33, 7), (1000, 64), (257, 1001), (300, 4096)])
def test_forward_and_backward_equal_the_reference(num_rows, width, dtype, function, gated) -> None:
    generator = torch.Generator("cuda").manual_seed(width)
    x = 3 * torch.randn(num_rows, width * (1 + gated), generator=generator, device="cuda")
    dy = torch.randn(num_rows, width, generator=generator, device="cuda").to(dtype)
    x = x.to(dtype)
    y, dx = torch.full_like(dy, torch.nan), torch.full_like(x, torch.nan)
    glu_cuda.forward_into(y, x, function, gated=gated)
    glu_cuda.backward_into(dx, dy, x, function, gated=gated)

    wide = x.double().requires_grad_()
    expected = activation(wide, function, gated=gated)
    expected.backward(dy.double())
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(y.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(dx.double(), wide.grad, rtol=tolerance, atol=8 * tolerance)


@pytest.mark.parametrize("function", [ops.swiglu, ops.geglu, ops.relu2])
def test_any_layout_is_taken_and_a_compiled_model_gives_the_same(function) -> None:
    storage = torch.randn(1 + 64 * 32, device="cuda", dtype=torch.bfloat16)
    shifted = storage[1:].view(64, 32).requires_grad_()
    for x in (shifted, shifted.T, shifted[::2]):
        y = function(x)
        torch.testing.assert_close(y, function(x.contiguous().clone()))
        torch.testing.assert_close(torch.compile(function, fullgraph=True)(x), y)
        torch.autograd.grad(y.float().sum(), shifted)


def test_no_rows_are_no_launch() -> None:
    assert ops.swiglu(torch.empty(0, 8, device="cuda")).shape == (0, 4)
