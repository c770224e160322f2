"""The kernel of `cuda/adamw.cu`, compiled for GPUs and run on the CPU by `simulator`.

`tests/gpu/test_adamw.py` runs it where it belongs.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mutants import mutant
from simulator import SimulationError, simulate

from tempa.ops import adamw_cuda, nvrtc, reference
from tempa.ops.adamw_cuda import CHUNK, SOURCE, THREADS

SETTINGS = {"lr": 3e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
NUM_STEPS = 3
REGISTERS = 64  # of 65536, so that 1024 threads of 256 a block are on a multiprocessor
# Sizes below, at and past a pack, a chunk and several; starts of which some are no multiple of 16 bytes.
SIZES = [1, 8, 21, 0, CHUNK, CHUNK + 7, 300]
STARTS = np.cumsum([0, 8, 16, 41, 48, CHUNK + 48, CHUNK + 64])
TOTAL = int(STARTS[-1]) + SIZES[-1]


def _steps(source, parameters, gradients, seed=0):
    """The flat parameters after all steps by the kernel; tensors lie in it as `SIZES` and `STARTS` say."""
    result = parameters.clone()
    means, squares = torch.zeros(TOTAL), torch.zeros(TOTAL)
    item = parameters.element_size()
    offsets = STARTS[:, None] * np.array([item, item, 4, 4])
    table = torch.from_numpy(np.concatenate([offsets, np.array(SIZES)[:, None]], axis=1).astype(np.int64))
    chunks = torch.from_numpy(adamw_cuda.chunks_of(np.array(SIZES, np.int64)))
    for step, gradient in enumerate(gradients, 1):
        simulate(
            source,
            "adamw",
            *(result, gradient, means, squares, table, chunks),
            *adamw_cuda.numbers(step, **SETTINGS),
            grid=len(chunks),
            block=THREADS,
            defines=adamw_cuda.defines(parameters.dtype),
            seed=seed,
        )
    return result


def _check(source, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.randn(TOTAL, generator=generator).to(dtype)
    gradients = [torch.randn(TOTAL, generator=generator).to(dtype) for _ in range(NUM_STEPS)]
    result = _steps(source, parameters, gradients, seed)
    expected = reference.adamw(parameters.double(), [g.double() for g in gradients], **SETTINGS)
    is_tensor = torch.zeros(TOTAL, dtype=torch.bool)
    for start, size in zip(STARTS, SIZES, strict=True):
        is_tensor[start : start + size] = True
    # Each step rounds the parameter once: half a unit in the last place of a value of order 1.
    tolerance = NUM_STEPS * (2**-8 if dtype == torch.bfloat16 else 2e-7)
    torch.testing.assert_close(
        result[is_tensor].double(), expected[is_tensor], rtol=tolerance, atol=tolerance
    )
    assert torch.equal(result[~is_tensor], parameters[~is_tensor])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_simulated_steps_equal_the_reference(dtype, seed) -> None:
    _check(SOURCE, dtype, seed)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("in_packs + threadIdx.x; at < size", "in_packs + threadIdx.x; at <= size"),
        ("addresses % 16 ? 0", "addresses % 2 ? 0"),
        ("one_minus_beta2 * slope * slope", "one_minus_beta2 * slope"),
    ],
)
def test_a_wrong_end_or_term_is_noticed(right, wrong, tmp_path) -> None:
    source = mutant(tmp_path, SOURCE, right, wrong)
    with pytest.raises((AssertionError, SimulationError)):
        _check(source, torch.bfloat16)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernel_compiles_within_its_budget(arch, dtype) -> None:
    binary = nvrtc.compile_source(SOURCE, arch=arch, defines=adamw_cuda.defines(dtype))
    (needs,) = binary.resources().values()
    assert needs.spilled_bytes == 0
    assert 0 < needs.registers <= REGISTERS


def test_the_operator_equals_the_optimizer_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(size, generator=generator) for size in ((3, 5), (7,))]
    theirs = [parameter.clone().requires_grad_() for parameter in ours]
    optimizer = torch.optim.AdamW(theirs, **SETTINGS, fused=True)
    means, squares = ([torch.zeros_like(p) for p in ours] for _ in range(2))
    numbers = SETTINGS["lr"], SETTINGS["betas"], SETTINGS["eps"], SETTINGS["weight_decay"]
    for step in range(1, 4):
        for parameter in theirs:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        gradients = [parameter.grad for parameter in theirs]
        torch.ops.tempa.adamw_(ours, gradients, means, squares, step, *numbers)
        optimizer.step()
    torch.testing.assert_close(ours, [parameter.detach() for parameter in theirs])
    arguments = (ours, gradients, means, squares, 4, *numbers)
    torch.library.opcheck(
        torch.ops.tempa.adamw_.default, arguments, test_utils=("test_schema", "test_faketensor")
    )


def test_what_the_kernel_cannot_read_is_rejected() -> None:
    p, m = torch.zeros(4), torch.zeros(4)
    step = (1, 0.1, (0.9, 0.99), 1e-8, 0.0)
    with pytest.raises(ValueError, match=r"lists of one length and a step from 1, got \[1, 0, 1, 1\]"):
        adamw_cuda.step_in_place([p], [], [m], [m], *step)
    with pytest.raises(ValueError, match=r"do not fit: \[\(4,\), \(3,\), \(4,\), \(4,\)\]"):
        adamw_cuda.step_in_place([p], [p[:3]], [m], [m], *step)
    with pytest.raises(ValueError, match=r"expected torch.float32 on cpu, but got torch.bfloat16"):
        adamw_cuda.step_in_place([p.bfloat16()], [p.bfloat16()], [m.bfloat16()], [m], *step)
    with pytest.raises(ValueError, match="is not contiguous"):
        adamw_cuda.step_in_place([torch.zeros(4, 2).T], [torch.zeros(2, 4)], [m], [m], *step)
