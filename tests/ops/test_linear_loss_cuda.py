"""The kernels of `cuda/linear_loss.cu`, compiled for GPUs and run on the CPU by `simulator`.

`tests/gpu/test_linear_loss.py` runs them where they belong.
"""

from __future__ import annotations

import pytest
import torch
from mutants import mutant
from simulator import SimulationError, simulate

from tempa.ops import linear_logp, linear_loss_cuda, nvrtc, reference
from tempa.ops.linear_loss_cuda import SOURCE, THREADS, TOKENS, WORDS, padded, words_of_split

REGISTERS = 128  # of 65536, so that two blocks of 256 threads share a multiprocessor


def _draw(num_tokens, num_words, width, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, width, generator=generator).to(dtype)
    weight = (torch.randn(num_words, width, generator=generator) / width**0.25).to(dtype)
    targets = torch.randint(0, num_words, (num_tokens,), generator=generator)
    return hidden, weight, targets


def _forward(source, hidden, weight, targets, splits, temperature=1.0, softcap=None, **order):
    """(log-probabilities, lse) by the kernel."""
    (T, D), V = hidden.shape, len(weight)
    parts, target_logits = torch.full((splits, T), torch.nan), torch.full((T,), torch.nan)
    simulate(
        source,
        "linear_lse",
        *(parts, target_logits, hidden, weight, targets),
        *(T, V, D, words_of_split(V, splits)),
        *linear_loss_cuda._scale(temperature, softcap),
        grid=-(-T // TOKENS) * splits,
        block=THREADS,
        defines=linear_loss_cuda.defines(hidden.dtype, capped=softcap is not None),
        **order,
    )
    lse = parts.logsumexp(0)
    return target_logits - lse, lse


def _gradient(source, hidden, weight, targets, upstream, lse, words, temperature=1.0, softcap=None, **order):
    """(T, words) gradient of the products, by the kernel."""
    (T, D), stride = hidden.shape, padded(len(words), hidden.dtype)
    gradient = torch.full((T, stride), torch.nan, dtype=hidden.dtype)
    simulate(
        source,
        "linear_gradient",
        *(gradient, hidden, weight, targets, upstream, lse),
        *(T, words.start, words.stop, D, stride),
        *linear_loss_cuda._scale(temperature, softcap),
        grid=-(-T // TOKENS) * -(-len(words) // WORDS),
        block=THREADS,
        defines=linear_loss_cuda.defines(hidden.dtype, capped=softcap is not None),
        **order,
    )
    assert not gradient[:, len(words) :].any()
    return gradient[:, : len(words)]


def _check(source, num_tokens, num_words, width, dtype, splits, temperature, softcap, seed=0, **order):
    """The kernels against float64, and against torch in their own dtype."""
    hidden, weight, targets = _draw(num_tokens, num_words, width, dtype, seed)
    upstream = torch.randn(num_tokens, generator=torch.Generator().manual_seed(seed))
    scale = {"temperature": temperature, "softcap": softcap}
    logps, lse = _forward(source, hidden, weight, targets, splits, **scale, **order, seed=seed)
    # In two ranges, as the operator goes through the words.
    cut = num_words // 2
    inputs = (hidden, weight, targets, upstream, lse)
    gradient = torch.cat(
        [
            _gradient(source, *inputs, words, **scale, **order, seed=seed)
            for words in (range(cut), range(cut, num_words))
        ],
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
CASES = [
    (150, 300, 40, torch.bfloat16, 2, 1.0, None),
    (3, 517, 104, torch.bfloat16, 4, 0.7, 5.0),
    (1, 9, 8, torch.float16, 1, 1.0, None),
    (130, 128, 64, torch.float16, 1, 2.0, 3.0),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("seed", "timing"), [(0, "mixed"), (1, "late"), (2, "early")])
def test_the_simulated_kernels_are_as_near_to_float64_as_torch(case, seed, timing) -> None:
    _check(SOURCE, *case, seed=seed, timing=timing)


def test_a_split_without_words_adds_nothing() -> None:
    inputs = _draw(5, 130, 16, torch.bfloat16)
    parts = [_forward(SOURCE, *inputs, splits)[1] for splits in (1, 2, 5)]
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
    source = mutant(tmp_path, SOURCE, right, wrong)
    with pytest.raises((AssertionError, SimulationError)):
        _check(source, *CASES[0])


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernels_compile_within_their_budget(arch, capped) -> None:
    defines = linear_loss_cuda.defines(torch.bfloat16, capped=capped)
    resources = nvrtc.compile_source(SOURCE, arch=arch, defines=defines).resources()
    assert set(resources) == {"linear_lse", "linear_gradient"}
    for entry, needs in resources.items():
        assert needs.spilled_bytes == 0, entry
        assert 0 < needs.registers <= REGISTERS, entry
        assert needs.shared_bytes == 48 << 10


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
    parts, logits = torch.empty(1, 4), torch.empty(4)
    with pytest.raises(ValueError, match=r"bfloat16 or float16 is needed, got torch\.float32"):
        linear_loss_cuda.lse_into(parts, logits, hidden.float(), weight.float(), targets)
    with pytest.raises(ValueError, match="rows of 12 elements are not whole packs of 16 bytes"):
        linear_loss_cuda.lse_into(parts, logits, hidden[:, :12].clone(), weight[:, :12].clone(), targets)
    with pytest.raises(ValueError, match=r"do not fit: \[\(4, 16\), \(9, 16\), \(3,\)\]"):
        linear_loss_cuda.lse_into(parts, logits, hidden, weight, targets[:3])
    with pytest.raises(ValueError, match=r"expected torch.int64 on cpu, but got torch.int32"):
        linear_loss_cuda.lse_into(parts, logits, hidden, weight, targets.int())
    with pytest.raises(ValueError, match=r"expected numbers of shape \(1, 4\) in one piece, got \(1, 3\)"):
        linear_loss_cuda.lse_into(parts[:, :3], logits, hidden, weight, targets)
    words = torch.empty(4, 9, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"expected a gradient of shape \(4, 16\) for range\(0, 9\)"):
        linear_loss_cuda.gradient_into(words, hidden, weight, targets, logits, logits, range(9))
