"""AdamW on the device against the reference and torch's own."""

from __future__ import annotations

import pytest
import torch

from tempa.model import ModelConfig, Transformer
from tempa.ops import reference
from tempa.train.adamw import AdamW
from tempa.train.optim import Optimizer
from tempa.train.settings import TrainConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
SETTINGS = {"lr": 3e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_of_many_tensors_equal_the_reference(dtype) -> None:
    shapes = [(1,), (7,), (0, 3), (768, 3072), (16384,), (16385,), (50304, 64)]
    generator = torch.Generator("cuda").manual_seed(0)
    parameters, means, squares = (
        [torch.zeros(s, device="cuda", dtype=kind) for s in shapes]
        for kind in (dtype, torch.float32, torch.float32)
    )
    gradients = [[] for _ in shapes]
    for parameter in parameters:
        parameter.normal_(generator=generator)
    before = [parameter.double() for parameter in parameters]
    for step in range(1, 4):
        new = [torch.randn(s, generator=generator, device="cuda").to(dtype) for s in shapes]
        for history, gradient in zip(gradients, new, strict=True):
            history.append(gradient.double())
        torch.ops.tempa.adamw_(parameters, new, means, squares, step, *SETTINGS.values())
    tolerance = 3 * (2**-8 if dtype == torch.bfloat16 else 4e-7)
    for parameter, start, history in zip(parameters, before, gradients, strict=True):
        expected = reference.adamw(start, history, **SETTINGS)
        torch.testing.assert_close(parameter.double(), expected, rtol=tolerance, atol=tolerance)


def _train(model: Transformer, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        optimizer.step(1 / (step + 1))


def test_a_resumed_optimizer_equals_an_uninterrupted_one_and_that_of_the_cpu() -> None:
    config, shape = TrainConfig(optimizer="adamw"), ModelConfig(vocab_size=11, depth=2, width=8, num_heads=2)
    on_cpu, straight, first, second = (Transformer(shape).to(d) for d in ("cpu", "cuda", "cuda", "cuda"))
    optimizers = [Optimizer([("", model)], config) for model in (on_cpu, straight, first, second)]
    assert AdamW.supports(straight.parameters())
    _train(on_cpu, optimizers[0], range(6))
    _train(straight, optimizers[1], range(6))
    _train(first, optimizers[2], range(3))
    second.load_state_dict(first.state_dict())
    optimizers[3].load_state({name: tensor.cpu() for name, tensor in optimizers[2].state().items()})
    _train(second, optimizers[3], range(3, 6))
    for p, q, r in zip(on_cpu.parameters(), straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(q, r)
        torch.testing.assert_close(q.cpu(), p, rtol=1e-5, atol=1e-6)
