from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from tempa.data.packed import Packed
from tempa.model import KvCache, ModelConfig, ScalarHead, Transformer
from tempa.model.config import PRESETS
from tempa.ops import AttentionSpec, norms, rope_cuda

SHAPES = {
    "modern": {},
    "gpt2": {k: v for k, v in PRESETS["nanogpt"].items() if k not in ("depth", "width", "num_heads")},
    "grouped": {"num_kv_heads": 1, "head_dim": 6, "mlp": "swiglu", "tied": False, "softcap": 5.0},
    "windowed": {"window": 3, "bias": True, "norm": "layer"},
}


def tiny(name: str, **changes: object) -> Transformer:
    shape = {"depth": 2, "width": 16, "num_heads": 2, "max_positions": 64, **SHAPES[name], **changes}
    model = Transformer(ModelConfig(vocab_size=23, **shape))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from the zeros of the initial weights
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def batch_of(*lengths: int, seed: int = 0) -> Packed:
    rng = np.random.default_rng(seed)
    return Packed.from_rows([rng.integers(0, 23, length) for length in lengths])


@pytest.mark.parametrize("name", SHAPES)
def test_sequences_of_a_batch_do_not_see_each_other(name: str) -> None:
    """Trap L11: packed equals one at a time."""
    model, rng = tiny(name), np.random.default_rng(0)
    rows = [rng.integers(0, 23, length) for length in (3, 9, 1, 30)]
    together = model.logps(Packed.from_rows(rows))
    alone = torch.cat([model.logps(Packed.from_rows([row])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_a_later_token_does_not_change_an_earlier_prediction(name: str) -> None:
    model, batch = tiny(name), batch_of(12)
    changed = Packed(batch.ids.clone(), batch.targets, batch.weights, batch.cu_seqlens)
    changed.ids[8:] = 0
    torch.testing.assert_close(model.logps(batch)[:8], model.logps(changed)[:8], rtol=1e-5, atol=1e-5)
    assert not torch.equal(model.logps(batch)[8:], model.logps(changed)[8:])


@pytest.mark.parametrize("name", SHAPES)
def test_loss_is_the_sum_of_the_log_probabilities(name: str) -> None:
    model, batch = tiny(name), batch_of(5, 8)
    loss, count = model.loss(batch)
    assert count == 11
    torch.testing.assert_close(loss, -(model.logps(batch) * batch.weights).sum(), rtol=1e-5, atol=1e-4)
    log_table = model.logits(model.hidden(batch)).log_softmax(-1)
    torch.testing.assert_close(model.logps(batch), log_table.gather(1, batch.targets[:, None]).squeeze(1))


@pytest.mark.parametrize("name", SHAPES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = tiny(name)
    model.loss(batch_of(20, 7))[0].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def summed_early(block: torch.nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    """A block that adds its last branch itself, as a norm of one tensor expects it."""

    def forward(x: Tensor, _branch: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        x, branch = block.__class__.forward(block, x, None, *rest)
        x = x + branch
        return x, torch.zeros_like(x)

    return forward


def values_and_gradients(model: Transformer, batch: Packed) -> list[Tensor]:
    loss, _ = model.loss(batch)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("name", SHAPES)
def test_leaving_a_sum_to_the_next_norm_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny(name), batch_of(5, 8)
    ours = values_and_gradients(model, batch)
    for block in model.blocks:
        monkeypatch.setattr(block, "forward", summed_early(block))
    assert all(torch.equal(a, b) for a, b in zip(ours, values_and_gradients(model, batch), strict=True))


@pytest.mark.parametrize("name", SHAPES)
def test_the_operators_of_cuda_give_the_same_values_and_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms and sums by `torch.ops.tempa`, whose CPU side stands in for the kernels."""
    model, batch = tiny(name), batch_of(5, 8)
    expected = values_and_gradients(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = values_and_gradients(model, batch)
    monkeypatch.setattr(norms, "_is_fused", lambda _: True)
    torch.testing.assert_close(values_and_gradients(model, batch), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        fused = values_and_gradients(model, batch)
        assert model.hidden(batch).dtype == torch.bfloat16
    torch.testing.assert_close(fused, rounded, rtol=0.02, atol=0.02)


@torch.inference_mode()
def decoded(model: Transformer, ids: Tensor, cache: KvCache) -> Tensor:
    """Hidden states of a sequence whose first five tokens are read at once and the others one by one."""
    slots, window = torch.arange(8, 8 + len(ids)), model.config.window
    spec = AttentionSpec.packed(torch.tensor([0, 5]), slots=slots[:5], window=window)
    parts = [model(ids[:5], positions=torch.arange(5), attention=spec, cache=cache)]
    tables = torch.arange(2, 2 + -(-len(ids) // 4), dtype=torch.int32)[None]
    for i in range(5, len(ids)):
        length = torch.tensor([i + 1])
        spec = AttentionSpec.paged(tables, length, slots[i : i + 1], block_size=4, window=window)
        parts.append(model(ids[i : i + 1], positions=torch.tensor([i]), attention=spec, cache=cache))
    return torch.cat(parts)


@pytest.mark.parametrize("name", SHAPES)
def test_keys_turned_on_their_way_to_a_cache_are_those_turned_before(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one operator, as on CUDA, whose CPU side stands in for the kernel; and by none, all at once."""
    model, ids = tiny(name), batch_of(11).ids
    caches = [KvCache(model.config, num_blocks=6, block_size=4) for _ in range(2)]
    expected = decoded(model, ids, caches[0])
    whole = model.hidden(Packed.from_rows([ids.numpy()]))
    torch.testing.assert_close(expected, whole.detach(), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(rope_cuda, "writes_to", lambda *_: True)
    torch.testing.assert_close(decoded(model, ids, caches[1]), expected)
    torch.testing.assert_close(caches[1].blocks, caches[0].blocks)


@pytest.mark.parametrize("is_fused", [False, True])
def test_a_block_can_be_compiled_and_computed_again_in_the_backward(
    is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norms, "_is_fused", lambda _: is_fused)
    model, batch = tiny("gpt2"), batch_of(5, 8)
    expected = values_and_gradients(model, batch)
    forwards = [block.forward for block in model.blocks]
    for block, forward in zip(model.blocks, forwards, strict=True):
        again = partial(torch.utils.checkpoint.checkpoint, forward, use_reentrant=False)
        monkeypatch.setattr(block, "forward", again)
    assert all(torch.equal(a, b) for a, b in zip(values_and_gradients(model, batch), expected, strict=True))
    for block, forward in zip(model.blocks, forwards, strict=True):
        monkeypatch.setattr(block, "forward", torch.compile(forward, backend="aot_eager"))
    torch.testing.assert_close(values_and_gradients(model, batch), expected)


@pytest.mark.parametrize("name", SHAPES)
def test_counted_parameters_are_the_built_ones(name: str) -> None:
    model = tiny(name)
    assert model.num_params == model.config.num_params


def test_presets_have_the_size_of_their_name() -> None:
    """ch2 B9: parameters outside the embedding, from the shape alone."""
    for name in PRESETS:
        if name[0].isdigit():
            config = ModelConfig.preset(name, vocab_size=1)
            size = float(name[:-1]) * {"m": 1e6, "b": 1e9}[name[-1]]
            assert config.num_params == pytest.approx(size, rel=0.25), name
    assert ModelConfig.preset("85m", 100) == ModelConfig.from_depth(12, 100)


def test_initial_weights_depend_on_the_seed_and_nothing_else() -> None:
    first = Transformer(ModelConfig(vocab_size=23), seed=4).state_dict()
    torch.manual_seed(123)
    again = Transformer(ModelConfig(vocab_size=23), seed=4).state_dict()
    other = Transformer(ModelConfig(vocab_size=23), seed=5).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])
    deeper = Transformer(ModelConfig(vocab_size=23, depth=6), seed=4).state_dict()
    assert all(torch.equal(first[name], deeper[name]) for name in first)


@pytest.mark.parametrize("init", ["modern", "gpt2"])
def test_first_predictions_are_near_uniform(init: str) -> None:
    model = Transformer(ModelConfig(vocab_size=200, depth=3, width=64, init=init))
    logps = model.logps(Packed.from_rows([np.arange(200)])).detach()[:-1]
    assert float(logps.mean()) == pytest.approx(-np.log(200), abs=0.1)


def test_gpt2_initial_scales_are_those_of_the_paper() -> None:
    state = Transformer(ModelConfig.preset("gpt2", 1000, depth=2)).state_dict()
    assert float(state["blocks.0.attention.qkv.weight"].std()) == pytest.approx(0.02, rel=0.02)
    assert float(state["blocks.1.mlp.down.weight"].std()) == pytest.approx(0.02 / 4**0.5, rel=0.02)


def test_autocast_to_bfloat16_stays_close_and_trains() -> None:
    model, batch = tiny("modern"), batch_of(30, 11)
    exact = model.logps(batch).detach()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.logps(batch)
        loss, _ = model.loss(batch)
    loss.backward()
    assert rounded.dtype == torch.float32
    # bfloat16 keeps 8 bits; logits here are of order 1.
    torch.testing.assert_close(rounded.detach(), exact, rtol=0.05, atol=0.1)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_inputs_embeds_replace_ids() -> None:
    model, batch = tiny("modern"), batch_of(6)
    spec = AttentionSpec.packed(batch.cu_seqlens)
    by_ids = model(batch.ids, positions=batch.positions, attention=spec)
    embeds = model.embedding(batch.ids)
    assert torch.equal(by_ids, model(inputs_embeds=embeds, positions=batch.positions, attention=spec))
    with pytest.raises(ValueError, match="either ids or inputs_embeds"):
        model(positions=batch.positions, attention=spec)


def test_a_sequence_longer_than_the_model_allows_is_refused() -> None:
    with pytest.raises(ValueError, match="65 tokens exceeds max_positions 64"):
        tiny("gpt2").loss(batch_of(65))


def test_scalar_head_gives_one_number_per_token_and_starts_at_zero() -> None:
    model, batch = ScalarHead(tiny("modern")), batch_of(4, 6)
    assert model(batch).shape == (10,)
    assert not model(batch).any()
    model(batch).sum().backward()
    assert model.scalar.weight.grad is not None
    assert model.scalar.weight.grad.any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_heads": 4, "num_kv_heads": 3}, "multiple of num_kv_heads 3"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"head_dim": 5}, "even head_dim"),
        ({"mlp": "tanh"}, "mlp must be one of"),
    ],
)
def test_impossible_shapes_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(vocab_size=5, **wrong)
    with pytest.raises(ValueError, match="unknown preset '7x'"):
        ModelConfig.preset("7x", 5)
