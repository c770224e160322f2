"""The kernels of `cuda/norm.cu`, compiled for GPUs and run on the CPU by `simulator`.

`tests/gpu/test_norm.py` runs them where they belong.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mutants import mutant
from simulator import SimulationError, simulate

from tempa.ops import norm_cuda, nvrtc, reference
from tempa.ops.norm_cuda import SOURCE, Kind, Shape

EPS = 1e-5
# Half a unit in the last place of bfloat16 is 2^-9 of the value, of float16 2^-12; float32 sums of 1030
# terms lose a few bits.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
RMS, PLAIN = Kind(), Kind(weighted=False)
LAYER = Kind(centred=True, biased=True)
ADD_RMS, ADD_LAYER = Kind(residual=True), Kind(centred=True, biased=True, residual=True)


def _norm(x, weight, bias, centred):
    if centred:
        return reference.layer_norm(x, weight, bias, EPS)
    return reference.rms_norm(x, weight, EPS)


def _check(source, num_rows, width, dtype, kind, aligned=True, seed=0, narrow=None):
    """Values and gradients of the simulated kernels, which start with NaN in their outputs.

    With `narrow`, what is added to the residual stream and the result have that dtype.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, generator=generator).to(dtype)

    narrow = narrow or dtype
    x, dy = draw(num_rows, width) + 3 * kind.centred, draw(num_rows, width).to(narrow)
    x = x.to(narrow) if kind.residual else x
    weight, bias = draw(width) if kind.weighted else None, draw(width) if kind.biased else None
    residual, dsum = (draw(num_rows, width) if kind.residual else None for _ in range(2))
    shape = Shape.of(width, dtype, aligned=aligned, biased=kind.biased)
    size = (num_rows, width, EPS)
    defines = shape.defines(dtype, kind, branch=x.dtype, output=narrow)
    launch = {"block": (shape.threads, shape.rows), "defines": defines, "seed": seed}

    y = torch.full_like(dy, torch.nan)
    total = torch.full_like(residual, torch.nan) if kind.residual else None
    blocks = -(-num_rows // shape.rows)
    simulate(source, "norm_forward", y, total, x, residual, weight, bias, *size, grid=blocks, **launch)
    if total is not None:
        assert torch.equal(total, x + residual)
        x = total
    dx = torch.full_like(x, torch.nan)
    dbranch = torch.full_like(dy, torch.nan) if kind.residual and narrow != dtype else None
    # Fewer blocks than rows, so that blocks take turns.
    blocks = -(-blocks // 2)
    dweight, dbias = (
        torch.full((blocks, width), torch.nan) if has else None for has in (kind.weighted, kind.biased)
    )
    tensors = (dx, dbranch, dweight, dbias, dy, dsum, x, weight)
    simulate(source, "norm_backward", *tensors, *size, grid=blocks, **launch)

    wide = [None if t is None else t.double().requires_grad_() for t in (x, weight, bias)]
    expected = _norm(*wide, kind.centred)
    expected.backward(dy.double())
    assert wide[0] is not None
    dx_expected = wide[0].grad if dsum is None else wide[0].grad + dsum
    tolerance = TOLERANCE[narrow]
    torch.testing.assert_close(y.double(), expected.detach(), rtol=tolerance, atol=2 * tolerance)
    if dbranch is not None:
        assert torch.equal(dbranch, dx.to(narrow))
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(dx.double(), dx_expected, rtol=tolerance, atol=4 * tolerance)
    for sums, leaf in ((dweight, wide[1]), (dbias, wide[2])):
        if sums is not None:
            # The sums are float32 for every dtype.
            torch.testing.assert_close(sums.sum(0).double(), leaf.grad, rtol=1e-5, atol=2e-5)


# Widths that end inside a pack, a warp or a block, and row counts that end inside a block.
@pytest.mark.parametrize(
    ("num_rows", "width", "dtype", "kind", "aligned"),
    [
        (5, 7, torch.float32, RMS, True),
        (70, 64, torch.bfloat16, RMS, True),
        (33, 40, torch.float16, ADD_RMS, True),
        (19, 72, torch.bfloat16, PLAIN, True),
        (3, 1030, torch.float32, RMS, True),
        (3, 1032, torch.bfloat16, ADD_RMS, True),
        (4, 256, torch.float32, RMS, False),
        (1, 1, torch.float32, RMS, True),
        (9, 200, torch.float32, LAYER, True),
        (3, 1032, torch.bfloat16, ADD_LAYER, True),
        (37, 24, torch.bfloat16, ADD_LAYER, True),
    ],
    ids=str,
)
def test_the_simulated_kernel_equals_the_reference(num_rows, width, dtype, kind, aligned) -> None:
    for seed in range(2):
        _check(SOURCE, num_rows, width, dtype, kind, aligned, seed)


@pytest.mark.parametrize("kind", [RMS, ADD_RMS, ADD_LAYER], ids=str)
def test_the_simulated_kernel_takes_and_gives_16_bits_beside_a_float32_stream(kind) -> None:
    _check(SOURCE, 21, 40, torch.float32, kind, narrow=torch.bfloat16)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("__syncthreads();  // the sums before have been read", ""),
        ("grad - unit * along - shared", "grad - unit * along"),
        ("square[0] / width + eps", "square[0] / (width - 1) + eps"),
        ("if (dbranch) store_pack", "if (!dbranch) store_pack"),
    ],
)
def test_a_missing_barrier_or_term_is_noticed(right, wrong, tmp_path) -> None:
    source = mutant(tmp_path, SOURCE, right, wrong)
    with pytest.raises((AssertionError, SimulationError)):
        _check(source, 37, 24, torch.float32, ADD_LAYER, narrow=torch.bfloat16)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize(
    ("width", "dtype", "kind"),
    [
        (4096, torch.float32, RMS),
        (64, torch.bfloat16, PLAIN),
        (16384, torch.bfloat16, RMS),
        (1001, torch.float16, RMS),
        (4096, torch.bfloat16, ADD_RMS),
        (768, torch.bfloat16, ADD_LAYER),
        (8192, torch.bfloat16, ADD_LAYER),
    ],
    ids=str,
)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernels_compile_without_spills(arch, width, dtype, kind) -> None:
    shape = Shape.of(width, dtype, biased=kind.biased)
    binary = nvrtc.compile_source(SOURCE, arch=arch, defines=shape.defines(dtype, kind))
    assert binary.cubin.startswith(b"\x7fELF")
    resources = binary.resources()
    assert set(resources) == {"norm_forward", "norm_backward"}
    for entry, needs in resources.items():
        assert needs.spilled_bytes == 0, entry
        assert 0 < needs.registers * shape.threads * shape.rows <= 65536, entry


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize(("width", "kind"), [(768, ADD_RMS), (1792, ADD_RMS), (768, ADD_LAYER)], ids=str)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernels_of_a_float32_stream_under_autocast_compile_without_spills(arch, width, kind) -> None:
    shape, half = Shape.of(width, torch.float32, biased=kind.biased), torch.bfloat16
    defines = shape.defines(torch.float32, kind, branch=half, output=half)
    for entry, needs in nvrtc.compile_source(SOURCE, arch=arch, defines=defines).resources().items():
        assert needs.spilled_bytes == 0, entry
        assert 0 < needs.registers * shape.threads * shape.rows <= 65536, entry


def test_a_row_that_does_not_fit_a_block_is_rejected() -> None:
    with pytest.raises(ValueError, match="rows of 16385 elements exceed 16384"):
        Shape.of(16385, torch.bfloat16)


def test_what_the_kernels_cannot_read_is_rejected() -> None:
    x, weight = torch.randn(3, 8), torch.ones(8)
    y = torch.empty_like(x)
    with pytest.raises(ValueError, match=r"expected a tensor of shape \(8,\), got \(7,\)"):
        norm_cuda.forward_into(y, x, weight[:7], None, EPS, centred=False)
    with pytest.raises(ValueError, match=r"expected a tensor of shape \(3, 8\), got \(2, 8\)"):
        norm_cuda.forward_into(y[:2], x, weight, None, EPS, centred=False)
    with pytest.raises(ValueError, match="a residual and the place of the sum come together"):
        norm_cuda.forward_into(y, x, weight, None, EPS, centred=False, residual=x)
    with pytest.raises(ValueError, match=r"expected torch.bfloat16 on cpu, but got torch.float32"):
        norm_cuda.forward_into(y, x.bfloat16(), weight.bfloat16(), None, EPS, centred=False)
    with pytest.raises(ValueError, match="is not contiguous"):
        norm_cuda.forward_into(y, x.T.contiguous().T, weight, None, EPS, centred=False)
    with pytest.raises(ValueError, match=r"sums for a weight and a bias are float32 \(blocks, 8\)"):
        norm_cuda.backward_into(y, None, None, x, x, weight, EPS, centred=False)


CASES = [(RMS, (3, 8)), (PLAIN, (2, 3, 5)), (LAYER, (3, 8)), (LAYER, (0, 4))]


def _leaves(kind, shape, dtype=torch.float32):
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    weight = torch.randn(shape[-1], dtype=dtype, requires_grad=True) if kind.weighted else None
    return x, weight, torch.randn(shape[-1], dtype=dtype, requires_grad=True) if kind.biased else None


@pytest.mark.parametrize(("kind", "shape"), CASES, ids=str)
def test_the_operators_pass_opcheck(kind, shape) -> None:
    x, weight, bias = _leaves(kind, shape)
    torch.library.opcheck(torch.ops.tempa.norm.default, (x, weight, bias, EPS, kind.centred))
    residual = torch.randn(shape, requires_grad=True)
    arguments = (x, residual, weight, bias, EPS, kind.centred)
    torch.library.opcheck(torch.ops.tempa.add_norm.default, arguments)
    branch = x.detach().bfloat16().requires_grad_()
    arguments = (branch, residual, weight, bias, EPS, kind.centred, torch.bfloat16)
    torch.library.opcheck(torch.ops.tempa.add_norm.default, arguments)


@pytest.mark.parametrize("kind", [RMS, PLAIN, LAYER], ids=str)
def test_the_operators_have_the_gradient_of_the_reference(kind) -> None:
    x, weight, bias = _leaves(kind, (4, 6), torch.float64)
    residual = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    leaves = [leaf for leaf in (x, residual, weight, bias) if leaf is not None]
    y, total = torch.ops.tempa.add_norm(x, residual, weight, bias, EPS, kind.centred)
    expected = _norm(x + residual, weight, bias, kind.centred)
    ours = torch.autograd.grad(y.sin().sum() + total.cos().sum(), leaves)
    theirs = torch.autograd.grad(expected.sin().sum() + (x + residual).cos().sum(), leaves)
    torch.testing.assert_close(ours, theirs)
    alone = torch.ops.tempa.norm(total, weight, bias, EPS, kind.centred)
    torch.testing.assert_close(alone, y)


def test_the_operator_survives_torch_compile_with_fake_tensors() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _example_inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(
        lambda x, weight: torch.ops.tempa.norm(x, weight, None, EPS, False) * 2,
        backend=backend,
        fullgraph=True,
    )
    x, weight = torch.randn(3, 8), torch.randn(8)
    torch.testing.assert_close(compiled(x, weight), reference.rms_norm(x, weight, EPS) * 2)
    assert len(graphs) == 1
