"""Attention to a paged cache on the device: the simulator's tests again, then whole batches."""

from __future__ import annotations

import pytest
import test_paged_cuda
import torch
from test_paged_cuda import (  # noqa: F401 - collected here too
    Case,
    test_splits_without_keys_and_places_without_work_change_nothing,
    test_the_simulated_kernel_is_as_near_to_the_reference_as_torch,
)

from tempa import ops
from tempa.ops import paged_cuda
from tempa.ops.attention import paged_by_gather

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(autouse=True)
def _device(on_device) -> None:
    on_device(test_paged_cuda)


# Splits of one sequence, many sequences, chunks, and both kinds in one batch.
BATCHES = {
    "one": Case((5000,), (1,), heads=(32, 8), head_dim=128),
    "many": Case(tuple(range(100, 1000, 7)), (1,) * 129, heads=(16, 4), head_dim=64),
    "chunks": Case((600, 300, 40), (300, 1, 40), heads=(8, 8), head_dim=128, window=200),
}


def _attended(
    name: str, dtype: torch.dtype, cache_dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, ...]:
    case = BATCHES[name]
    batch = {key: tensor.cuda() for key, tensor in test_paged_cuda._batch(case).items()}
    # torch multiplies what is masked by zero, and follows every entry.
    tables = batch["tables"].clamp(min=0)
    pools = [batch[key].nan_to_num().to(cache_dtype or dtype) for key in ("keys", "values")]
    spec = ops.AttentionSpec.paged(
        tables,
        batch["lengths"],
        torch.zeros(len(batch["q"]), dtype=torch.int64, device="cuda"),
        block_size=case.block_size,
        starts=batch["starts"].cpu().numpy(),
        window=case.window,
    )
    q, cache = batch["q"].to(dtype), ops.LayerCache(*pools)
    exact = paged_by_gather(q.double(), spec, ops.LayerCache(*(pool.double() for pool in pools)))
    return paged_cuda.attend(q, spec, cache), paged_by_gather(q, spec, cache), exact


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", BATCHES)
def test_whole_batches_equal_the_reference(name: str, dtype: torch.dtype) -> None:
    ours, torchs, exact = _attended(name, dtype)
    assert (ours - exact).norm() <= 2 * (torchs - exact).norm()


def test_results_repeat_bit_for_bit() -> None:
    first, second = (_attended("one", torch.bfloat16)[0] for _ in range(2))
    assert torch.equal(first, second)
