"""The kernels of `cuda/attention_*_hopper.cu`, compiled for sm_90a and run on the CPU by `simulator`.

`tests/gpu/test_attention.py` runs them where they belong.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attention_cases import (
    Case,
    Results,
    assert_is_right,
    by_kernels,
    by_reference,
    distance,
    forward,
    upstream,
)
from mutants import mutant
from simulator import SimulationError, Timing
from torch import Tensor

from tempa.ops import attention_hopper, attention_kernels, nvrtc
from tempa.ops.attention_hopper import BACKWARD_KEYS, BACKWARD_QUERIES, FORWARD
from tempa.ops.attention_kernels import Problem
from tempa.ops.calls import SMALLEST, Call, Target

# Few enough blocks for each to have several tiles.
TARGET = Target("sm_90a", num_multiprocessors=3)

# Several steps of keys and tiles of queries; lengths that end inside them, at their end and behind it;
# sequences without queries, keys or both; fully masked queries; tokens of no sequence; every shape of the
# kernel.
CASES = {
    "causal": Case(64, (2, 1), [430, 0, 33, 192, 1], [430, 0, 33, 192, 1], rest=9, options={"right": 0}),
    "wide causal": Case(128, (2, 2), [300, 64], [300, 64], options={"right": 0}),
    "more keys": Case(128, (2, 1), [70, 0, 5, 0], [450, 7, 128, 0], options={"right": 0}),
    "fewer keys": Case(64, (1, 1), [340, 33, 9], [20, 0, 8], rest=2, has_sinks=True, options={"right": 0}),
    "window": Case(64, (1, 1), [700], [700], options={"left": 200, "right": 0}),
    "window to both sides": Case(
        128, (3, 1), [170, 20], [260, 30], options={"left": 40, "right": 9, "scale": 0.3}
    ),
    "all pairs": Case(128, (2, 1), [40, 130], [100, 450], torch.float16),
    "steep": Case(64, (2, 2), [200], [600], options={"scale": 3.0}),
    "soft-cap and ALiBi": Case(
        64,
        (2, 1),
        [150, 80],
        [264, 70],
        has_alibi=True,
        has_sinks=True,
        options={"right": 2, "softcap": 1.5},
    ),
    "ALiBi": Case(128, (1, 1), [140], [300], has_alibi=True),
    "one head": Case(64, (1, 1), [9, 70], [0, 300]),
    "no keys": Case(64, (4, 2), [33, 40, 50, 60], [0, 1, 0, 0]),
    "no sequence": Case(64, (2, 1), [], [], rest=5),
}


SLOW_CASES = {"ALiBi", "steep"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW_CASES else ()) for name in CASES]
)
def test_the_simulated_kernels_equal_the_reference(name) -> None:
    for seed in range(2):
        problem = CASES[name].problem(seed)
        ours, exact = by_kernels(problem, seed, target=TARGET), by_reference(problem, torch.float64)
        rounded = by_reference(problem, problem.q.dtype)
        for field_name in ("out", "dq", "dk", "dv"):
            assert_is_right(*(getattr(results, field_name) for results in (ours, exact, rounded)), field_name)
        # As for the other kernels, and a part of the exponentials right to 3e-6.
        torch.testing.assert_close(ours.lse.double(), exact.lse, rtol=3e-6, atol=3e-6)
        nothing = exact.lse.isneginf().T
        assert not ours.out[nothing].any()
        assert not ours.dq[nothing].any()


def test_results_do_not_depend_on_the_order_of_threads_or_the_number_of_blocks() -> None:
    problem = CASES["causal"].problem()
    first, *others = (
        by_kernels(problem, seed, target=replace(TARGET, num_multiprocessors=blocks))
        for seed, blocks in ((1, 1), (2, 132))
    )
    for other in others:
        assert all(torch.equal(getattr(first, name), getattr(other, name)) for name in vars(first))


def test_a_sequence_does_not_see_what_stands_beside_it() -> None:
    """Neither NaN nor infinity, which a weight of 0 would not hide."""
    problem = Case(64, (2, 1), [50, 300, 20], [100, 260, 30], options={"left": 140, "right": 9}).problem()
    dout, dlse = upstream(problem)
    queries, keys = slice(50, 350), slice(100, 360)

    def among(value: float) -> Results:
        q, k, v, upper = (torch.full_like(x, value) for x in (problem.q, problem.k, problem.v, dout))
        q[queries], upper[queries] = problem.q[queries], dout[queries]
        k[keys], v[keys] = problem.k[keys], problem.v[keys]
        return by_kernels(replace(problem, q=q, k=k, v=v), target=TARGET, given=(upper, dlse))

    clean = among(0.0)
    for value in (torch.nan, torch.inf):
        beside = among(value)
        assert torch.equal(beside.lse[:, queries], clean.lse[:, queries])
        for name, part in (("out", queries), ("dq", queries), ("dk", keys), ("dv", keys)):
            assert torch.equal(getattr(beside, name)[part], getattr(clean, name)[part]), name


EMPTY = "mbarrier_wait(shared.empty[stage.index], stage.parity ^ 1);"
FULL = "mbarrier_wait(shared.full[stage.index], stage.parity);"
# The kernel, the case, when asynchronous work is done, and the mistake.
Mutant = tuple[attention_hopper.Kernel, str, Timing, str, str]
MUTANTS: dict[str, Mutant] = {
    "no wait for sums": (FORWARD, "causal", "late", "wgmma_wait<0>(rows.total[0] + rows.total[1]);", ""),
    "no wait for values": (
        FORWARD,
        "causal",
        "late",
        "mbarrier_wait(shared.v_full[last.index], last.parity);",
        "",
    ),
    "no wait for a free stage": (
        FORWARD,
        "causal",
        "mixed",
        "mbarrier_wait(shared.v_empty[stage.index], stage.parity ^ 1);",
        "",
    ),
    "no correction": (FORWARD, "steep", "mixed", "sums[i] *= shrink[i / 2 % 2];", ";"),
    "shifted mask": (FORWARD, "causal", "mixed", "mask(place - key,", "mask(place - key + 1,"),
    "no wait for keys": (BACKWARD_QUERIES, "causal", "late", FULL, ""),
}
SLOW_MUTANTS: dict[str, Mutant] = {
    "no wait for the known": (BACKWARD_KEYS, "causal", "late", "copy_async_wait<0>();", ""),
    "no wait for scores": (FORWARD, "causal", "late", "wgmma_wait<1>();", ""),
    "no wait for free queries": (
        FORWARD,
        "causal",
        "mixed",
        "mbarrier_wait(shared.q_empty, num_loaded % 2 ^ 1);",
        "",
    ),
    "no wait for free keys": (BACKWARD_QUERIES, "more keys", "mixed", EMPTY, ""),
    "no wait for queries": (BACKWARD_KEYS, "causal", "late", FULL, ""),
    "no wait for a free place": (BACKWARD_KEYS, "causal", "mixed", EMPTY, ""),
    "no meeting of a group": (BACKWARD_KEYS, "causal", "mixed", "            sync_group(group);\n", ""),
    "shifted queries": (BACKWARD_KEYS, "causal", "mixed", "mask(place - query,", "mask(place - query + 1,"),
    "shifted keys": (BACKWARD_QUERIES, "causal", "mixed", "mask(place - key,", "mask(place - key - 1,"),
}


@pytest.mark.parametrize(
    "name", [*MUTANTS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_MUTANTS)]
)
def test_a_dropped_wait_or_a_wrong_mask_is_noticed(name, tmp_path: Path) -> None:
    kernel, case, timing, right, wrong = (MUTANTS | SLOW_MUTANTS)[name]
    source = mutant(tmp_path, kernel.source, right, wrong)
    problem = CASES[case].problem()
    exact = by_reference(problem, torch.float64)

    def edit(call: Call) -> Call:
        return replace(call, source=str(source)) if call.source == kernel.source else call

    def results(seed: int) -> dict[str, Tensor]:
        if kernel is FORWARD:
            return {"out": forward(problem, seed, target=TARGET, edit=edit, timing=timing)[0]}
        return vars(by_kernels(problem, seed, edit, target=TARGET, timing=timing))

    def is_right(seed: int) -> bool:
        try:
            ours = results(seed)
        except SimulationError:
            return False
        pairs = [(ours[name], getattr(exact, name)) for name in ("out", "dq", "dk", "dv") if name in ours]
        return all(distance(result, expected) <= 1e-2 * float(expected.norm()) for result, expected in pairs)

    assert not all(is_right(seed) for seed in range(4))


# Heads, whether masked, and with soft-cap and ALiBi.
MATRIX = [(64, True, False, False), (128, True, False, False), (128, False, False, False)]
SLOW_MATRIX = [
    pytest.param(head_dim, True, has_softcap, has_alibi, marks=pytest.mark.slow)
    for head_dim in (64, 128)
    for has_softcap in (False, True)
    for has_alibi in (False, True)
    if has_softcap or has_alibi
]


@pytest.mark.parametrize(("head_dim", "is_masked", "has_softcap", "has_alibi"), MATRIX + SLOW_MATRIX, ids=str)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernels_compile_without_spills_and_without_waits_between_products(
    head_dim, is_masked, has_softcap, has_alibi
) -> None:
    features = {"has_softcap": has_softcap, "has_alibi": has_alibi}
    dtype = torch.bfloat16 if is_masked else torch.float16
    for kernel in attention_hopper.KERNELS:
        shape = kernel.shape("sm_90a", head_dim, is_masked=is_masked, **features)
        if shape is None:
            assert (kernel, head_dim, has_softcap) == (BACKWARD_KEYS, 128, True)
            continue
        macros = attention_kernels.defines(shape, head_dim, dtype, **features)
        binary = nvrtc.compile_source(kernel.source, arch="sm_90a", defines=macros)
        needs = binary.resources()[kernel.entry]
        assert needs.spilled_bytes == 0, kernel.entry
        # What each thread starts with; then the groups share 65536 out anew, or the compiler says that it
        # ignored them.
        assert needs.registers <= 65536 // shape.num_threads // 8 * 8
        assert not re.search(r"setmaxnreg|Potential Performance Loss", binary.log), binary.log
        assert kernel.shared_bytes(shape, head_dim) <= Target("sm_90a").shared_limit == 227 << 10


def _entries(problem: Problem, target: Target) -> list[str]:
    q, k, lse = problem.q, problem.k, torch.empty(problem.q.shape[1], len(problem.q))
    out, dk = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k))
    calls = problem.forward(out, lse, target=target)
    rows = torch.empty(*lse.shape, 2)
    calls += problem.backward(out, dk, dk, rows, out, lse, *upstream(problem), target=target)
    return [call.entry for call in calls if call.entry != attention_kernels.BACKWARD_ROWS]


def test_the_kernels_are_for_heads_they_have_and_tensors_that_have_maps() -> None:
    others = [kernel.entry for kernel in attention_kernels.KERNELS]
    problem = CASES["causal"].problem()
    assert _entries(problem, TARGET) == [kernel.entry for kernel in attention_hopper.KERNELS]
    for target in (SMALLEST, Target("sm_100a"), Target("sm_120")):
        assert _entries(problem, target) == others
    shared = problem.k.expand(-1, 2, -1)
    assert shared.stride(1) == 0
    assert _entries(replace(problem, k=shared, v=shared), TARGET) == others
    for case in (Case(72, (2, 1), [4], [4]), Case(64, (2, 1), [4], [0])):
        entries = _entries(case.problem(), TARGET)
        assert entries == others[: len(entries)]
