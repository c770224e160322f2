"""The kernel of `cuda/scan.cu`, compiled for GPUs and run on the CPU by `simulator`.

`tests/gpu/test_scan.py` runs it where it belongs.
"""

from __future__ import annotations

import pytest
import torch
from mutants import mutant
from simulator import SimulationError, simulate

from tempa.align.advantages import gae, reward_to_go
from tempa.ops import nvrtc, reference, scan_cuda
from tempa.ops.scan_cuda import SOURCE, STEPS, WARPS

# None, one token, a step and its neighbours, all steps at a time and their neighbours, many; more responses
# than a block takes. Most start at no multiple of 16 bytes.
AT_ONCE = 32 * STEPS
LENGTHS = [5, 0, 1, 31, 32, 33, 0, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 1000]
REGISTERS = 64  # of 65536: no limit to the warps of a multiprocessor
# float32 sums of up to 1000 terms of order 1, where the CPU's are float64.
CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def _draw(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    rewards, values = torch.randn(2, int(offsets[-1]), generator=generator)
    return rewards, values, torch.randn(len(lengths), generator=generator), offsets


def _simulated(source, rewards, values, last_values, offsets, gamma, lam, seed=0):
    sums = torch.full_like(rewards, torch.nan)
    returns = None if values is None else torch.full_like(rewards, torch.nan)
    simulate(
        source,
        "discounted_sums",
        *(sums, returns, rewards, values, last_values, offsets),
        len(offsets) - 1,
        gamma,
        gamma * lam,
        grid=-(-(len(offsets) - 1) // WARPS),
        block=WARPS * 32,
        defines=scan_cuda.defines(has_values=values is not None),
        seed=seed,
    )
    return sums, returns


def _check(source, gamma, lam, lengths=LENGTHS, seed=0):
    rewards, values, last, offsets = _draw(lengths, seed)
    sums, _ = _simulated(source, rewards, None, None, offsets, gamma, 1.0, seed)
    expected = reference.discounted_sums(rewards.double(), offsets, gamma)
    torch.testing.assert_close(sums.double(), expected, **CLOSE)
    torch.testing.assert_close(sums, reward_to_go(rewards, offsets, gamma=gamma), **CLOSE)
    for last_values in (last, None):
        ours = _simulated(source, rewards, values, last_values, offsets, gamma, lam, seed)
        theirs = gae(rewards, values, offsets, gamma=gamma, lam=lam, last_values=last_values)
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.99, 0.95), (1.0, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("seed", range(2))
def test_simulated_sums_equal_the_reference_and_those_of_the_cpu(gamma, lam, seed) -> None:
    _check(SOURCE, gamma, lam, seed=seed)


@pytest.mark.parametrize("lengths", [[1], [0, 0], [3, 0, 1, 2] * 500], ids=["one", "none", "thousands"])
def test_simulated_sums_of_few_and_many_responses_equal_those_of_the_cpu(lengths) -> None:
    _check(SOURCE, 0.99, 0.95, lengths)


def test_a_response_has_the_same_sums_in_any_company() -> None:
    rewards, values, last, offsets = _draw(LENGTHS, 0)
    together = _simulated(SOURCE, rewards, values, last, offsets, 0.99, 0.95)
    start = int(offsets[-2])
    alone = _simulated(
        SOURCE, rewards[start:], values[start:], last[-1:], torch.tensor([0, LENGTHS[-1]]), 0.99, 0.95
    )
    assert all(torch.equal(many[start:], one) for many, one in zip(together, alone, strict=True))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("at + 1 < end ? values[at + 1]", "at + 1 <= end ? values[at + 1]"),
        ("i < lane; ++i) lane_decay", "i < lane - 1; ++i) lane_decay"),
        ("lane >= distance", "lane > distance"),
        ("__shfl_sync(ALL_LANES, sum[step], 31)", "__shfl_sync(ALL_LANES, sum[step], 30)"),
        ("if (at >= first)", "if (at > first)"),
        ("last -= 32 * STEPS", "last -= 31 * STEPS"),
    ],
)
def test_a_wrong_end_or_step_is_noticed(right, wrong, tmp_path) -> None:
    source = mutant(tmp_path, SOURCE, right, wrong)
    with pytest.raises((AssertionError, SimulationError)):
        _check(source, 0.99, 0.95)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize("has_values", [False, True])
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernel_compiles_within_its_budget(arch, has_values) -> None:
    binary = nvrtc.compile_source(SOURCE, arch=arch, defines=scan_cuda.defines(has_values=has_values))
    (needs,) = binary.resources().values()
    assert needs.spilled_bytes == 0
    assert 0 < needs.registers <= REGISTERS


def test_the_operator_passes_opcheck_and_has_no_gradient() -> None:
    rewards, values, last, offsets = _draw(LENGTHS, 0)
    operator = torch.ops.tempa.discounted_sums.default
    for arguments in ((rewards, None, None), (rewards, values, None), (rewards, values, last)):
        torch.library.opcheck(operator, (*arguments, offsets, 0.9, 0.8))
    advantages, _ = gae(rewards, values.requires_grad_(), offsets)
    assert not advantages.requires_grad


def test_what_the_kernel_cannot_read_is_rejected() -> None:
    x, offsets = torch.zeros(4), torch.tensor([0, 4])
    scale = {"gamma": 1.0, "lam": 1.0}
    with pytest.raises(ValueError, match="returns and last values come with values only"):
        scan_cuda.sums_into(x, None, x, None, torch.zeros(1), offsets, **scale)
    with pytest.raises(ValueError, match=r"expected torch.int64 on cpu, but got torch.int32"):
        scan_cuda.sums_into(x, None, x, None, None, offsets.int(), **scale)
    with pytest.raises(ValueError, match=r"expected n \+ 1 offsets in one piece, got \(0,\)"):
        scan_cuda.sums_into(x, None, x, None, None, offsets[:0], **scale)
    with pytest.raises(ValueError, match=r"expected 4 numbers in one piece, got \(3,\)"):
        scan_cuda.sums_into(x[:3], None, x, None, None, offsets, **scale)
    with pytest.raises(ValueError, match=r"expected 4 numbers in one piece, got \(4,\)"):
        scan_cuda.sums_into(torch.zeros(8)[::2], None, x, None, None, offsets, **scale)
    with pytest.raises(ValueError, match=r"expected torch.float32 on cpu, but got torch.float64"):
        scan_cuda.sums_into(x, x, x, x.double(), None, offsets, **scale)
