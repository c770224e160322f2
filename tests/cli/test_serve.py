"""How `tempa serve` keeps a model; the server itself is tested in tests/serve."""

from __future__ import annotations

import pytest
import torch

from tempa.cli.serve import _convert
from tempa.model import ModelConfig, Transformer


def _model(device: str) -> Transformer:
    return Transformer(ModelConfig(vocab_size=11, depth=1, width=8, num_heads=1)).to(device)


@pytest.mark.parametrize(
    ("device", "weights", "dtype", "left"),
    [
        ("cpu", "auto", torch.float32, "auto"),
        ("cpu", "int8", torch.float32, "int8"),
        # Any device that is not the CPU.
        ("meta", "auto", torch.bfloat16, "auto"),
        ("meta", "bfloat16", torch.bfloat16, "auto"),
        ("meta", "float32", torch.float32, "auto"),
    ],
)
def test_a_gpu_serves_in_bfloat16_unless_asked_otherwise(device, weights, dtype, left) -> None:
    model = _model(device)
    assert _convert(model, weights) == left
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_int8_is_refused_on_a_gpu() -> None:
    with pytest.raises(ValueError, match="int8 is for the CPU; a GPU takes bfloat16, or float32"):
        _convert(_model("meta"), "int8")
