"""RMSNorm and LayerNorm on the device against the float64 reference, with poisoned outputs."""

from __future__ import annotations

import pytest
import torch

from tempa import ops
from tempa.ops import norm_cuda
from tempa.ops.norm_cuda import Kind
from tempa.ops.reference import layer_norm, rms_norm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# A result is rounded once: half a unit in the last place, doubled for float32 sums in another order.
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}
# Below a pack, a pack, several rows a block, a warp, several warps, odd, and the widest of the presets.
WIDTHS = [1, 7, 8, 64, 72, 128, 768, 1001, 1024, 4096, 8192]


def _tensors(num_rows: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator("cuda").manual_seed(width)
    return tuple(
        torch.randn(*shape, generator=generator, device="cuda").to(dtype)
        for shape in ((num_rows, width), (width,), (num_rows, width))
    )


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("num_rows", [1, 33, 1000])
def test_forward_and_backward_equal_the_reference(num_rows, width, dtype, weighted) -> None:
    x, weight, dy = _tensors(num_rows, width, dtype)
    gain = weight if weighted else None
    y, dx = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    sums = x.new_full(
        (norm_cuda.num_blocks(x, Kind(weighted=weighted)), width), torch.nan, dtype=torch.float32
    )
    norm_cuda.forward_into(y, x, gain, None, EPS, centred=False)
    norm_cuda.backward_into(dx, sums if weighted else None, None, dy, x, gain, EPS, centred=False)

    wide_x, wide_weight = x.double().requires_grad_(), weight.double().requires_grad_()
    expected = rms_norm(wide_x, wide_weight if weighted else None, EPS)
    expected.backward(dy.double())
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(y.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(dx.double(), wide_x.grad, rtol=tolerance, atol=8 * tolerance)
    if weighted:
        # Float32 sums of 1000 products.
        torch.testing.assert_close(sums.sum(0).double(), wide_weight.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("centred", [True, False])
def test_the_norm_of_a_sum_and_its_gradients_equal_the_reference(centred, width, dtype) -> None:
    x, weight, dy = _tensors(333, width, dtype)
    residual, dsum, bias = x.flip(0), dy.flip(0), weight.flip(0) if centred else None
    y, total, dx = (torch.full_like(x, torch.nan) for _ in range(3))
    norm_cuda.forward_into(y, x, weight, bias, EPS, centred=centred, residual=residual, total=total)
    blocks = norm_cuda.num_blocks(x, Kind(centred, True, centred, True))
    sums = [x.new_full((blocks, width), torch.nan, dtype=torch.float32) for _ in range(1 + centred)]
    dweight, dbias = sums[0], sums[1] if centred else None
    norm_cuda.backward_into(dx, dweight, dbias, dy, total, weight, EPS, centred=centred, dsum=dsum)

    assert torch.equal(total, x + residual)
    leaves = [total.double().requires_grad_(), weight.double().requires_grad_()]
    if bias is not None:
        leaves.append(bias.double().requires_grad_())
    expected = layer_norm(*leaves, EPS) if centred else rms_norm(*leaves, EPS)
    expected.backward(dy.double())
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(y.double(), expected.detach(), rtol=tolerance, atol=4 * tolerance)
    if width > 1:
        # One element is its own mean: its gradient is the difference of equal numbers, by eps.
        gradient = leaves[0].grad + dsum
        torch.testing.assert_close(dx.double(), gradient, rtol=tolerance, atol=32 * tolerance)
    for part, leaf in zip(sums, leaves[1:], strict=True):
        torch.testing.assert_close(part.sum(0).double(), leaf.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_float32_stream_takes_and_gives_16_bits_under_autocast(width) -> None:
    stream, weight, dsum = (tensor.requires_grad_() for tensor in _tensors(100, width, torch.float32))
    branch = stream.detach().flip(0).bfloat16().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        y, total = ops.add_rms_norm(branch, stream, weight, EPS, for_product=True)
    assert (y.dtype, total.dtype) == (torch.bfloat16, torch.float32)
    leaves = [branch.double(), stream.double(), weight.double()]
    wide = [leaf.detach().requires_grad_() for leaf in leaves]
    expected = rms_norm(wide[0] + wide[1], wide[2], EPS)
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=2**-8)
    dy = torch.randn_like(y)
    ours = torch.autograd.grad((y, total), (branch, stream, weight), (dy, dsum))
    theirs = torch.autograd.grad((expected, wide[0] + wide[1]), wide, (dy.double(), dsum.double()))
    assert [gradient.dtype for gradient in ours] == [torch.bfloat16, torch.float32, torch.float32]
    for our, their, tolerance in zip(ours, theirs, (2**-8, 1e-5, 1e-4), strict=True):
        torch.testing.assert_close(our.double(), their, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_start_off_a_pack_are_read_element_by_element(dtype) -> None:
    x, weight, _ = _tensors(5, 64, dtype)
    storage = torch.empty(x.numel() + 1, dtype=dtype, device="cuda")
    shifted = storage[1:].view_as(x).copy_(x)
    torch.testing.assert_close(ops.rms_norm(shifted, weight, EPS), ops.rms_norm(x, weight, EPS))


def test_results_repeat_bit_for_bit() -> None:
    x, weight, dy = _tensors(5000, 1024, torch.bfloat16)
    runs = [torch.ops.tempa.norm_backward(dy, None, x, weight, EPS, False, False) for _ in range(3)]
    for dx, dweight, *_ in runs[1:]:
        assert torch.equal(dx, runs[0][0])
        assert torch.equal(dweight, runs[0][1])


def test_no_rows_give_a_zero_weight_gradient() -> None:
    x, weight, dy = _tensors(0, 64, torch.float32)
    dx, dweight, *_ = torch.ops.tempa.norm_backward(dy, None, x, weight, EPS, False, False)
    assert dx.shape == (0, 64)
    assert torch.equal(dweight, torch.zeros_like(weight))


def test_tensors_that_are_not_contiguous_or_differ_are_rejected() -> None:
    x, weight, _ = _tensors(4, 8, torch.float32)
    with pytest.raises(ValueError, match="not contiguous"):
        norm_cuda.forward_into(torch.empty_like(x), x.T.contiguous().T, weight, None, EPS, centred=False)
    with pytest.raises(ValueError, match=r"float32 .* but got torch.float16"):
        norm_cuda.forward_into(torch.empty_like(x), x, weight.half(), None, EPS, centred=False)


def test_the_operator_passes_opcheck_and_takes_any_layout() -> None:
    x, weight, _ = _tensors(6, 16, torch.float32)
    for tensor in (x, x.T.contiguous().T, x[::2]):
        arguments = (tensor.detach().requires_grad_(), weight.detach().requires_grad_(), None, EPS, False)
        torch.library.opcheck(torch.ops.tempa.norm.default, arguments)


def test_a_compiled_model_gives_the_same_values_and_gradients() -> None:
    x, weight, dy = _tensors(32, 256, torch.bfloat16)
    arguments = x.requires_grad_(), weight.requires_grad_()

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return ops.rms_norm(x * 2, weight, EPS)

    eager, compiled = norm(*arguments), torch.compile(norm, fullgraph=True)(*arguments)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(
        torch.autograd.grad(compiled, arguments, dy), torch.autograd.grad(eager, arguments, dy)
    )


def test_another_stream_is_respected() -> None:
    x, weight, _ = _tensors(4096, 4096, torch.bfloat16)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = x.clone().mul_(3)
        y = ops.rms_norm(late, weight, EPS)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(y, ops.rms_norm(x * 3, weight, EPS))
