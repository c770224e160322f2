"""A model that takes tensors on the CPU for those of a GPU, and so uses every operator with a kernel.

First with the CPU side of the operators, which gives what the model gives without them; then with their host
side, up to the launches, which shows what is compiled. `tests/gpu/test_end_to_end.py` does it on a device.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from operators import HeldKernel, HostSide, held
from torch import Tensor

from tempa.cli import kernels
from tempa.data.packed import Packed
from tempa.model import KvCache, ModelConfig, Transformer
from tempa.ops import AttentionSpec, adamw_cuda, cuda_tensors, nvrtc
from tempa.ops.calls import Target
from tempa.train.optim import Optimizer
from tempa.train.settings import TrainConfig

SHAPES = {
    "modern": {"width": 64, "num_heads": 2, "softcap": 15.0},
    "grouped": {"width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp": "swiglu", "window": 9, "tied": False},
    "classic": {
        "width": 48,
        "num_heads": 3,
        "norm": "layer",
        "bias": True,
        "positions": "learned",
        "mlp": "gelu",
    },
}
H100 = SimpleNamespace(
    multi_processor_count=132,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
)
BLOCK_SIZE = 16


def _model(name: str) -> Transformer:
    model = Transformer(ModelConfig(vocab_size=96, depth=2, max_positions=64, init="gpt2", **SHAPES[name]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # far enough from even odds for differences to show
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the CPU count as on an H100, and autocast is on."""
    monkeypatch.setattr(cuda_tensors, "has_kernels", lambda _: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: H100)
    monkeypatch.setattr(nvrtc, "device_arch", lambda device: "sm_90a")
    Target.of.cache_clear()


def _trained(model: Transformer, *, is_rounded: bool = True) -> list[Tensor]:
    """Loss and gradients of two sequences, after which a step is made.

    Not the parameters: the first step of AdamW goes by the sign of a gradient, also of one of almost zero.
    """
    rng = np.random.default_rng(0)
    batch = Packed.from_rows([rng.integers(0, 96, length) for length in (30, 21)])
    optimizer = Optimizer([("", model)], TrainConfig(optimizer="adamw", lr=1e-2))
    with torch.autocast("cpu", torch.bfloat16, enabled=is_rounded):
        loss, count = model.loss(batch)
    (loss / count).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    optimizer.step(1.0)
    return [(loss / count).detach(), *gradients]


@torch.inference_mode()
def _decoded(model: Transformer, dtype: torch.dtype) -> Tensor:
    """Hidden states of 20 tokens of a sequence, read at once, and of 4 more, one by one."""
    ids = torch.arange(24) * 7 % 96
    slots, tables = torch.arange(16, 40), torch.tensor([[1, 2]], dtype=torch.int32)
    window = model.config.window
    cache = KvCache(model.config, num_blocks=3, block_size=BLOCK_SIZE, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        spec = AttentionSpec.packed(torch.tensor([0, 20]), slots=slots[:20], window=window)
        parts = [model(ids[:20], positions=torch.arange(20), attention=spec, cache=cache)]
        for i in range(20, 24):
            length, place = torch.tensor([i + 1]), torch.tensor([i])
            spec = AttentionSpec.paged(tables, length, slots[place], block_size=BLOCK_SIZE, window=window)
            parts.append(model(ids[place], positions=place, attention=spec, cache=cache))
    return torch.cat([part.float() for part in parts])


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", SHAPES)
def test_a_training_step_by_operators_is_that_without(name: str, request: pytest.FixtureRequest) -> None:
    exact, rounded = _trained(_model(name), is_rounded=False), _trained(_model(name))
    request.getfixturevalue("as_on_cuda")
    found = _trained(_model(name))
    # Both round to bfloat16, but in other places.
    for ours, theirs, right in zip(found, rounded, exact, strict=True):
        assert _distance(ours, right) <= 2 * _distance(theirs, right) + 1e-3


@pytest.mark.parametrize("kept", [torch.bfloat16, torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_decoding_by_operators_is_that_without(
    name: str, kept: torch.dtype, request: pytest.FixtureRequest
) -> None:
    model = _model(name)
    expected = _decoded(model, torch.bfloat16)
    request.getfixturevalue("as_on_cuda")
    # Bytes have up to 1/127 or 1/28 of the largest number of a row between them.
    assert _distance(_decoded(model, kept), expected) < (0.03 if kept == torch.bfloat16 else 0.06)


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("preset", ["1m", "nanogpt"])
def test_prewarm_compiles_all_that_a_step_and_an_engine_load(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: set[tuple[str, tuple[tuple[str, str | int], ...]]] = set()

    def launch(kernel: HeldKernel, *_: object, **__: object) -> None:
        loaded.add((kernel.source, kernel.defines))

    monkeypatch.setattr(nvrtc, "load", held)
    monkeypatch.setattr(nvrtc, "launch", launch)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    config = ModelConfig.preset(preset, vocab_size=96)
    with HostSide():
        _trained(Transformer(config))
        _decoded(Transformer(config), torch.bfloat16)
        _decoded(Transformer(config), torch.int8)
    variants = [
        *kernels._variants(config, torch.bfloat16, "sm_90a", [torch.int8]),
        *kernels._shared_variants(),
    ]
    compiled = {(source, tuple(sorted(defines.items()))) for _, (source, defines) in variants}
    assert {source for source, _ in loaded} >= {
        "norm.cu",
        "attention_forward.cu",
        "paged.cu",
        adamw_cuda.SOURCE,
    }
    assert loaded <= compiled
