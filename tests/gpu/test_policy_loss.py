"""The policy loss on the device against that of the CPU, with poisoned outputs."""

from __future__ import annotations

import pytest
import torch

from tempa.align.policy_loss import POLICIES, policy_loss
from tempa.ops import policy_cuda

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
LENGTHS = {"one": [1], "none": [0, 0], "long": [5, 0, 31, 129, 5000], "many": [7] * 3000}


def _draw(lengths):
    generator = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    logps, moved, apart, advantages = torch.randn(4, int(offsets[-1]), generator=generator)
    return logps, logps - moved / 3, advantages, offsets, logps - apart / 2


@pytest.mark.parametrize("name", ["dapo", "grpo", "gspo", "rloo", "ppo"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_loss_and_gradient_equal_those_of_the_cpu(lengths, name) -> None:
    results = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        logps, old, advantages, offsets, ref = (
            tensor.to(device, dtype if tensor.is_floating_point() else None) for tensor in _draw(lengths)
        )
        settings = {"policy": POLICIES[name], "max_tokens": 512, "ref_logps": ref, "kl_coef": 0.3}
        terms = policy_loss(logps.requires_grad_(), old, advantages, offsets, **settings)
        terms.total.backward()
        parts = (terms.total.detach(), logps.grad, terms.log_ratio, terms.kl)
        results.append([*(part.double().cpu() for part in parts), terms.is_clipped.cpu()])
    for ours, theirs in zip(results[1], results[0], strict=True):
        # float32 sums of up to 21000 terms.
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_every_output_is_written() -> None:
    logps, old, advantages, offsets, ref = (tensor.cuda() for tensor in _draw(LENGTHS["long"]))
    outputs = [torch.full_like(logps, torch.nan) for _ in range(3)]
    losses, is_clipped = logps.new_full((5,), torch.nan), torch.ones_like(logps, dtype=torch.bool)
    gradient, log_ratio, kl = outputs
    policy_cuda.loss_into(
        *(losses, gradient, log_ratio, is_clipped, kl, logps, old, advantages, offsets, ref),
        clip=None,
        sequence=True,
        weight=0.0,
        kl_kind=2,
        kl_coef=0.1,
    )
    assert all(output.isfinite().all() for output in (*outputs, losses))
    assert losses[1] == 0
    assert not is_clipped.any()


def test_results_repeat_bit_for_bit() -> None:
    tensors = [tensor.cuda() for tensor in _draw(LENGTHS["long"])]
    runs = [torch.ops.tempa.policy_loss(*tensors, [0.2, 0.2], True, 0.0, 3, 0.1) for _ in range(3)]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))
