"""Training, resuming, generation and scoring on the device beside the same on the CPU, by our kernels."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempa.data.packed import Packed
from tempa.engine import Completion, Engine, Sampling
from tempa.model import ModelConfig, Transformer
from tempa.train.optim import Optimizer, clip_gradients
from tempa.train.pretrain import PretrainConfig, pretrain
from tempa.train.settings import TrainConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
VOCABULARY, STEPS = 97, 4
SMALL: dict[str, Any] = {"depth": 2, "width": 128, "num_heads": 2}
CONFIGS = {
    "modern": ModelConfig.preset("85m", VOCABULARY, **SMALL, num_kv_heads=1),
    "swiglu": ModelConfig(VOCABULARY, **SMALL, mlp="swiglu", window=9, softcap=15.0, tied=False),
    "gpt2": ModelConfig.preset("gpt2", VOCABULARY, **SMALL, max_positions=256, bias=True),
}
# Relative, of losses and norms of gradients: float32 in another order, or bfloat16 products on either side.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
# How the names of kernels begin that a step of every model launches, and with products in bfloat16 besides.
ALWAYS = {"norm_forward", "norm_backward", "adamw"}
IN_BFLOAT16 = {
    "attention_forward",
    "attention_backward_rows",
    "attention_backward_queries",
    "attention_backward_keys",
    "linear_lse",
    "linear_gradient",
}
OWN = {
    "modern": {"rope", "activation_forward", "activation_backward"},
    "swiglu": {"rope", "activation_forward", "activation_backward"},
    "gpt2": set(),
}


def _batch(step: int) -> Packed:
    """Documents of several lengths, of which some tokens are not learned."""
    generator = np.random.default_rng(step)
    rows = [generator.integers(0, VOCABULARY, length) for length in (30, 1, 64, 17)]
    masks = [generator.random(len(row)) < 0.8 for row in rows]
    return Packed.from_rows(rows, [mask.astype(np.int64) for mask in masks])


def _trained(
    config: ModelConfig, device: str, precision: str, optimizer: str
) -> tuple[list[float], Transformer]:
    """Losses and norms of gradients of a few steps, as the training loop makes them."""
    model = Transformer(config, seed=3).to(device)
    moved = Optimizer([("", model)], TrainConfig(lr=1e-3, optimizer=optimizer))
    measures = []
    for step in range(STEPS):
        batch = _batch(step).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            total, count = model.loss(batch)
        torch.autograd.backward(total / count)
        norm = clip_gradients(moved.parameters.values(), 1.0)
        moved.step(1.0)
        measures += [float(total.detach() / count), float(norm)]
    assert model.device.type == device
    return measures


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", list(TOLERANCE))
@pytest.mark.parametrize("name", CONFIGS)
def test_training_steps_equal_those_of_the_cpu(
    name: str, precision: str, optimizer: str, launches: Counter[str]
) -> None:
    ours, theirs = (_trained(CONFIGS[name], device, precision, optimizer) for device in ("cuda", "cpu"))
    # Muon's own products are in bfloat16 wherever that is fast.
    assert ours == pytest.approx(theirs, rel=TOLERANCE["bf16" if optimizer == "muon" else precision])
    expected = ALWAYS | OWN[name] | (IN_BFLOAT16 if precision == "bf16" else set())
    # Some have a name of their own where a generation of GPUs has its own kernel.
    assert all(any(entry.startswith(begin) for entry in launches) for begin in expected)
    assert any(entry.startswith("attention") for entry in launches) == (precision == "bf16")
    # At least one a layer and step, forward.
    assert launches["norm_forward"] >= STEPS * CONFIGS[name].depth


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "sums.txt"
    path.write_text("".join(f"{a} and {b} make {a + b}; " for a in range(12) for b in range(12)))
    return path


def test_a_run_is_resumed_from_a_checkpoint_and_on_the_cpu(text_file: Path, tmp_path: Path) -> None:
    def run(out: str, device: str = "cuda") -> list[float]:
        config = PretrainConfig(
            data=text_file,
            out=tmp_path / out,
            tokenizer="characters",
            shape=("depth=2", "width=64", "num_heads=1"),
            seq_len=32,
            batch_size=8,
            steps=8,
            warmup_steps=2,
            eval_every=4,
            save_every=4,
            log_every=1,
            precision="fp32",
            optimizer="adamw",
            device=device,
        )
        result = pretrain(config)
        assert result.steps == 8
        return [row["train"]["loss"] for row in result.run.rows() if "train" in row]

    straight = run("straight")
    assert straight[-1] < straight[0]
    assert run("cpu", "cpu") == pytest.approx(straight, rel=1e-3)
    shutil.copytree(tmp_path / "straight", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step-000008")
    # Float32 sums of the device may come in another order.
    assert run("resumed") == pytest.approx(straight, rel=1e-5)


def _speaking(config: ModelConfig, device: str, dtype: torch.dtype = torch.float32) -> Transformer:
    """A model whose logits are far apart: those of fresh weights hardly differ."""
    model = Transformer(config, seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3, generator=generator)
    return model.to(device, dtype).eval()


def _generated(model: Transformer, sampling: Sampling) -> list[Completion]:
    """Prompts that begin alike, several samples of each, prefill in pieces, and more than fit at once."""
    generator = np.random.default_rng(0)
    start = generator.integers(0, VOCABULARY, 40).tolist()
    prompts = [start + generator.integers(0, VOCABULARY, n).tolist() for n in (1, 3, 30)] + [[5]]
    engine = Engine(model, block_size=16, max_batch=6, step_tokens=24)
    return [completion for group in engine.generate(prompts, sampling) for completion in group]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("name", CONFIGS)
def test_generation_in_float32_gives_the_tokens_of_the_cpu(name: str, temperature: float) -> None:
    sampling = Sampling(max_new_tokens=24, temperature=temperature, top_k=20, top_p=0.95, n=3, seed=7)
    ours, theirs = (_generated(_speaking(CONFIGS[name], device), sampling) for device in ("cuda", "cpu"))
    assert [list(one.ids) for one in ours] == [list(one.ids) for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.logps, other.logps, atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_generation_in_bfloat16_reads_the_paged_cache_by_our_kernels(
    name: str, launches: Counter[str]
) -> None:
    config = CONFIGS[name]
    model = _speaking(config, "cuda", torch.bfloat16)
    sampling = Sampling(max_new_tokens=24, temperature=1.0, n=2, seed=3)
    completions = _generated(model, sampling)
    assert all(len(one.ids) == 24 for one in completions)
    assert launches["paged_attention"] >= 20 * config.depth
    assert launches["sample"] >= 20
    assert ("rope_to_cache" in launches) == (config.positions == "rope")
    # What was said about tokens while they were drawn is what the model says of the whole afterwards, both in
    # bfloat16, whose rounding of logits near 10 is 2^-5.
    [first, *_] = completions
    generator = np.random.default_rng(0)
    prompt = generator.integers(0, VOCABULARY, 40).tolist() + generator.integers(0, VOCABULARY, 1).tolist()
    scored = Engine(model).score(prompt, [list(first.ids)])[0]
    np.testing.assert_allclose(np.mean(np.abs(first.logps - scored)), 0, atol=0.1)


def test_an_engine_over_a_model_in_training_follows_its_weights() -> None:
    model = _speaking(CONFIGS["modern"], "cuda")
    engine, sampling = Engine(model), Sampling(max_new_tokens=8, temperature=0.0)
    before = engine.generate([[1, 2, 3]], sampling)[0][0].ids
    assert list(engine.generate([[1, 2, 3]], sampling)[0][0].ids) == list(before)
    with torch.no_grad():
        model.embedding.weight.data.copy_(model.embedding.weight.flip(0))
    fresh = Engine(model).generate([[1, 2, 3]], sampling)[0][0].ids
    assert list(engine.generate([[1, 2, 3]], sampling)[0][0].ids) == list(fresh)
