"""AdamW on the device against the reference and torch's own."""

from __future__ import annotations

import pytest
import torch

from tempa.ops import reference

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
