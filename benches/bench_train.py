"""Tiny Shakespeare: CPU seconds and steps to a validation loss, on one thread.

Characters are tokens, the last tenth is held out, a step reads 12 rows of 64 tokens, models have 0.8M parameters.
The loss is the mean over the whole held-out text in rows of 64, the same for every row of the table; time counts
updates, not evaluations. `python benches/bench_train.py` prints the table without pytest.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempa.train.pretrain import PretrainConfig, pretrain

# What nanoGPT's CPU configuration reaches in 2000 steps.
TARGET = 1.886
NANOGPT_STEPS = 2000


@dataclass(frozen=True)
class Row:
    """What one way to train came to."""

    side: str
    steps: int
    val_loss: float
    cpu_s: float
    wall_s: float


class Block(nn.Module):
    """GPT-2's block, as nanoGPT writes it: pre-norm, no biases, exact GELU."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        qkv = self.qkv(self.norm1(x)).split(C, dim=2)
        q, k, v = (y.view(B, T, self.num_heads, C // self.num_heads).transpose(1, 2) for y in qkv)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGpt(nn.Module):
    """GPT-2 with a tied head."""

    def __init__(self, vocab_size: int, depth: int = 4, width: int = 128, heads: int = 4, length: int = 64) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if into_residual else 0.02)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        logits = F.linear(self.norm(h), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))


def plain_loop(text: str, steps: int) -> Row:
    """nanoGPT's loop in plain torch: random windows, AdamW, warm-up and cosine, clipping."""
    torch.manual_seed(1337)
    characters = sorted(set(text))
    ids = torch.tensor([characters.index(c) for c in text])
    split = int(0.9 * len(ids))
    train, held_out = ids[:split], ids[split:]
    model = PlainGpt(len(characters))
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.99),
        fused=True,  # nanoGPT fuses on GPUs alone; here it would only be slower without
    )
    cpu, wall = time.process_time(), time.perf_counter()
    for step in range(steps):
        starts = torch.randint(len(train) - 64, (12,))
        x = torch.stack([train[i : i + 64] for i in starts])
        y = torch.stack([train[i + 1 : i + 65] for i in starts])
        done = (step - 100) / (NANOGPT_STEPS - 100)
        lr = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + 4.5e-4 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = lr
        model(x, y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    rows = (len(held_out) - 1) // 64
    x, y = held_out[: rows * 64].view(rows, 64), held_out[1 : rows * 64 + 1].view(rows, 64)
    with torch.no_grad():
        val_loss = sum(float(model(a, b)) * len(a) for a, b in zip(x.split(64), y.split(64), strict=True)) / rows
    return Row("plain torch loop", steps, val_loss, cpu, wall)


def tempa_run(side: str, config: PretrainConfig) -> Row:
    result = pretrain(config)
    return Row(side, result.steps, result.metrics["loss"], result.train_cpu_s, result.train_s)


def nanogpt_config(data: Path, out: Path) -> PretrainConfig:
    """nanoGPT's CPU configuration."""
    return PretrainConfig(
        data=data,
        out=out,
        tokenizer="characters",
        model="nanogpt",
        mode="windows",
        seq_len=64,
        batch_size=12,
        steps=NANOGPT_STEPS,
        optimizer="adamw",
        lr=1e-3,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        warmup_steps=100,
        schedule="cosine",
        min_lr_ratio=0.1,
        clip_norm=1.0,
        eval_every=0,
        eval_tokens=0,
        save_every=0,
        precision="fp32",
        device="cpu",
    )


def modern_config(data: Path, out: Path, optimizer: str) -> PretrainConfig:
    """Rotary positions, normalised queries and keys, squared ReLU, zero-initialised outputs; tuned rates."""
    tuned = {
        "muon": {"steps": 250, "lr": 0.02, "muon_lr": 0.03},
        "adamw": {"steps": 500, "lr": 0.003},
    }[optimizer]
    return dataclasses.replace(
        nanogpt_config(data, out),
        model="1m",
        optimizer=optimizer,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        warmup_steps=10,
        schedule="wsd",
        decay_fraction=0.6,
        min_lr_ratio=0.0,
        **tuned,
    )
