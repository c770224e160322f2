"""The kernels of `cuda/attention*.cu`, compiled for GPUs and run on the CPU by `simulator`.

`tests/gpu/test_attention.py` runs them where they belong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attention_cases import (
    CASES,
    Case,
    assert_is_right,
    by_kernels,
    by_reference,
    distance,
)
from torch import Tensor

from tempa.ops import attention_kernels, nvrtc
from tempa.ops.attention_kernels import BACKWARD_KEYS, BACKWARD_QUERIES, FORWARD, KERNELS
from tempa.ops.calls import Call, Target
from tempa.ops.reference import packed_attention


@pytest.mark.parametrize("name", CASES)
def test_the_simulated_kernels_equal_the_reference(name) -> None:
    for seed in range(2):
        problem = CASES[name].problem(seed)
        ours, exact = by_kernels(problem, seed), by_reference(problem, torch.float64)
        rounded = by_reference(problem, problem.q.dtype)
        for field_name in ("out", "dq", "dk", "dv"):
            assert_is_right(*(getattr(results, field_name) for results in (ours, exact, rounded)), field_name)
        # Float32 sums; the exponential and the logarithm of the device are right to 2^-22.
        torch.testing.assert_close(ours.lse.double(), exact.lse, rtol=2e-6, atol=2e-6)
        nothing = exact.lse.isneginf().T
        assert not ours.out[nothing].any()
        assert not ours.dq[nothing].any()


def test_queries_that_are_not_there_add_nothing_however_far_the_keys() -> None:
    """Slopes below zero favour far keys: scores of rows behind the last query would exceed every float."""
    problem = Case(64, (1, 1), [5], [400]).problem()
    problem = replace(problem, alibi_slopes=torch.tensor([-1.0]))
    results, exact = by_kernels(problem), by_reference(problem, torch.float64)
    rounded = by_reference(problem, torch.bfloat16)
    for name in ("out", "dq", "dk", "dv"):
        assert_is_right(getattr(results, name), getattr(exact, name), getattr(rounded, name), name)


def test_results_do_not_depend_on_the_order_of_threads() -> None:
    problem = CASES["causal"].problem()
    first, second = by_kernels(problem, seed=1), by_kernels(problem, seed=2)
    for name in vars(first):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


STEP_WAIT = "        copy_async_wait<0>();\n        __syncthreads();\n"
END_WAIT = "    copy_async_wait<0>();\n    __syncthreads();\n\n"


@pytest.mark.parametrize(
    ("name", "source", "right", "wrong"),
    [
        ("small", FORWARD.source, STEP_WAIT, "        __syncthreads();\n"),
        ("small", FORWARD.source, STEP_WAIT, "        copy_async_wait<0>();\n"),
        ("no keys", FORWARD.source, END_WAIT, "    copy_async_wait<0>();\n\n"),
        ("small", FORWARD.source, "min(from + right, last)", "min(from + right + 1, last)"),
        ("window", FORWARD.source, "key < last_place - left", "key < first_place - left"),
        ("small", BACKWARD_QUERIES.source, STEP_WAIT, "        copy_async_wait<0>();\n"),
        ("small", BACKWARD_KEYS.source, STEP_WAIT, "        __syncthreads();\n"),
        ("window", BACKWARD_KEYS.source, "from + left", "from + left - 1"),
    ],
)
def test_a_dropped_wait_or_a_wrong_mask_is_noticed(name, source, right, wrong, tmp_path: Path) -> None:
    text = (nvrtc.SOURCES / source).read_text()
    assert right in text
    mutant = tmp_path / source
    mutant.write_text(text.replace(right, wrong, 1))

    def edit(call: Call) -> Call:
        return replace(call, source=str(mutant)) if call.source == source else call

    problem = CASES[name].problem()
    exact = by_reference(problem, torch.float64)

    def is_right(seed: int) -> bool:
        ours = by_kernels(problem, seed, edit)
        pairs = [(getattr(ours, x), getattr(exact, x)) for x in ("out", "dq", "dk", "dv")]
        return all(distance(result, expected) <= 1e-2 * float(expected.norm()) for result, expected in pairs)

    assert not all(is_right(seed) for seed in range(3))


MATRIX = [("sm_80", 128, False), ("sm_90a", 64, False), ("sm_100a", 72, True), ("sm_120", 256, True)]
SLOW_MATRIX = [
    pytest.param(arch, head_dim, has_all, marks=pytest.mark.slow)
    for arch in ("sm_80", "sm_90a", "sm_100a", "sm_120")
    for head_dim in (64, 80, 96, 128, 192, 256)
    for has_all in (False, True)
    if (arch, head_dim, has_all) not in MATRIX
]


@pytest.mark.parametrize(("arch", "head_dim", "has_all"), MATRIX + SLOW_MATRIX)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernels_compile_without_spills_and_fit_the_device(arch, head_dim, has_all) -> None:
    limit = Target(arch).shared_limit
    for kernel in KERNELS:
        shape = kernel.shape(head_dim, limit)
        macros = attention_kernels.defines(
            shape, head_dim, torch.bfloat16, has_softcap=has_all, has_alibi=has_all
        )
        resources = nvrtc.compile_source(kernel.source, arch=arch, defines=macros).resources()
        for entry, needs in resources.items():
            assert needs.spilled_bytes == 0, entry
            assert 0 < needs.registers <= 255, entry
        assert kernel.entry in resources
        assert kernel.shared_bytes(shape, head_dim) <= limit
        if head_dim <= 128:
            # Two blocks a multiprocessor, but on sm_86, sm_89 and sm_120; 1 KiB of each is the system's.
            assert 2 * (kernel.shared_bytes(shape, head_dim) + 1024) <= 164 << 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(4, 2, 64)}, "bfloat16 or float16 is needed, got torch.float32"),
        ({"k": torch.zeros(4, 2, 32, dtype=torch.bfloat16)}, r"got \[\(4, 2, 64\), \(4, 2, 32\)"),
        ({name: torch.zeros(4, 2, 12, dtype=torch.bfloat16) for name in "qkv"}, "multiple of 8 up to 256"),
        ({name: torch.zeros(4, 3, 64, dtype=torch.bfloat16) for name in "kv"}, "3 key heads do not divide 2"),
        ({"v": torch.zeros(4, 2, 64, dtype=torch.float16)}, "v must be torch.bfloat16 on cpu"),
        (
            {"q": torch.zeros(4, 2, 65, dtype=torch.bfloat16)[..., 1:]},
            "q must start at a multiple of 16 bytes",
        ),
        ({"cu_seqlens_k": torch.tensor([0, 4])}, "cu_seqlens_k must be torch.int32"),
        ({"cu_seqlens_k": torch.tensor([0, 2, 4], dtype=torch.int32)}, "same length"),
        ({"alibi_slopes": torch.zeros(3)}, r"alibi_slopes must be \(2,\), got \(3,\)"),
        ({"sinks": torch.zeros(2, dtype=torch.float64)}, "sinks must be torch.float32"),
        ({"scale": 0.0}, "scale must be positive, got 0.0"),
        ({"softcap": -1.0}, "softcap must be 0 or positive"),
        ({"left": -1}, "left must be 0 or positive, got -1"),
    ],
)
def test_what_the_kernels_do_not_take_is_named(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Case(64, (2, 2), [4], [4]).problem(), **change)


def test_results_of_another_shape_or_place_are_refused() -> None:
    problem = Case(64, (2, 2), [4], [4]).problem()
    with pytest.raises(ValueError, match=r"out must be \(4, 2, 64\), contiguous"):
        problem.forward(torch.empty(4, 2, 128, dtype=torch.bfloat16)[..., :64], torch.empty(2, 4))
    with pytest.raises(ValueError, match=r"lse must be torch.float32"):
        problem.forward(torch.empty_like(problem.q), torch.empty(2, 4, dtype=torch.float64))


BOUNDS = [torch.tensor(bounds, dtype=torch.int32) for bounds in ([0, 3, 3, 8], [0, 4, 6, 9])]
OPTIONS = {"scale": 0.3, "left": 2, "right": 1, "softcap": 2.0}


def _operands(dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    shapes = [(9, 4, 8), (10, 2, 8), (10, 2, 8), (4,)]
    return tuple(torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for shape in shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_operator_passes_opcheck(dtype) -> None:
    q, k, v, sinks = _operands(dtype)
    slopes = torch.rand(4)
    torch.library.opcheck(torch.ops.tempa.attention.default, (q, k, v, *BOUNDS))
    arguments = (q, k, v, *BOUNDS, slopes, sinks.detach().float().requires_grad_(), *OPTIONS.values())
    torch.library.opcheck(torch.ops.tempa.attention.default, arguments)


@pytest.mark.parametrize("options", [{}, {"right": 0}, OPTIONS], ids=str)
def test_the_operator_has_the_gradient_of_the_reference(options) -> None:
    q, k, v, sinks = inputs = _operands(torch.float64)
    slopes = torch.rand(4, dtype=torch.float64)

    def gradients(function: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        out, lse = function(q, k, v, *BOUNDS, slopes, sinks, **options)
        return torch.autograd.grad(out.sin().sum() + lse.cos().sum(), inputs)

    ours, expected = gradients(torch.ops.tempa.attention), gradients(packed_attention)
    torch.testing.assert_close(ours, expected)


def test_the_operator_survives_torch_compile_with_fake_tensors() -> None:
    def backend(graph: torch.fx.GraphModule, _example_inputs: object) -> Callable[..., object]:
        return graph.forward

    q, k, v, _ = _operands(torch.float32)
    compiled = torch.compile(
        lambda q, k, v: torch.ops.tempa.attention(q, k, v, *BOUNDS)[0] * 2, backend=backend, fullgraph=True
    )
    torch.testing.assert_close(compiled(q, k, v), packed_attention(q, k, v, *BOUNDS)[0] * 2)
