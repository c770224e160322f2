"""Engine: generation beside transformers and beside no cache.

`transformers` is `LlamaForCausalLM.generate` with the same weights, shape and prompts; `no cache` runs the
whole sequence for every token; `worst case reserved` runs as many requests as fit if all were as long as they
may be. All give the same tokens as ours.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from tempa.data.packed import Packed
from tempa.engine import Engine, Sampling
from tempa.model import ModelConfig, Transformer

VOCAB, PROMPT, NEW = 2048, 32, 64


def llama_shaped() -> Transformer:
    """About 1M parameters; weights large enough that the likeliest token is clear."""
    config = ModelConfig(
        vocab_size=VOCAB, depth=4, width=128, num_heads=4, num_kv_heads=2, mlp="swiglu", qk_norm=False,
        embedding_norm=False, tied=False, max_positions=256,
    )  # fmt: skip
    model = Transformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.1, generator=generator)
    return model


def as_transformers(model: Transformer) -> transformers.LlamaForCausalLM:
    c = model.config
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.width, intermediate_size=c.mlp_width,
            num_hidden_layers=c.depth, num_attention_heads=c.num_heads,
            num_key_value_heads=c.num_kv_heads, head_dim=c.head_dim,
            rms_norm_eps=c.norm_eps, max_position_embeddings=c.max_positions, tie_word_embeddings=False,
            bos_token_id=None, eos_token_id=None, pad_token_id=0,
        )
    ).eval()  # fmt: skip
    # Trap T13 of chapter 2: they pair component i with i + D/2, we pair neighbours.
    order = torch.cat([torch.arange(0, c.head_dim, 2), torch.arange(1, c.head_dim, 2)])
    state = {"model.embed_tokens.weight": model.embedding.weight, "lm_head.weight": model.head_weight}
    state["model.norm.weight"] = model.final_norm.weight
    for i, block in enumerate(model.blocks):
        q, k, v = block.attention.qkv.weight.split(
            [c.num_heads * c.head_dim, *[c.num_kv_heads * c.head_dim] * 2]
        )
        gate, up = block.mlp.up.weight.chunk(2)
        layer = {
            "self_attn.q_proj": q.view(-1, c.head_dim, c.width)[:, order].flatten(0, 1),
            "self_attn.k_proj": k.view(-1, c.head_dim, c.width)[:, order].flatten(0, 1),
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.attention.out.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.mlp.down.weight,
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.mlp_norm.weight,
        }
        state |= {f"model.layers.{i}.{name}.weight": weight for name, weight in layer.items()}
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.benchmark(group="greedy generation, 64 new tokens after 32, 1M parameters", min_rounds=3)
@pytest.mark.parametrize("side", ["ours", "transformers"])
@pytest.mark.parametrize("prompts", [1, 16, 128])
def test_generate(benchmark, prompts: int, side: str) -> None:
    model = llama_shaped()
    theirs, engine = as_transformers(model), Engine(model)
    ids = np.random.default_rng(0).integers(0, VOCAB, (prompts, PROMPT))
    sampling = Sampling(max_new_tokens=NEW, temperature=0)

    def ours() -> NDArray[np.int64]:
        return np.stack([group[0].ids for group in engine.generate(list(ids), sampling)])

    def peer() -> NDArray[np.int64]:
        tokens = torch.from_numpy(ids)
        with torch.inference_mode():
            out = theirs.generate(
                tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=NEW
            )
        return out[:, PROMPT:].numpy()

    np.testing.assert_array_equal(ours(), peer())
    benchmark.extra_info["tokens"] = prompts * NEW
    benchmark(ours if side == "ours" else peer)


@pytest.mark.benchmark(group="greedy decoding of one sequence, 64 tokens after 192", min_rounds=3)
@pytest.mark.parametrize("side", ["ours", "no cache"])
def test_cache(benchmark, side: str) -> None:
    model = llama_shaped()
    engine = Engine(model)
    prompt = np.random.default_rng(0).integers(0, VOCAB, 192)

    def ours() -> list[int]:
        return engine.generate([prompt], Sampling(max_new_tokens=NEW, temperature=0))[0][0].ids.tolist()

    def peer() -> list[int]:
        ids = prompt.tolist()
        with torch.inference_mode():
            for _ in range(NEW):
                hidden = model.hidden(Packed.from_rows([np.array(ids)]))
                ids.append(int(model.logits(hidden[-1:]).argmax()))
        return ids[192:]

    assert ours() == peer()
    benchmark.extra_info["tokens"] = NEW
    benchmark(ours if side == "ours" else peer)


@pytest.mark.benchmark(group="192 requests for at most 192 tokens that mostly end sooner", min_rounds=3)
@pytest.mark.parametrize("side", ["ours", "worst case reserved"])
@pytest.mark.parametrize("room", [512, 1024])
def test_small_cache(benchmark, room: int, side: str) -> None:
    """A cache with room for so many tokens; requests that reserve 224 of them run as many as fit."""
    model = llama_shaped()
    c = model.config
    num_bytes = room * c.depth * 2 * c.num_kv_heads * c.head_dim * 4
    ids = np.random.default_rng(0).integers(0, VOCAB, (192, PROMPT))
    stop_ids = tuple(range(0, VOCAB, 40))
    samplings = [Sampling(max_new_tokens=192, seed=i, stop_ids=stop_ids) for i in range(192)]
    engines = {
        "ours": Engine(model, cache_bytes=num_bytes),
        "worst case reserved": Engine(model, cache_bytes=num_bytes, max_batch=room // (PROMPT + 192)),
    }

    def run(side: str) -> list[list[int]]:
        return [one.ids.tolist() for (one,) in engines[side].generate(list(ids), samplings)]

    found = run("ours")
    assert run("worst case reserved") == found
    preempted = {side: engine.stats()["num_preempted"] for side, engine in engines.items()}
    assert preempted["ours"] > preempted["worst case reserved"] == 0
    benchmark.extra_info["tokens"] = sum(map(len, found))
    benchmark(run, side)
