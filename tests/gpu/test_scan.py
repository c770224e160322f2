"""Discounted sums on the device against those of the CPU, with poisoned outputs."""

from __future__ import annotations

import pytest
import torch

from tempa.align.advantages import gae, reward_to_go
from tempa.ops import scan_cuda

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.99, 0.95), (1.0, 0.0)])
@pytest.mark.parametrize(
    "lengths", [[1], [0, 0], [5, 0, 31, 32, 33, 4000], [7] * 1000], ids=["one", "none", "long", "many"]
)
def test_sums_equal_those_of_the_cpu(lengths, gamma, lam) -> None:
    generator = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    rewards, values = torch.randn(2, int(offsets[-1]), generator=generator)
    last = torch.randn(len(lengths), generator=generator)
    on_device = [tensor.cuda() for tensor in (rewards, values, last, offsets)]
    sums, returns = (torch.full_like(on_device[0], torch.nan) for _ in range(2))
    scan_cuda.sums_into(sums, returns, *on_device, gamma=gamma, lam=lam)
    expected = gae(rewards, values, offsets, gamma=gamma, lam=lam, last_values=last)
    # float32 sums of up to 4000 terms.
    torch.testing.assert_close((sums.cpu(), returns.cpu()), expected, rtol=1e-4, atol=1e-4)
    ours = reward_to_go(on_device[0], on_device[3], gamma=gamma)
    assert ours.device.type == "cuda"
    torch.testing.assert_close(ours.cpu(), reward_to_go(rewards, offsets, gamma=gamma), rtol=1e-4, atol=1e-3)
