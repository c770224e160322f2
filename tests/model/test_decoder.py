"""The compiled decoder beside the model: shapes, kinds of weights and caches, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tempa.data.packed import Packed
from tempa.engine import Engine, Sampling
from tempa.model import Decoder, KvCache, ModelConfig, Transformer
from tempa.model.decoder import Weights

SHAPES: dict[str, dict[str, object]] = {
    "modern": {},
    "gpt2": {
        "norm": "layer",
        "positions": "learned",
        "qk_norm": False,
        "embedding_norm": False,
        "mlp": "gelu",
        "bias": True,
    },
    "llama": {"num_kv_heads": 2, "mlp": "swiglu", "qk_norm": False, "embedding_norm": False},
    "swiglu with bias": {"mlp": "swiglu", "mlp_width": 72, "bias": True, "num_kv_heads": 1},
    "untied and capped": {"tied": False, "softcap": 3.0, "norm": "layer"},
    "windowed": {"window": 5, "num_kv_heads": 1},
    "odd sizes": {"width": 44, "head_dim": 6, "mlp_width": 33, "mlp": "swiglu"},
}
BLOCK, VOCAB = 4, 83


def build(name: str, **changes: object) -> Transformer:
    shape = {"depth": 2, "width": 64, "num_heads": 4, "max_positions": 64, **SHAPES[name], **changes}
    model = Transformer(ModelConfig(vocab_size=VOCAB, **shape))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # far enough from the initial zeros that every weight matters
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    return model


def rows_of(*lengths: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCAB, length) for length in lengths]


def logits_of(model: Transformer, rows: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model.logits(model.hidden(Packed.from_rows(rows))).numpy()


def cache_for(model: Transformer, num_rows: int, dtype: torch.dtype = torch.float32) -> KvCache:
    return KvCache(model.config, num_blocks=16 * num_rows, block_size=BLOCK, dtype=dtype)


def tables_for(num_rows: int) -> NDArray[np.int32]:
    """Sixteen blocks each, in no order."""
    return np.random.default_rng(1).permutation(16 * num_rows).reshape(num_rows, 16).astype(np.int32)


def at_once(
    decoder: Decoder, rows: list[NDArray[np.int64]], cache: KvCache, tables: NDArray[np.int32]
) -> NDArray[np.float32]:
    lengths = np.array([len(row) for row in rows])
    starts = np.concatenate([[0], lengths.cumsum()])
    everything = np.arange(starts[-1])
    return decoder(
        np.concatenate(rows), cache=cache, tables=tables, lengths=lengths, starts=starts, wanted=everything
    )


def rounded(model: Transformer) -> Transformer:
    """The model with its matrices and what they multiply in bfloat16, but for the embedding as it is read."""
    copy = Transformer(model.config)
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        for module in copy.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(module.weight.bfloat16().float())
                module.register_forward_pre_hook(lambda _, inputs: inputs[0].bfloat16().float())
    return copy


def worst(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("name", SHAPES)
def test_logits_of_float32_weights_are_those_of_the_model(name: str) -> None:
    model, rows = build(name), rows_of(1, 5, 31, 40, 64)
    ours = at_once(Decoder(model), rows, cache_for(model, 5), tables_for(5))
    # Two orders of summation of a few hundred float32.
    assert worst(ours, logits_of(model, rows)) < 1e-5


@pytest.mark.parametrize("name", SHAPES)
def test_bfloat16_weights_lose_what_rounding_loses(name: str) -> None:
    """A sum in another order may round an activation the other way, so errors are compared."""
    model, rows = build(name, tied=False), rows_of(7, 33)
    ours = at_once(Decoder(model, weights="bfloat16"), rows, cache_for(model, 2), tables_for(2))
    exact, theirs = logits_of(model, rows), logits_of(rounded(model), rows)
    assert worst(ours, theirs) < 0.01
    error, expected = (np.sqrt(np.square(logits - exact).mean()) for logits in (ours, theirs))
    assert 0.8 * expected < error < 1.25 * expected


@pytest.mark.parametrize("name", SHAPES)
def test_logits_of_int8_weights_are_close(name: str) -> None:
    model, rows = build(name), rows_of(7, 33, 60)
    ours = at_once(Decoder(model, weights="int8"), rows, cache_for(model, 3), tables_for(3))
    theirs = logits_of(model, rows)
    # Of the largest logit; weights and activations are off by up to 1/254 of the largest of 64.
    assert worst(ours, theirs) < 0.1
    targets = np.concatenate([np.roll(row, -1) for row in rows])

    def loss(logits: NDArray[np.float32]) -> float:
        return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets)))

    assert abs(loss(ours) - loss(theirs)) < 0.02


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.int8, 0.06)])
@pytest.mark.parametrize("name", ["modern", "llama", "windowed"])
def test_small_caches_stay_close(name: str, dtype: torch.dtype, tolerance: float) -> None:
    model, rows = build(name), rows_of(31, 40)
    cache = cache_for(model, 2, dtype)
    assert worst(at_once(Decoder(model), rows, cache, tables_for(2)), logits_of(model, rows)) < tolerance
    per_block = KvCache.bytes_per_block(model.config, BLOCK, dtype)
    assert cache.blocks.numel() * dtype.itemsize == 32 * per_block
    sources, targets = torch.tensor([0, 1]), torch.tensor([30, 31])
    cache.copy_blocks(sources, targets)
    assert torch.equal(cache.blocks[:, :, targets], cache.blocks[:, :, sources])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", ["modern", "gpt2", "windowed"])
def test_a_token_gets_the_same_whatever_comes_with_it(
    name: str, weights: Weights, dtype: torch.dtype
) -> None:
    """Alone and one by one, in chunks, and in a batch; on one thread and on three."""
    model, rows = build(name), rows_of(3, 17, 40, 1, 9, 33, 64, 22, 5, 12, 8)
    n = len(rows)
    tables, ends = tables_for(n), np.array([len(row) for row in rows]).cumsum()
    decoder = Decoder(model, weights=weights, num_threads=1)
    together = np.split(at_once(decoder, rows, cache_for(model, n, dtype), tables), ends[:-1])
    many = Decoder(model, weights=weights, num_threads=3)
    for ours, theirs in zip(
        np.split(at_once(many, rows, cache_for(model, n, dtype), tables), ends[:-1]), together, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    cache = cache_for(model, n, dtype)
    for i, row in enumerate(rows):
        for stop in range(1, len(row) + 1):
            [last] = decoder(
                row[stop - 1 : stop], cache=cache, tables=tables[i : i + 1], lengths=np.array([stop])
            )
            np.testing.assert_array_equal(last, together[i][stop - 1])
    cache = cache_for(model, n, dtype)
    for start in range(0, 64, 7):
        chosen = [i for i, row in enumerate(rows) if len(row) > start]
        pieces = [rows[i][start : start + 7] for i in chosen]
        lengths = np.array([start + len(piece) for piece in pieces])
        starts = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
        last = many(
            np.concatenate(pieces), cache=cache, tables=tables[chosen], lengths=lengths, starts=starts
        )
        for i, length, logits in zip(chosen, lengths, last, strict=True):
            np.testing.assert_array_equal(logits, together[i][length - 1])


def test_embeddings_may_come_instead_of_ids() -> None:
    model, rows = build("gpt2"), rows_of(9)
    lengths, tables, decoder = np.array([9]), tables_for(1), Decoder(model)
    by_ids = decoder(rows[0], cache=cache_for(model, 1), tables=tables, lengths=lengths)
    embeds = model.embedding.weight.detach().numpy()[rows[0]]
    cache = cache_for(model, 1)
    by_rows = decoder(None, cache=cache, tables=tables, lengths=lengths, inputs_embeds=embeds)
    np.testing.assert_array_equal(by_ids, by_rows)
    with pytest.raises(ValueError, match="either ids or inputs_embeds"):
        decoder(None, cache=cache, tables=tables, lengths=lengths)


def test_the_decoder_follows_the_weights() -> None:
    model, rows = build("modern"), rows_of(9)
    decoder, cache, tables = Decoder(model), cache_for(model, 1), tables_for(1)
    before = at_once(decoder, rows, cache, tables)
    with torch.no_grad():
        model.blocks[1].mlp.down.weight.mul_(-1)
    decoder.refresh()
    after = at_once(decoder, rows, cache, tables)
    assert worst(after, before) > 1e-3
    assert worst(after, logits_of(model, rows)) < 1e-5
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    model.loss(Packed.from_rows(rows))[0].backward()
    optimizer.step()
    decoder.refresh()
    assert worst(at_once(decoder, rows, cache, tables), logits_of(model, rows)) < 1e-5
    model.head_weight.data.mul_(2)
    decoder.refresh()
    assert worst(at_once(decoder, rows, cache, tables), logits_of(model, rows)) < 1e-5


def test_what_is_not_a_number_reaches_the_logits() -> None:
    for weights in ("float32", "bfloat16", "int8"):
        model = build("modern")
        with torch.no_grad():
            model.blocks[0].attention.qkv.weight[3, 5] = float("nan")
        logits = at_once(Decoder(model, weights=weights), rows_of(5), cache_for(model, 1), tables_for(1))
        assert np.isnan(logits).all()


def test_what_does_not_fit_is_refused() -> None:
    model = build("modern")
    decoder, cache = Decoder(model), cache_for(model, 2)
    tables = np.arange(32, dtype=np.int32).reshape(2, 16)

    def call(ids: list[int], tables: NDArray[np.int32], lengths: list[int], **others: object) -> object:
        return decoder(np.array(ids), cache=cache, tables=tables, lengths=np.array(lengths), **others)

    with pytest.raises(ValueError, match="id 83 is outside the vocabulary of 83 tokens"):
        call([83], tables[:1], [1])
    with pytest.raises(ValueError, match="sequence 0 lists block 99, the cache has 32"):
        call([1], tables[:1] + 99, [1])
    with pytest.raises(ValueError, match="both go to block 0"):
        call([1, 2], np.zeros((2, 16), np.int32), [1, 1])
    with pytest.raises(ValueError, match="a sequence of 65 tokens exceeds max_positions 64"):
        call([1], np.zeros((1, 32), np.int32), [65])
    with pytest.raises(ValueError, match="logits of token 1 are wanted, there are 1"):
        call([1], tables[:1], [1], wanted=np.array([1]))
    other = KvCache(build("llama").config, num_blocks=1, block_size=5)
    with pytest.raises(ValueError, match="not in blocks of"):
        decoder(np.array([1]), cache=other, tables=tables[:1], lengths=np.array([1]))
    with pytest.raises(ValueError, match=r"weights must be float32, bfloat16 or int8, got .int4."):
        Decoder(model, weights="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float32 on the CPU"):
        Decoder(build("modern").bfloat16())


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_an_engine_decodes_with_the_weights_it_is_told(weights: Weights) -> None:
    model = build("llama")
    [row] = rows_of(9)
    sampling = Sampling(max_new_tokens=12, temperature=0)
    [[ours]] = Engine(model, weights=weights).generate([row.tolist()], sampling)
    [[exact]] = Engine(model).generate([row.tolist()], sampling)
    assert not np.array_equal(ours.logps, exact.logps)
    np.testing.assert_allclose(ours.logps[:2], exact.logps[:2], atol=0.1)
