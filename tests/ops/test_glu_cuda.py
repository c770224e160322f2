"""The kernels of `cuda/glu.cu`, compiled for GPUs and run on the CPU by `simulator`.

`tests/gpu/test_glu.py` runs them where they belong.
"""

from __future__ import annotations

import pytest
import torch
from mutants import mutant
from simulator import SimulationError, simulate

from tempa import ops
from tempa.ops import glu_cuda, nvrtc
from tempa.ops.cuda_tensors import pack_size
from tempa.ops.reference import activation

# A result is rounded once: half a unit in the last place, and a few of float32 in the arithmetic before.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
REGISTERS = 64  # of 65536, so that 1024 threads of 256 a block are on a multiprocessor


def _simulated(source, x, dy, function, gated, seed=0, aligned=True):
    """(y, dx) by the kernels, from outputs that start as NaN."""
    y, dx = torch.full_like(dy, torch.nan), torch.full_like(x, torch.nan)
    width = dy.shape[-1] if gated else dy.numel()
    vector = pack_size(width, x.dtype, aligned=aligned)
    sizes = dy.numel() // vector, width // vector if gated else 1
    launch = {
        "grid": -(-dy.numel() // (vector * glu_cuda.THREADS * glu_cuda.PACKS)),
        "block": glu_cuda.THREADS,
        "defines": glu_cuda.defines(x.dtype, vector, function, gated=gated),
        "seed": seed,
    }
    simulate(source, "activation_forward", y, x, *sizes, **launch)
    simulate(source, "activation_backward", dx, dy, x, *sizes, **launch)
    return y, dx


# Sizes that end inside a block, rows shorter and longer than one, rows that are no multiple of a pack.
@pytest.mark.parametrize(
    ("num_rows", "width", "dtype", "function", "gated", "aligned"),
    [
        (37, 136, torch.bfloat16, "silu", True, True),
        (2, 8200, torch.bfloat16, "silu", True, True),
        (50, 17, torch.float32, "gelu", True, True),
        (5, 24, torch.float32, "gelu", True, False),
        (3, 40, torch.float16, "relu2", False, True),
        (1, 8, torch.float16, "relu2", False, True),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_the_simulated_kernel_equals_the_reference(num_rows, width, dtype, function, gated, aligned, seed):
    generator = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(num_rows, width * (1 + gated), generator=generator)).to(dtype)
    x[0, :4] = torch.tensor([0.0, -0.0, 60.0, -60.0])
    dy = torch.randn(num_rows, width, generator=generator).to(dtype)
    y, dx = _simulated(glu_cuda.SOURCE, x, dy, function, gated, seed, aligned)

    wide = x.double().requires_grad_()
    expected = activation(wide, function, gated=gated)
    expected.backward(dy.double())
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(y.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(dx.double(), wide.grad, rtol=tolerance, atol=4 * tolerance)


def test_bfloat16_results_are_at_least_as_near_as_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(40, 256, generator=generator).bfloat16()
    dy = torch.randn(40, 128, generator=generator).bfloat16()
    errors = []
    for y, dx in (_simulated(glu_cuda.SOURCE, x, dy, "silu", True), _by_torch(ops.swiglu, x, dy)):
        expected_y, expected_dx = _by_torch(ops.swiglu, x.double(), dy.double())
        errors.append([float((y - expected_y).norm()), float((dx - expected_dx).norm())])
    assert errors[0] <= errors[1]


def _by_torch(function, x, dy):
    x = x.detach().requires_grad_()
    y = function(x)
    y.backward(dy)
    return y.detach(), x.grad


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("(blockIdx.x * PACKS + pack) * THREADS", "(blockIdx.x * PACKS + pack) * (THREADS + 1)"),
        ("(GATED ? (long long)(pack / packs_of_row)", "(GATED ? (long long)((pack + 1) / packs_of_row)"),
    ],
)
def test_a_wrong_index_is_noticed(right, wrong, tmp_path) -> None:
    source = mutant(tmp_path, glu_cuda.SOURCE, right, wrong)
    x, dy = torch.randn(40, 272).bfloat16(), torch.randn(40, 136).bfloat16()
    try:
        y, _ = _simulated(source, x, dy, "silu", True)
    except SimulationError:
        return
    assert not torch.allclose(y.double(), activation(x.double(), "silu", gated=True), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize(
    ("dtype", "vector", "function", "gated"),
    [
        (torch.bfloat16, 8, "silu", True),
        (torch.bfloat16, 8, "relu2", False),
        (torch.float32, 4, "gelu", True),
    ],
    ids=str,
)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernels_compile_within_their_budget(arch, dtype, vector, function, gated) -> None:
    defines = glu_cuda.defines(dtype, vector, function, gated=gated)
    resources = nvrtc.compile_source(glu_cuda.SOURCE, arch=arch, defines=defines).resources()
    assert set(resources) == {"activation_forward", "activation_backward"}
    for entry, needs in resources.items():
        assert needs.spilled_bytes == 0, entry
        assert 0 < needs.registers <= REGISTERS, entry


@pytest.mark.parametrize(("function", "gated"), [("silu", True), ("gelu", True), ("relu2", False)])
@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 6), (0, 4)])
def test_the_operator_passes_opcheck_and_has_the_gradient_of_the_reference(shape, function, gated) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.tempa.activation.default, (x, function, gated))
    ours, theirs = torch.ops.tempa.activation(x, function, gated), activation(x, function, gated=gated)
    torch.testing.assert_close(ours, theirs)
    (mine,), (reference,) = (torch.autograd.grad(out.sin().sum(), x) for out in (ours, theirs))
    torch.testing.assert_close(mine, reference)


def test_what_the_kernels_cannot_read_is_rejected() -> None:
    x, y = torch.randn(4, 8), torch.empty(4, 4)
    with pytest.raises(ValueError, match="unknown activation 'tanh'; choose from silu, gelu, relu2"):
        glu_cuda.forward_into(y, x, "tanh", gated=True)
    with pytest.raises(ValueError, match=r"expected a result of shape \(4, 4\), got \(4, 8\)"):
        glu_cuda.forward_into(torch.empty(4, 8), x, "silu", gated=True)
    with pytest.raises(ValueError, match="rows of even width, got 7"):
        glu_cuda.forward_into(y, torch.randn(4, 7), "silu", gated=True)
    with pytest.raises(ValueError, match=r"a tensor of shape \(4, 8\) is not contiguous"):
        glu_cuda.forward_into(y, torch.randn(8, 4).T, "silu", gated=True)
    with pytest.raises(ValueError, match=r"expected torch.float32 on cpu, but got torch.float16"):
        glu_cuda.forward_into(y.half(), x, "silu", gated=True)
    with pytest.raises(ValueError, match=r"bfloat16 or float16 is needed, got torch\.float64"):
        glu_cuda.forward_into(y, x.double(), "silu", gated=True)
