"""A training step waits for the device where it must, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tempa.data.packed import Packed
from tempa.model import ModelConfig, Transformer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def _step(model: Transformer, batch: Packed) -> None:
    with torch.autocast("cuda", torch.bfloat16):
        total, weight = model.loss(batch.to("cuda"))
    torch.autograd.backward(total / weight)


def test_nothing_waits_between_the_batch_and_its_gradients() -> None:
    model = Transformer(ModelConfig.preset("85m", 50, depth=2, width=128, num_heads=2)).to("cuda")
    rows = [np.arange(length) % 50 for length in (5, 40, 17)]
    # Of the second one token only is trained.
    masks = [np.ones(5), np.arange(40) == 30, np.ones(17)]
    batch = Packed.from_rows(rows, masks)
    # Compiles the kernels, and makes what is made once.
    _step(model, batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _step(model, Packed.from_rows(rows, masks))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
