"""A whole training step of GPT-2's 124 million parameters, beside a compiled nanoGPT of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpu.comparison import OURS, Case, Comparison, Run, Target
from gpu.nanogpt import NanoGpt
from gpu.rig import Rig, size
from tempa.data.packed import Packed
from tempa.model import ModelConfig, Transformer
from tempa.train.optim import Optimizer, clip_gradients
from tempa.train.settings import TrainConfig

LENGTH = 1024
RATE = 6e-4
CLIP = 1.0
# Losses before the step, and norms of the gradient, by products of bfloat16.
TOLERANCE = 1e-2
COMPILED = "nanoGPT, torch.compile"


def cases() -> list[Case]:
    """Forward, backward, clipping and AdamW; the host's part counts."""
    return [Case(f"{rows} rows of {LENGTH} tokens", _case(rows), is_quick=rows == 32) for rows in (32, 8)]


def _case(num_rows: int) -> Callable[[Rig], Comparison]:
    def build(rig: Rig) -> Comparison:
        length = size(rig, LENGTH, 12)
        changes: dict[str, Any] = {"max_positions": length}
        if rig.is_tiny:
            changes |= {"depth": 2, "width": 32, "num_heads": 2}
        config = ModelConfig.preset("gpt2", vocab_size=size(rig, 50304, 60), **changes)
        # One token more, so that every token of the row has a target.
        shape = (size(rig, num_rows, 2), length + 1)
        ids = torch.from_numpy(np.random.default_rng(0).integers(0, config.vocab_size, shape))
        tokens = ids[:, :-1].numel()
        return Comparison(
            {
                OURS: lambda: _ours(rig, config, ids),
                COMPILED: lambda: _nanogpt(rig, config, ids, rig.compiled),
                "nanoGPT": lambda: _nanogpt(rig, config, ids, lambda model: model),
            },
            TOLERANCE,
            flops(config, tokens, length),
            unit="FLOP/s",
            ceiling="gemm",
            pace="whole",
            targets=(Target("ratio", 1.1, peer=COMPILED),),
            measures_memory=True,
        )

    return build


def flops(config: ModelConfig, num_tokens: int, length: int) -> float:
    """Of a step, as model FLOP utilisation counts them: 6 a weight and token, and all pairs of attention."""
    weights = config.num_params - config.max_positions * config.width
    return float(num_tokens * (6 * weights + 12 * config.depth * config.width * length))


def _model(rig: Rig, config: ModelConfig) -> Transformer:
    return Transformer(config, seed=1).to(rig.device)


def _ours(rig: Rig, config: ModelConfig, ids: Tensor) -> Run:
    model = _model(rig, config)
    optimizer = Optimizer([("", model)], TrainConfig(lr=RATE, optimizer="adamw", clip_norm=CLIP))
    num_rows, length = ids.shape[0], ids.shape[1] - 1
    batch = Packed(
        ids[:, :-1].flatten(),
        ids[:, 1:].flatten(),
        torch.ones(num_rows * length),
        torch.arange(num_rows + 1) * length,
    )

    def run() -> tuple[Tensor, Tensor]:
        with torch.autocast(rig.device.type, torch.bfloat16):
            total, _ = model.loss(batch.to(rig.device))
        mean = total / batch.num_tokens
        torch.autograd.backward(mean)
        norm = clip_gradients(optimizer.parameters.values(), CLIP)
        optimizer.step(1.0)
        return mean.detach(), norm

    return run


def _nanogpt(
    rig: Rig, config: ModelConfig, ids: Tensor, compiled: Callable[[nn.Module], Callable[..., Tensor]]
) -> Run:
    model = NanoGpt(config).to(rig.device)
    model.take(_model(rig, config))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)
    loss_of = compiled(model)

    def run() -> tuple[Tensor, Tensor]:
        inputs, targets = ids[:, :-1].to(rig.device), ids[:, 1:].to(rig.device)
        with torch.autocast(rig.device.type, torch.bfloat16):
            loss = loss_of(inputs, targets)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach(), norm

    return run
