"""The kernels of `cuda/linear_loss*.cu`, compiled for GPUs and run on the CPU by `simulator`.

`tests/gpu/test_linear_loss.py` runs them where they belong.
"""

from __future__ import annotations

import functools

import pytest
import torch
from mutants import mutant
from simulator import SimulationError, simulate

from tempa.ops import linear_logp, linear_loss_cuda, nvrtc, reference
from tempa.ops.calls import Target
from tempa.ops.linear_loss_cuda import AMPERE, HOPPER, Family, padded

# Few enough blocks for each to have several tiles.
TARGETS = [Target("sm_80", 1), Target("sm_90a", 3)]


def _draw(num_tokens, num_words, width, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, width, generator=generator).to(dtype)
    weight = (torch.randn(num_words, width, generator=generator) / width**0.25).to(dtype)
    targets = torch.randint(0, num_words, (num_tokens,), generator=generator)
    return hidden, weight, targets


def _forward(target, hidden, weight, targets, splits, source=None, scale=None, **order):
    """(log-probabilities, lse) by the kernel."""
    T = len(hidden)
    parts, target_logits = torch.full((splits, T), torch.nan), torch.full((T,), torch.nan)
    inputs = (parts, target_logits, hidden, weight, targets)
    _run(linear_loss_cuda.lse_call(*inputs, target=target, **scale or {}), source, **order)
    lse = parts.logsumexp(0)
    return target_logits - lse, lse


def _gradient(target, hidden, weight, targets, upstream, lse, words, source=None, scale=None, **order):
    """(T, words) gradient of the products, by the kernel."""
    stride = padded(len(words), hidden.dtype)
    gradient = torch.full((len(hidden), stride), torch.nan, dtype=hidden.dtype)
    inputs = (gradient, hidden, weight, targets, upstream, lse, words)
    _run(linear_loss_cuda.gradient_call(*inputs, target=target, **scale or {}), source, **order)
    assert not gradient[:, len(words) :].any()
    return gradient[:, : len(words)]


def _run(call, source, **order):
    simulate(
        source or call.source,
        call.entry,
        *call.arguments,
        grid=call.grid,
        block=call.num_threads,
        shared_bytes=call.shared_bytes,
        defines=dict(call.defines),
        **order,
    )


def _check(target, num_tokens, num_words, width, dtype, splits, temperature, softcap, seed=0, **order):
    """The kernels against float64, and against torch in their own dtype."""
    hidden, weight, targets = _draw(num_tokens, num_words, width, dtype, seed)
    upstream = torch.randn(num_tokens, generator=torch.Generator().manual_seed(seed))
    scale = {"temperature": temperature, "softcap": softcap}
    order |= {"seed": seed, "scale": scale}
    logps, lse = _forward(target, hidden, weight, targets, splits, **order)
    # In two ranges, as the operator goes through the words.
    cut = num_words // 2
    inputs = (hidden, weight, targets, upstream, lse)
    gradient = torch.cat(
        [_gradient(target, *inputs, words, **order) for words in (range(cut), range(cut, num_words))],
        dim=1,
    )

    def by_autograd(function, dtype):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight)]
        out = function(*leaves, targets, **scale)
        return out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out.dtype))

    expected = by_autograd(reference.logp, torch.float64)
    by_torch = by_autograd(linear_logp, dtype)
    ours = (logps, gradient @ weight, gradient.T @ hidden)
    for mine, theirs, exact in zip(ours, by_torch, expected, strict=True):
        assert mine.isfinite().all()
        error, limit = ((result - exact).norm() for result in (mine, theirs))
        assert error <= 2 * limit, f"{float(error)} is more than twice {float(limit)}"


# Sizes that end inside a tile of tokens, of words and of columns; more splits than have words; one token.
# The last has more tiles than stages.
CASES = [
    (150, 300, 40, torch.bfloat16, 2, 1.0, None),
    (3, 517, 104, torch.bfloat16, 4, 0.7, 5.0),
    (1, 9, 8, torch.float16, 1, 1.0, None),
    (130, 128, 64, torch.float16, 1, 2.0, 3.0),
    (70, 1300, 104, torch.bfloat16, 1, 1.0, None),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.arch)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("seed", "timing"), [(0, "mixed"), (1, "late"), (2, "early")])
def test_the_simulated_kernels_are_as_near_to_float64_as_torch(target, case, seed, timing) -> None:
    _check(target, *case, seed=seed, timing=timing)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.arch)
def test_a_split_without_words_adds_nothing(target) -> None:
    inputs = _draw(5, 300, 16, torch.bfloat16)
    parts = [_forward(target, *inputs, splits)[1] for splits in (1, 2, 5)]
    torch.testing.assert_close(parts[1], parts[0])
    torch.testing.assert_close(parts[2], parts[0])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("copy_async_wait<STAGES - 2>();", ""),
        ("__syncthreads();  // the stage is there for all, and the one before it is no longer read", ""),
        ("word < last_word ? logit : -infinity()", "logit"),
        ("first + row < last && at < depth", "first + row < last"),
    ],
)
def test_a_dropped_wait_or_mask_is_noticed(right, wrong, tmp_path) -> None:
    source = mutant(tmp_path, AMPERE.source, right, wrong)
    with pytest.raises((AssertionError, SimulationError)):
        _check(TARGETS[0], *CASES[0], source=source)


@pytest.mark.parametrize(
    ("right", "wrong", "timing", "case"),
    [
        ("mbarrier_wait(shared.full[stage.index], stage.parity);", "", "late", 4),
        ("mbarrier_wait(shared.empty[stage.index], stage.parity ^ 1);", "", "mixed", 4),
        ("wgmma_wait<1>();", "", "late", 4),
        ("wgmma_wait<0>();", "", "late", 4),
        (
            "column_of(i) < num_columns ? scale.logit(tile[i]) : -infinity()",
            "scale.logit(tile[i])",
            "mixed",
            1,
        ),
        ("column + k > 0", "k > 0", "mixed", 4),
        ("- first_column_of_thread();\n    return column", ";\n    return column", "mixed", 1),
    ],
)
def test_a_dropped_wait_or_mask_is_noticed_on_hopper(right, wrong, timing, case, tmp_path) -> None:
    source = mutant(tmp_path, HOPPER.source, right, wrong)
    with pytest.raises((AssertionError, SimulationError)):
        _check(TARGETS[1], *CASES[case], source=source, timing=timing)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize("family", [AMPERE, HOPPER], ids=lambda family: family.source)
@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernels_compile_within_their_budget(arch, family, capped) -> None:
    if family is HOPPER and arch != "sm_90a":
        with pytest.raises(nvrtc.KernelCompileError):
            nvrtc.compile_source(family.source, arch=arch, defines={"ELEMENT": "bf16", "CAPPED": 0})
        return
    defines = linear_loss_cuda.defines(torch.bfloat16, capped=capped)
    binary = nvrtc.compile_source(family.source, arch=arch, defines=defines)
    # What the assembler says if it waits for products where the source does not, or gives no registers away.
    assert "C75" not in binary.log
    assert set(binary.resources()) == {f"linear_{name}{family.suffix}" for name in ("lse", "gradient")}
    for entry, needs in binary.resources().items():
        assert needs.spilled_bytes == 0, entry
        # Of 65536, in units of 8.
        assert 0 < needs.registers <= 65536 // (family.resident * family.num_threads) // 8 * 8, entry
        assert needs.shared_bytes == (0 if family is HOPPER else 48 << 10)


def test_a_device_runs_its_kernels_and_they_fit_it() -> None:
    assert {Family.of(arch).source for arch in ("sm_80", "sm_90", "sm_100a", "sm_120")} == {AMPERE.source}
    assert Family.of("sm_90a") is HOPPER
    assert HOPPER.shared_bytes <= Target("sm_90a").shared_limit


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_operator_passes_opcheck_and_has_the_gradient_of_the_reference(softcap) -> None:
    hidden, weight, targets = _draw(5, 11, 8, torch.float64)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    torch.library.opcheck(torch.ops.tempa.linear_logp.default, (*leaves, targets, 0.7, softcap))
    ours, lse = torch.ops.tempa.linear_logp(*leaves, targets, 0.7, softcap)
    theirs = reference.logp(*leaves, targets, 0.7, softcap)
    torch.testing.assert_close(ours, theirs)
    assert not lse.requires_grad
    torch.testing.assert_close(
        torch.autograd.grad(ours.sin().sum(), leaves), torch.autograd.grad(theirs.sin().sum(), leaves)
    )


def test_what_the_kernels_cannot_read_is_rejected() -> None:
    hidden, weight, targets = _draw(4, 9, 16, torch.bfloat16)
    parts, logits, target = torch.empty(1, 4), torch.empty(4), TARGETS[0]
    lse_call = functools.partial(linear_loss_cuda.lse_call, target=target)
    with pytest.raises(ValueError, match=r"bfloat16 or float16 is needed, got torch\.float32"):
        lse_call(parts, logits, hidden.float(), weight.float(), targets)
    with pytest.raises(ValueError, match="rows of 12 elements are not whole packs of 16 bytes"):
        lse_call(parts, logits, hidden[:, :12].clone(), weight[:, :12].clone(), targets)
    with pytest.raises(ValueError, match=r"do not fit: \[\(4, 16\), \(9, 16\), \(3,\)\]"):
        lse_call(parts, logits, hidden, weight, targets[:3])
    with pytest.raises(ValueError, match=r"expected torch.int64 on cpu, but got torch.int32"):
        lse_call(parts, logits, hidden, weight, targets.int())
    with pytest.raises(ValueError, match=r"expected numbers of shape \(1, 4\) in one piece, got \(1, 3\)"):
        lse_call(parts[:, :3], logits, hidden, weight, targets)
    words = torch.empty(4, 9, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"expected a gradient of shape \(4, 16\) for range\(0, 9\)"):
        linear_loss_cuda.gradient_call(
            words, hidden, weight, targets, logits, logits, range(9), target=target
        )
