"""The kernels of `cuda/rms_norm.cu`, compiled for GPUs and run on the CPU by `simulator`.

`tests/gpu/test_rms_norm.py` runs them where they belong.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from simulator import simulate

from tempa.ops import nvrtc
from tempa.ops.reference import rms_norm
from tempa.ops.rms_norm_cuda import SOURCE, Shape

EPS = 1e-5
# Half a unit in the last place of bfloat16 is 2^-9 of the value, of float16 2^-12; float32 sums of 1030
# terms lose a few bits.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


# Widths that end inside a pack, a warp or a block, and row counts that end inside a block.
@pytest.mark.parametrize(
    ("num_rows", "width", "dtype", "aligned", "weighted"),
    [
        (5, 7, torch.float32, True, True),
        (70, 64, torch.bfloat16, True, True),
        (33, 40, torch.float16, True, True),
        (19, 72, torch.bfloat16, True, False),
        (9, 512, torch.float32, True, True),
        (3, 1030, torch.float32, True, True),
        (3, 1032, torch.bfloat16, True, True),
        (4, 256, torch.float32, False, True),
        (1, 1, torch.float32, True, True),
    ],
)
def test_the_simulated_kernel_equals_the_reference(num_rows, width, dtype, aligned, weighted) -> None:
    generator = torch.Generator().manual_seed(width)
    x, dy = (torch.randn(num_rows, width, generator=generator).to(dtype) for _ in range(2))
    weight = torch.randn(width, generator=generator).to(dtype) if weighted else None
    shape = Shape.of(width, dtype, aligned=aligned)
    size = (ctypes.c_longlong(num_rows), ctypes.c_int(width), ctypes.c_float(EPS))
    launch = {"block": (shape.threads, shape.rows), "defines": shape.defines(dtype, weighted=weighted)}

    y = torch.full_like(x, torch.nan)
    blocks = -(-num_rows // shape.rows)
    simulate(SOURCE, "rms_norm_forward", y, x, weight, *size, grid=blocks, **launch)
    dx = torch.full_like(x, torch.nan)
    # Fewer blocks than rows, so that blocks take turns.
    blocks = -(-blocks // 2)
    sums = torch.full((blocks, width), torch.nan) if weighted else None
    simulate(SOURCE, "rms_norm_backward", dx, sums, dy, x, weight, *size, grid=blocks, **launch)

    wide_x = x.double().requires_grad_()
    wide_weight = None if weight is None else weight.double().requires_grad_()
    expected = rms_norm(wide_x, wide_weight, EPS)
    expected.backward(dy.double())
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(y.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(dx.double(), wide_x.grad, rtol=tolerance, atol=4 * tolerance)
    if sums is not None:
        assert wide_weight is not None
        # The sums are float32 for every dtype.
        torch.testing.assert_close(sums.sum(0).double(), wide_weight.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a"])
@pytest.mark.parametrize(
    ("width", "dtype"),
    [
        (4096, torch.float32),
        (64, torch.bfloat16),
        (16384, torch.bfloat16),
        (4096, torch.float16),
        (1001, torch.float16),
    ],
    ids=str,
)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernels_compile_without_spills(arch, width, dtype) -> None:
    shape = Shape.of(width, dtype)
    binary = nvrtc.compile_source(SOURCE, arch=arch, defines=shape.defines(dtype, weighted=True))
    assert binary.cubin.startswith(b"\x7fELF")
    resources = binary.resources()
    assert set(resources) == {"rms_norm_forward", "rms_norm_backward"}
    for entry, needs in resources.items():
        assert needs.spilled_bytes == 0, entry
        assert 0 < needs.registers * shape.threads * shape.rows <= 65536, entry


def test_a_row_that_does_not_fit_a_block_is_rejected() -> None:
    with pytest.raises(ValueError, match="rows of 16385 elements exceed 16384"):
        Shape.of(16385, torch.bfloat16)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 5), (0, 4)])
def test_the_operator_passes_opcheck(shape, weighted) -> None:
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn(shape[-1], requires_grad=True) if weighted else None
    torch.library.opcheck(torch.ops.tempa.rms_norm.default, (x, weight, EPS))


def test_the_operator_has_the_gradient_of_the_reference() -> None:
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(torch.ops.tempa.rms_norm(x, weight, EPS).sin().sum(), (x, weight))
    reference = torch.autograd.grad(rms_norm(x, weight, EPS).sin().sum(), (x, weight))
    torch.testing.assert_close(ours, reference)


def test_the_operator_survives_torch_compile_with_fake_tensors() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _example_inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(
        lambda x, weight: torch.ops.tempa.rms_norm(x, weight, EPS) * 2, backend=backend, fullgraph=True
    )
    x, weight = torch.randn(3, 8), torch.randn(8)
    torch.testing.assert_close(compiled(x, weight), rms_norm(x, weight, EPS) * 2)
    assert len(graphs) == 1
