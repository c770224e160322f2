"""Losses from hidden states on the device, against the float64 reference and beside torch."""

from __future__ import annotations

import pytest
import torch

from tempa import ops
from tempa.ops import reference
from tempa.ops.calls import Target
from tempa.ops.linear_loss_cuda import gradient_call, lse_call

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def _draw(num_tokens, num_words, width, dtype):
    generator = torch.Generator("cuda").manual_seed(width)
    hidden = torch.randn(num_tokens, width, generator=generator, device="cuda").to(dtype)
    weight = torch.randn(num_words, width, generator=generator, device="cuda") / width**0.25
    targets = torch.randint(0, num_words, (num_tokens,), generator=generator, device="cuda")
    return hidden.requires_grad_(), weight.to(dtype).requires_grad_(), targets


def _unfused(hidden, weight, targets, temperature, softcap):
    logits = ops.softcap((hidden @ weight.T).float(), softcap) / temperature
    return logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (0.7, 15.0)])
@pytest.mark.parametrize(
    ("num_tokens", "num_words", "width"),
    [(1, 9, 8), (150, 300, 40), (129, 1000, 768), (1000, 5003, 256), (2, 70000, 64)],
)
def test_values_and_gradients_are_as_near_to_float64_as_torch(
    num_tokens, num_words, width, temperature, softcap, dtype
) -> None:
    hidden, weight, targets = _draw(num_tokens, num_words, width, dtype)
    upstream = torch.randn(num_tokens, device="cuda")
    wide = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    results = []
    for out, leaves in (
        (torch.ops.tempa.linear_logp(hidden, weight, targets, temperature, softcap)[0], (hidden, weight)),
        (_unfused(hidden, weight, targets, temperature, softcap), (hidden, weight)),
        (reference.logp(*wide, targets, temperature, softcap), wide),
    ):
        results.append((out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out.dtype))))
    for mine, theirs, exact in zip(*results, strict=True):
        assert mine.isfinite().all()
        assert (mine - exact).norm() <= 2 * (theirs - exact).norm()


def test_poisoned_outputs_are_all_written_and_results_repeat_bit_for_bit() -> None:
    hidden, weight, targets = (t.detach() for t in _draw(300, 1001, 128, torch.bfloat16))
    target, runs = Target.of(hidden.device), []
    for _ in range(2):
        parts, logits = (torch.full(s, torch.nan, device="cuda") for s in ((3, 300), (300,)))
        lse_call(parts, logits, hidden, weight, targets, target=target).launch(hidden.device)
        gradient = torch.full((300, 504), torch.nan, device="cuda", dtype=torch.bfloat16)
        upstream, lse = torch.ones_like(logits), parts.logsumexp(0)
        inputs = (gradient, hidden, weight, targets, upstream, lse, range(500, 1001))
        gradient_call(*inputs, target=target).launch(hidden.device)
        runs.append((parts, logits, gradient))
    assert all(tensor.isfinite().all() for tensor in runs[0])
    assert not runs[0][2][:, 501:].any()
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


def test_the_logits_are_never_stored() -> None:
    hidden, weight, targets = _draw(4096, 131072, 256, torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    weights = torch.ones(4096, device="cuda")
    loss, _ = ops.linear_cross_entropy(hidden, weight, targets, weights)
    loss.backward()
    # Unfused, float32 logits and their gradient are 4 GiB.
    assert torch.cuda.max_memory_allocated() - before < (4 << 30) // 10
