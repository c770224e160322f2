"""Every operator on the CPU: schema, fake tensors, compilation, and the host side of what runs on CUDA.

`tests/gpu/test_operators.py` runs the same problems on the device.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from operators import (
    ON_CUDA,
    OPERATORS,
    HeldKernel,
    HostSide,
    Operator,
    distance,
    held,
    run_simulated,
    sources,
)
from torch import Tensor

from tempa.ops import nvrtc, paged_cuda
from tempa.ops.calls import Target
from tempa.ops.signature import POINTER, TENSOR_MAP, signatures
from tempa.ops.tensor_map import TensorMap

every_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.case)
every_operator_of_the_cpu = pytest.mark.parametrize(
    "operator", [o for o in OPERATORS if o.by_hand is None], ids=lambda operator: operator.case
)


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> list[tuple[HeldKernel, tuple[object, ...]]]:
    """The calls of operators that believe to be on an H100; nothing is launched."""
    launched: list[tuple[HeldKernel, tuple[object, ...]]] = []
    properties = SimpleNamespace(
        multi_processor_count=132,
        shared_memory_per_block_optin=227 << 10,
        shared_memory_per_multiprocessor=228 << 10,
    )

    def launch(kernel: HeldKernel, *arguments: object, grid, block, shared_bytes: int = 0) -> None:
        _check(kernel, arguments, grid, block, shared_bytes)
        launched.append((kernel, arguments))

    monkeypatch.setattr(nvrtc, "load", held)
    monkeypatch.setattr(nvrtc, "launch", launch)
    _be(monkeypatch, "sm_90a")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(paged_cuda, "_zeros", {})
    return launched


def _be(monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    """Have an architecture, which decides among kernels."""
    monkeypatch.setattr(nvrtc, "device_arch", lambda device: arch)
    Target.of.cache_clear()


def _check(kernel: HeldKernel, arguments, grid, block, shared_bytes) -> None:
    """What a driver would refuse, or would take for something else."""
    kinds = signatures((nvrtc.SOURCES / kernel.source).read_text())[kernel.entry]
    assert len(arguments) == len(kinds), kernel
    for argument, kind in zip(arguments, kinds, strict=True):
        assert (argument is None or isinstance(argument, Tensor)) == (kind == POINTER), (kernel, argument)
        assert isinstance(argument, TensorMap) == (kind == TENSOR_MAP), (kernel, argument)
    sizes = [(x,) if isinstance(x, int) else tuple(x) for x in (grid, block)]
    assert all(isinstance(n, int) and n > 0 for size in sizes for n in size), (kernel, sizes)
    assert torch.tensor(sizes[1]).prod() <= 1024
    assert 0 <= shared_bytes <= kernel.shared_bytes <= 227 << 10


def test_every_operator_has_a_problem() -> None:
    known = {name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if "tempa::" in name}
    assert known == set(ON_CUDA)
    assert {operator.name for operator in OPERATORS} == {n for n in known if not n.endswith("_backward")}
    assert len({operator.case for operator in OPERATORS}) == len(OPERATORS)


@every_operator_of_the_cpu
def test_an_operator_passes_opcheck(operator: Operator) -> None:
    torch.library.opcheck(operator.op.default, tuple(operator.prepared("cpu")), test_utils=operator.checks)


@every_operator_of_the_cpu
def test_an_operator_is_compiled_whole_and_gives_the_same(operator: Operator) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda *arguments: operator.op(*arguments), backend="aot_eager", fullgraph=True)
    expected = operator.results(operator.prepared("cpu"))
    found = operator.results(operator.prepared("cpu"), compiled)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@every_operator
def test_what_runs_on_cuda_gives_tensors_like_those_of_the_cpu(operator: Operator, pretended_gpu) -> None:
    with HostSide():
        found = operator.results(operator.prepared("cpu"))
    assert pretended_gpu
    assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in operator.expected()]


def test_the_problems_reach_every_entry_point(pretended_gpu, monkeypatch) -> None:
    """So compute-sanitizer sees all kernels: `tests/gpu/test_operators.py` gives it these problems."""
    for arch in ("sm_80", "sm_90a"):
        _be(monkeypatch, arch)
        with HostSide():
            for operator in OPERATORS:
                operator.results(operator.prepared("cpu"))
    assert {(kernel.source, kernel.entry) for kernel, _ in pretended_gpu} == set(sources())


# AdamW's kernel follows addresses in a table, which the simulator does not know.
@pytest.mark.slow
@pytest.mark.parametrize(
    "operator", [o for o in OPERATORS if o.name != "adamw_"], ids=lambda operator: operator.case
)
def test_what_runs_on_cuda_is_right_in_the_simulator(operator: Operator, pretended_gpu, monkeypatch) -> None:
    monkeypatch.setattr(nvrtc, "launch", run_simulated)
    with HostSide():
        found = operator.results(operator.prepared("cpu"))
    for one, other in zip(found, operator.expected(), strict=True):
        assert distance(one, other) <= operator.tolerance
