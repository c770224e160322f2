"""`cuda/attention_forward_hopper.cu`, compiled for sm_90a and run on the CPU by `simulator`.

`tests/gpu/test_attention.py` runs it where it belongs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attention_cases import Case, assert_is_right, by_reference, distance, forward
from mutants import mutant
from simulator import SimulationError, Timing
from torch import Tensor

from tempa.ops import attention_hopper, attention_kernels, nvrtc
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


@pytest.mark.parametrize("name", CASES)
def test_the_simulated_kernel_equals_the_reference(name) -> None:
    for seed in range(2):
        problem = CASES[name].problem(seed)
        assert attention_hopper.takes(TARGET.arch, problem.q, problem.k, problem.v)
        out, lse = forward(problem, seed, target=TARGET)
        exact, rounded = by_reference(problem, torch.float64), by_reference(problem, problem.q.dtype)
        assert_is_right(out, exact.out, rounded.out)
        # As for the other kernels, and a part of the exponentials right to 3e-6.
        torch.testing.assert_close(lse.double(), exact.lse, rtol=3e-6, atol=3e-6)
        assert not out[exact.lse.isneginf().T].any()


def test_results_do_not_depend_on_the_order_of_threads_or_the_number_of_blocks() -> None:
    problem = CASES["causal"].problem()
    first, *others = (
        forward(problem, seed, target=replace(TARGET, num_multiprocessors=blocks))
        for seed, blocks in ((1, 1), (2, 4), (3, 132))
    )
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def _beside_garbage() -> tuple[Problem, Tensor]:
    """A batch whose middle sequence has neighbours of NaN and infinity, and the queries of that one."""
    problem = CASES["window to both sides"].problem()
    bounds = torch.tensor([0, 50, 170, 190], dtype=torch.int32)
    keys = torch.tensor([0, 100, 260, 290], dtype=torch.int32)
    outside = torch.ones(len(problem.k), dtype=torch.bool)
    outside[100:260] = False
    k, v = problem.k.clone(), problem.v.clone()
    k[outside], v[outside] = torch.nan, torch.inf
    q = problem.q.clone()
    q[170:] = torch.nan
    return replace(problem, q=q, k=k, v=v, cu_seqlens_q=bounds, cu_seqlens_k=keys), torch.arange(50, 170)


def test_a_sequence_does_not_see_what_stands_beside_it() -> None:
    problem, inside = _beside_garbage()
    out, lse = forward(problem, target=TARGET)
    clean = replace(problem, **{name: getattr(problem, name).nan_to_num(0, 0, 0) for name in "qkv"})
    expected, expected_lse = forward(clean, target=TARGET)
    assert torch.equal(out[inside], expected[inside])
    assert torch.equal(lse[:, inside], expected_lse[:, inside])


# The case, when asynchronous work is done, and the mistake.
MUTANTS: dict[str, tuple[str, Timing, str, str]] = {
    "no wait for scores": ("causal", "late", "                wgmma_wait<1>();\n", ""),
    "no wait for sums": ("causal", "late", "wgmma_wait<0>(rows.total[0] + rows.total[1]);", ""),
    "no wait for values": ("causal", "late", "mbarrier_wait(shared.v_full[last.index], last.parity);", ""),
    "no wait for a free stage": (
        "causal",
        "mixed",
        "mbarrier_wait(shared.v_empty[stage.index], stage.parity ^ 1);",
        "",
    ),
    "no wait for free queries": (
        "causal",
        "mixed",
        "mbarrier_wait(shared.q_empty, num_loaded % 2 ^ 1);",
        "",
    ),
    "mask": ("causal", "mixed", "from + half * 8 + right", "from + half * 8 + right + 1"),
    "unmasked step": (
        "window",
        "mixed",
        "key < last_place - batch.left",
        "key < first_place - batch.left",
    ),
    "no correction": ("steep", "mixed", "sums[i] *= shrink[i / 2 % 2];", ";"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_dropped_wait_or_a_wrong_mask_is_noticed(name, tmp_path: Path) -> None:
    case, timing, right, wrong = MUTANTS[name]
    source = mutant(tmp_path, attention_hopper.SOURCE, right, wrong)
    problem = CASES[case].problem()
    exact = by_reference(problem, torch.float64)

    def edit(call: Call) -> Call:
        return replace(call, source=str(source))

    def is_right(seed: int) -> bool:
        try:
            out, _ = forward(problem, seed, target=TARGET, edit=edit, timing=timing)
        except SimulationError:
            return False
        return distance(out, exact.out) <= 1e-2 * float(exact.out.norm())

    assert not all(is_right(seed) for seed in range(4))


MATRIX = [
    (64, torch.bfloat16, True, False, False),
    (128, torch.bfloat16, True, False, False),
    (128, torch.float16, False, False, False),
    (128, torch.bfloat16, True, True, True),
]
SLOW_MATRIX = [
    pytest.param(head_dim, torch.bfloat16, True, has_softcap, has_alibi, marks=pytest.mark.slow)
    for head_dim in (64, 128)
    for has_softcap in (False, True)
    for has_alibi in (False, True)
    if (head_dim, torch.bfloat16, True, has_softcap, has_alibi) not in MATRIX
]


@pytest.mark.parametrize(
    ("head_dim", "dtype", "is_masked", "has_softcap", "has_alibi"), MATRIX + SLOW_MATRIX, ids=str
)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernel_compiles_without_spills_and_without_waits_between_products(
    head_dim, dtype, is_masked, has_softcap, has_alibi
) -> None:
    is_folded = not has_softcap and not has_alibi
    shape = attention_hopper.shape(head_dim, is_masked=is_masked, is_folded=is_folded)
    macros = attention_kernels.defines(shape, head_dim, dtype, has_softcap=has_softcap, has_alibi=has_alibi)
    binary = nvrtc.compile_source(attention_hopper.SOURCE, arch="sm_90a", defines=macros)
    needs = binary.resources()[attention_hopper.ENTRY]
    assert needs.spilled_bytes == 0
    # What each thread starts with; then the groups share 65536 out anew, or the compiler says that it ignored
    # them.
    assert needs.registers <= 65536 // shape.num_threads // 8 * 8
    assert not re.search(r"setmaxnreg|Potential Performance Loss", binary.log), binary.log
    assert shape.shared_bytes(head_dim) <= Target("sm_90a").shared_limit == 227 << 10


def test_the_kernel_is_for_heads_it_has_and_tensors_that_have_maps() -> None:
    problem = CASES["causal"].problem()
    out, lse = torch.empty_like(problem.q), torch.empty(2, len(problem.q))

    def entry(problem: Problem, target: Target) -> str:
        return problem.forward(out, lse, target=target)[0].entry

    assert entry(problem, TARGET) == attention_hopper.ENTRY
    for other in (SMALLEST, Target("sm_100a"), Target("sm_120")):
        assert entry(problem, other) == attention_kernels.FORWARD.entry
    shared = problem.k.expand(-1, 2, -1)
    assert shared.stride(1) == 0
    assert entry(replace(problem, k=shared, v=shared), TARGET) == attention_kernels.FORWARD.entry
    wide = Case(72, (2, 1), [4], [4]).problem()
    assert not attention_hopper.takes("sm_90a", wide.q, wide.k, wide.v)
    nothing = Case(64, (2, 1), [4], [0]).problem()
    assert not attention_hopper.takes("sm_90a", nothing.q, nothing.k, nothing.v)
