"""Tokens a second of the engine, end to end, beside `transformers` with the same weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from gpu.comparison import OURS, Case, Comparison, Run
from gpu.rig import Rig, size
from tempa.engine import Engine, Sampling
from tempa.model import ModelConfig, Transformer
from tempa.ops import AttentionSpec

PROMPT, NEW = 128, 64
# Each of these takes about a second.
ROUNDS = 5
# Tokens that are compared, and the share that may differ: one rounding that falls the other way at the top of
# the logits changes all that follows.
COMPARED = 4
TOLERANCE = 0.25


def cases() -> list[Case]:
    """GPT-2's shape in bfloat16, greedy, one prompt each."""
    return [
        Case(f"{batch} sequences, {NEW} tokens after {PROMPT}", _case(batch), is_quick=batch == 8)
        for batch in (1, 8, 64)
    ]


def _case(batch: int) -> Callable[[Rig], Comparison]:
    def build(rig: Rig) -> Comparison:
        num_new, count = size(rig, NEW, 6), size(rig, batch, 3)
        config = _config(rig)
        shape = (count, size(rig, PROMPT, 5))
        prompts = np.random.default_rng(0).integers(0, config.vocab_size, shape)
        model = _model(rig, config)
        sides = {
            OURS: lambda: _ours(model, prompts, num_new),
            "all tokens again, without a cache": lambda: _without_cache(rig, model, prompts, num_new),
            "transformers": lambda: _transformers(rig, model, prompts, num_new),
        }
        return Comparison(
            sides, TOLERANCE, count * num_new, unit="tokens/s", ceiling=None, pace="whole", rounds=ROUNDS
        )

    return build


def _config(rig: Rig) -> ModelConfig:
    changes: dict[str, Any] = {"depth": 2, "width": 32, "num_heads": 2} if rig.is_tiny else {}
    return ModelConfig.preset("gpt2", vocab_size=size(rig, 50304, 60), **changes)


def _model(rig: Rig, config: ModelConfig) -> Transformer:
    model = Transformer(config, seed=1)
    # Fresh weights give logits that are nearly equal; these keep the likeliest token ahead of the others.
    with torch.no_grad():
        model.embedding.weight.normal_(0, 1, generator=torch.Generator().manual_seed(1))
    return model.to(rig.device, torch.bfloat16).eval()


def _first(ids: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.from_numpy(np.array([row[:COMPARED] for row in ids], np.int64))


def _ours(model: Transformer, prompts: np.ndarray, num_new: int) -> Run:
    engine = Engine(model, has_fixed_weights=True, reuses_prefixes=False)
    sampling = Sampling(max_new_tokens=num_new, temperature=0.0)
    rows = [row.tolist() for row in prompts]

    def run() -> torch.Tensor:
        return _first([completion.ids for [completion] in engine.generate(rows, sampling)])

    return run


def _without_cache(rig: Rig, model: Transformer, prompts: np.ndarray, num_new: int) -> Run:
    """What needs no other library to check ours."""

    @torch.inference_mode()
    def run() -> torch.Tensor:
        rows = torch.from_numpy(prompts).to(rig.device)
        for _ in range(num_new):
            count, length = rows.shape
            bounds = torch.arange(count + 1, device=rig.device) * length
            positions = torch.arange(length, device=rig.device).repeat(count)
            hidden = model(rows.flatten(), positions=positions, attention=AttentionSpec.packed(bounds))
            logits = model.logits(hidden[bounds[1:] - 1])
            rows = torch.cat([rows, logits.argmax(-1, keepdim=True)], 1)
        return _first(rows[:, prompts.shape[1] :].tolist())

    return run


def _transformers(rig: Rig, model: Transformer, prompts: np.ndarray, num_new: int) -> Run:
    library: Any = importlib.import_module("transformers")
    config = model.config
    shape = library.GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.max_positions,
        n_embd=config.width,
        n_layer=config.depth,
        n_head=config.num_heads,
        activation_function="gelu",
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = library.GPT2LMHeadModel(shape).to(rig.device, torch.bfloat16).eval()
    _copy(model, theirs)
    ids = torch.from_numpy(prompts).to(rig.device)
    options = {"max_new_tokens": num_new, "min_new_tokens": num_new, "do_sample": False, "pad_token_id": 0}

    def run() -> torch.Tensor:
        out = theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return _first(out[:, ids.shape[1] :].tolist())

    return run


@torch.no_grad()
def _copy(model: Transformer, theirs: Any) -> None:
    """Our weights in their places; their matrices are transposed, their biases become zero."""
    body = theirs.transformer
    for name, parameter in theirs.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    pairs = [(body.wte, model.embedding), (body.wpe, model.position_embedding), (body.ln_f, model.final_norm)]
    for there, here in zip(body.h, model.blocks, strict=True):
        pairs += [(there.ln_1, here.attention_norm), (there.ln_2, here.mlp_norm)]
        for matrix, ours in (
            (there.attn.c_attn, here.attention.qkv),
            (there.attn.c_proj, here.attention.out),
            (there.mlp.c_fc, here.mlp.up),
            (there.mlp.c_proj, here.mlp.down),
        ):
            matrix.weight.copy_(ours.weight.T)
    for there, here in pairs:
        there.weight.copy_(here.weight)
