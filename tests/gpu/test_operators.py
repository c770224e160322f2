"""Every operator on the device as the CPU has it, and in all the ways in which programs call one.

`tests/ops/operators.py` has the problems; together they run every kernel, which compute-sanitizer watches.
"""

from __future__ import annotations

import threading

import pytest
import torch
from operators import OPERATORS, Operator, distance
from torch import Tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
every_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.case)


def _run(operator: Operator) -> list[Tensor]:
    return operator.results(operator.prepared("cuda"))


def _assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(*(x.contiguous().flatten().view(torch.uint8) for x in (one, other)))


@pytest.mark.sanitize
@every_operator
def test_results_equal_those_of_the_cpu(operator: Operator) -> None:
    for one, other in zip(_run(operator), operator.expected(), strict=True):
        assert one.is_cuda
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert distance(one, other) <= operator.tolerance


@every_operator
def test_results_repeat_bit_for_bit(operator: Operator) -> None:
    _assert_same_bits(_run(operator), _run(operator))


@every_operator
def test_memory_that_held_other_numbers_changes_nothing(operator: Operator) -> None:
    """Outputs and temporaries come from memory that was full of NaN."""
    expected = _run(operator)
    poison = [
        torch.full((size // 4,), torch.nan, device="cuda") for size in (512, 4096, 1 << 16, 1 << 20) * 16
    ]
    del poison
    _assert_same_bits(_run(operator), expected)


@every_operator
def test_another_stream_is_respected(operator: Operator) -> None:
    expected, stream = _run(operator), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        _run(operator)  # has memory of this stream ready, which may wait for the device
        arguments = operator.prepared("cuda")
    torch.cuda.synchronize()
    torch.cuda._sleep(20_000_000)
    with torch.cuda.stream(stream):
        found = operator.results(arguments)
    stream.synchronize()
    is_default_at_work = not torch.cuda.default_stream().query()
    _assert_same_bits(found, expected)
    # Else a kernel on the default stream would have passed.
    assert is_default_at_work


@pytest.mark.parametrize(
    "operator", [o for o in OPERATORS if o.can_be_captured], ids=lambda operator: operator.case
)
def test_a_captured_graph_computes_what_its_inputs_are_by_then(operator: Operator) -> None:
    expected, fresh = _run(operator), operator.prepared("cuda")
    arguments, stream = operator.prepared("cuda"), torch.cuda.Stream()
    # Bytes as such: not everything can be done with 8-bit floats.
    inputs = [
        tuple(x.view(torch.uint8) if x.itemsize == 1 else x for x in pair)
        for pair in zip(arguments, fresh, strict=True)
        if isinstance(pair[0], Tensor) and pair[0].is_floating_point()
    ]
    with torch.no_grad():
        for argument, _ in inputs:
            argument.zero_()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        operator.results(arguments)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = operator.results(arguments)
    with torch.no_grad():
        for argument, same in inputs:
            argument.copy_(same)
    graph.replay()
    _assert_same_bits(found, expected)


@every_operator
def test_a_compiled_function_gives_the_same(operator: Operator) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda *arguments: operator.op(*arguments), fullgraph=True)
    expected = _run(operator)
    found = operator.results(operator.prepared("cuda"), compiled)
    for one, other in zip(found, expected, strict=True):
        assert distance(one, other) <= 1e-6


@every_operator
def test_an_operator_passes_opcheck(operator: Operator) -> None:
    torch.library.opcheck(operator.op.default, tuple(operator.prepared("cuda")), test_utils=operator.checks)


@every_operator
def test_a_thread_without_a_context_may_call_it(operator: Operator) -> None:
    expected = _run(operator)
    arguments = operator.prepared("cuda")
    torch.cuda.synchronize()
    found: list[Tensor] = []

    def work() -> None:
        found.extend(operator.results(arguments))
        torch.cuda.synchronize()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    _assert_same_bits(found, expected)
