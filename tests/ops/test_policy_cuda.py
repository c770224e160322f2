"""The kernel of `cuda/policy_loss.cu`, compiled for GPUs and run on the CPU by `simulator`.

`tests/gpu/test_policy_loss.py` runs it where it belongs.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from mutants import mutant
from simulator import SimulationError, simulate

from tempa.align.policy_loss import POLICIES, Policy, policy_loss
from tempa.ops import nvrtc, policy_cuda
from tempa.ops.policy_cuda import DEFINES, SOURCE, THREADS

# None, one token, below, at and past what a block takes at once. Most start at no multiple of 16 bytes.
LENGTHS = [5, 0, 1, 31, THREADS - 1, THREADS, THREADS + 1, 300, 0]
MAX_TOKENS = 512
KL_COEF = 0.3
REGISTERS = 64  # of 65536: no limit to the warps of a multiprocessor
CASES = {
    **{name: POLICIES[name] for name in ("ppo", "dapo", "grpo", "gspo", "rloo")},
    "k2": Policy(adv="group", ratio="sequence", clip=(0.1, 0.3), mean="constant", kl=("loss", "k2")),
    "free sequences": Policy(adv="group", ratio="sequence", clip=None, mean="sequence", kl=("loss", "k3")),
}


def _draw(seed, lengths=LENGTHS):
    """Log-probabilities now, when sampled and under a reference, and advantages.

    Some ratios are past what is held, on both sides; some advantages are zero.
    """
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    logps, moved, apart, advantages = torch.randn(4, int(offsets[-1]), generator=generator)
    moved, apart = moved / 3, apart / 2
    moved[3::17], moved[5::19], apart[4::13], apart[9::23] = 25, -25, 30, -30
    advantages[::7] = 0
    return logps, logps - moved, advantages, logps - apart, offsets


def _expected(policy, logps, old, advantages, ref, offsets):
    """Terms and gradient in float64 by autograd."""
    leaf = logps.double().requires_grad_()
    others = old.double(), advantages.double(), offsets
    settings = {"policy": policy, "max_tokens": MAX_TOKENS, "kl_coef": KL_COEF}
    terms = policy_loss(leaf, *others, ref_logps=ref.double(), **settings)
    terms.total.backward()
    return terms, leaf.grad


def _settings(policy):
    has_kl = policy.kl is not None and policy.kl[0] == "loss"
    weight = {"token": 1.0, "sequence": 0.0, "constant": 1 / MAX_TOKENS}[policy.mean]
    kind = 2 if policy.kl == ("loss", "k2") else 3
    return has_kl, (policy.clip, policy.ratio == "sequence", weight, kind, KL_COEF)


def _simulated(source, policy, tensors, seed=0):
    logps, old, advantages, ref, offsets = tensors
    has_kl, (clip, is_sequence, weight, kind, kl_coef) = _settings(policy)
    losses = torch.full((len(offsets) - 1,), torch.nan)
    gradient, log_ratio, kl = (torch.full_like(logps, torch.nan) for _ in range(3))
    is_clipped = torch.zeros_like(logps, dtype=torch.bool)
    simulate(
        source,
        "policy_loss",
        *(losses, gradient, log_ratio, is_clipped, kl, logps, old, advantages, ref if has_kl else None),
        *(offsets, int(is_sequence), *policy_cuda.bounds_of(clip), weight, kind, kl_coef),
        grid=len(losses),
        block=THREADS,
        defines=DEFINES,
        seed=seed,
    )
    return losses, gradient, log_ratio, is_clipped, kl


def _check(source, policy, seed=0, lengths=LENGTHS):
    tensors = _draw(seed, lengths)
    losses, gradient, log_ratio, is_clipped, kl = _simulated(source, policy, tensors, seed)
    terms, expected = _expected(policy, *tensors)
    assert losses.isfinite().all()
    # exp(20) dwarfs the rest of a sum; a log-ratio of 20 is rounded to 1e-6, and so is its power.
    torch.testing.assert_close(losses.double().sum(), terms.total.detach(), rtol=5e-6, atol=1e-4)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_ratio.double(), terms.log_ratio, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kl.double(), terms.kl, rtol=1e-5, atol=1e-6)
    assert torch.equal(is_clipped, terms.is_clipped)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_the_simulated_loss_and_gradient_equal_those_of_align(name, seed) -> None:
    _check(SOURCE, CASES[name], seed)


@pytest.mark.parametrize("lengths", [[1], [0, 0], [3, 0, 1, 2] * 100], ids=["one", "none", "many"])
def test_few_and_many_responses(lengths) -> None:
    _check(SOURCE, CASES["gspo"], lengths=lengths)


def test_nan_is_not_held() -> None:
    logps, *others = _draw(0)
    logps[40] = torch.nan
    for name in ("dapo", "gspo", "grpo"):
        losses, gradient, *_ = _simulated(SOURCE, CASES[name], (logps, *others))
        assert losses.isnan().sum() == 1
        assert gradient[40].isnan()


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        ("is_clipped || fabsf(log_ratio) > MAX_LOG_RATIO", "is_clipped", "dapo"),
        ("held(ratio, low, high) * advantage", "held(ratio, low, low) * advantage", "dapo"),
        ("at < end; at += THREADS) mean", "at < end - 1; at += THREADS) mean", "gspo"),
        ("sum_over_block(shared_slope) / length", "sum_over_block(shared_slope)", "gspo"),
        ("__syncthreads();  // the parts of the sum before have been read", "", "gspo"),
        ("    __syncthreads();\n    value = 0;", "    value = 0;", "gspo"),
        ("if (!(fabsf(apart) > MAX_LOG_RATIO)) slope", "slope", "grpo"),
        ("falling + e;", "falling - e;", "grpo"),
        ("weight = 1 / length", "weight = 1", "grpo"),
    ],
)
def test_a_wrong_bound_sum_or_barrier_is_noticed(right, wrong, name, tmp_path) -> None:
    source = mutant(tmp_path, SOURCE, right, wrong)
    with pytest.raises((AssertionError, SimulationError)):
        _check(source, CASES[name], seed=1)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernel_compiles_within_its_budget(arch) -> None:
    (needs,) = nvrtc.compile_source(SOURCE, arch=arch, defines=DEFINES).resources().values()
    assert needs.spilled_bytes == 0
    assert 0 < needs.registers <= REGISTERS


@pytest.mark.parametrize("name", CASES)
def test_align_has_the_same_loss_and_gradient_by_the_operator(name, monkeypatch) -> None:
    """What runs on CUDA, with the CPU side of the operator in place of the kernel."""
    logps, old, advantages, ref, offsets = _draw(0)
    terms, gradient = _expected(CASES[name], logps, old, advantages, ref, offsets)
    monkeypatch.setattr(policy_cuda, "supports", lambda _: True)
    ours, gradient_of_ours = _expected(CASES[name], logps, old, advantages, ref, offsets)
    torch.testing.assert_close(gradient_of_ours, gradient)
    assert not any(tensor.requires_grad for tensor in (ours.log_ratio, ours.is_clipped, ours.kl))
    for field in dataclasses.fields(terms):
        torch.testing.assert_close(getattr(ours, field.name), getattr(terms, field.name))
    has_kl, settings = _settings(CASES[name])
    arguments = (logps.requires_grad_(), old, advantages, offsets, ref if has_kl else None, *settings)
    torch.library.opcheck(torch.ops.tempa.policy_loss.default, arguments)


def test_what_the_kernel_cannot_read_is_rejected() -> None:
    def launch(kl_kind=3, **changes):
        names = ("gradient", "log_ratio", "kl", "logps", "old_logps", "advantages")
        tensors = {name: torch.zeros(4) for name in names} | {
            "losses": torch.zeros(1),
            "is_clipped": torch.zeros(4, dtype=torch.bool),
            "offsets": torch.tensor([0, 4]),
            "ref_logps": None,
        }
        policy_cuda.loss_into(
            **(tensors | changes), clip=None, sequence=False, weight=1.0, kl_kind=kl_kind, kl_coef=0.0
        )

    with pytest.raises(ValueError, match=r"expected 4 numbers in one piece, got \(3,\)"):
        launch(old_logps=torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected 4 numbers in one piece, got \(4,\)"):
        launch(ref_logps=torch.zeros(8)[::2])
    with pytest.raises(ValueError, match=r"expected 1 numbers in one piece, got \(2,\)"):
        launch(losses=torch.zeros(2))
    with pytest.raises(ValueError, match=r"expected torch.float32 on cpu, but got torch.float64"):
        launch(advantages=torch.zeros(4).double())
    with pytest.raises(ValueError, match=r"expected torch.int64 on cpu, but got torch.int32"):
        launch(offsets=torch.tensor([0, 4]).int())
    with pytest.raises(ValueError, match="the estimate of the divergence is 2 or 3, got 1"):
        launch(kl_kind=1)
