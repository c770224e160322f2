"""Model: a training step beside plain PyTorch, and the loss head beside full logits.

`plain torch` is the textbook module of the same shape: separate modules, a batch dimension, all logits at
once, each norm and rotation written out. One step is forward, backward and fused AdamW.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempa.data.packed import Packed
from tempa.model import ModelConfig, Transformer
from tempa.ops import linear_cross_entropy

ROWS, LENGTH, VOCAB = 12, 64, 65


class PlainBlock(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        if config.norm == "rms":
            self.norm_1, self.norm_2 = nn.RMSNorm(width, 1e-6), nn.RMSNorm(width, 1e-6)
        else:
            self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, C = x.shape
        H = self.config.num_heads
        q, k, v = (y.view(B, T, H, C // H).transpose(1, 2) for y in self.qkv(self.norm_1(x)).split(C, dim=2))
        if self.config.qk_norm:
            q, k = F.rms_norm(q, (C // H,), eps=1e-6), F.rms_norm(k, (C // H,), eps=1e-6)
        if self.config.positions == "rope":
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        inner = self.up(self.norm_2(x))
        return x + self.down(F.gelu(inner) if self.config.mlp == "gelu" else F.relu(inner).square())


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Plain(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.places = nn.Embedding(config.max_positions, config.width)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.depth))
        self.norm = self.blocks[0].norm_1.__class__(config.width, **self._norm_options())
        half = config.head_dim // 2
        angles = torch.outer(torch.arange(config.max_positions), 10000.0 ** -(torch.arange(half) / half))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def _norm_options(self) -> dict[str, object]:
        return {"eps": 1e-6} if self.config.norm == "rms" else {"bias": False}

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        T = ids.shape[1]
        x = self.tokens(ids)
        if self.config.positions == "learned":
            x = x + self.places(torch.arange(T))
        if self.config.embedding_norm:
            x = F.rms_norm(x, (x.shape[-1],), eps=1e-6)
        for block in self.blocks:
            x = block(x, self.cos[:T], self.sin[:T])
        logits = self.norm(x) @ self.tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")

    def take(self, model: Transformer) -> None:
        """Copy the weights of our model."""
        pairs = [(self.tokens, model.embedding), (self.norm, model.final_norm)]
        if model.position_embedding is not None:
            pairs.append((self.places, model.position_embedding))
        for mine, theirs in zip(self.blocks, model.blocks, strict=True):
            pairs += [(mine.norm_1, theirs.attention_norm), (mine.norm_2, theirs.mlp_norm)]
            pairs += [(mine.qkv, theirs.attention.qkv), (mine.out, theirs.attention.out)]
            pairs += [(mine.up, theirs.mlp.up), (mine.down, theirs.mlp.down)]
        for mine, theirs in pairs:
            mine.weight = nn.Parameter(theirs.weight.detach().clone())


def stepper(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    used = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(used, lr=1e-3, betas=(0.9, 0.99), fused=True)

    def step() -> None:
        (loss() / (ROWS * LENGTH)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


@pytest.mark.benchmark(group="training step of 768 tokens, 0.8M parameters", warmup=True, min_rounds=30)
@pytest.mark.parametrize("side", ["ours", "plain torch"])
@pytest.mark.parametrize("shape", ["nanogpt", "1m"])
def test_step(benchmark, shape: str, side: str) -> None:
    model = Transformer(ModelConfig.preset(shape, VOCAB, max_positions=LENGTH))
    plain = Plain(model.config)
    plain.take(model)
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    batch = Packed(x.flatten(), y.flatten(), torch.ones(ROWS * LENGTH), torch.arange(ROWS + 1) * LENGTH)
    ours, theirs = model.loss(batch)[0], plain(x, y)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(model.embedding.weight.grad, plain.tokens.weight.grad, rtol=1e-3, atol=1e-2)
    benchmark.extra_info["tokens"] = ROWS * LENGTH
    if side == "ours":
        benchmark(stepper(model, lambda: model.loss(batch)[0]))
    else:
        benchmark(stepper(plain, lambda: plain(x, y)))


@pytest.mark.benchmark(group="training step, documents of 8 to 256 tokens, 0.8M parameters", min_rounds=10)
@pytest.mark.parametrize("side", ["ours", "plain torch, padded"])
def test_documents(benchmark, side: str) -> None:
    """The same documents: ours packs them, the peer pads them to the longest and ignores the padding."""
    model = Transformer(ModelConfig.preset("1m", VOCAB, max_positions=256))
    plain = Plain(model.config)
    plain.take(model)
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(8), np.log(256), 24)).astype(int)
    rows = [rng.integers(0, VOCAB, length + 1) for length in lengths]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
    targets = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        ids[i, : len(row) - 1], targets[i, : len(row) - 1] = (
            torch.from_numpy(row[:-1]),
            torch.from_numpy(row[1:]),
        )
    batch = Packed(
        torch.from_numpy(np.concatenate([row[:-1] for row in rows])),
        torch.from_numpy(np.concatenate([row[1:] for row in rows])),
        torch.ones(int(lengths.sum())),
        torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])),
    )
    torch.testing.assert_close(model.loss(batch)[0], plain(ids, targets), rtol=1e-4, atol=0)
    benchmark.extra_info["tokens"] = int(lengths.sum())
    if side == "ours":
        benchmark(stepper(model, lambda: model.loss(batch)[0]))
    else:
        benchmark(stepper(plain, lambda: plain(ids, targets)))


@pytest.mark.benchmark(
    group="loss head forward and backward, 1024 tokens, width 256, vocabulary 50304", min_rounds=5
)
@pytest.mark.parametrize("side", ["ours", "full logits"])
def test_head(benchmark, side: str) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1024, 256, generator=generator).requires_grad_()
    weight = (torch.randn(50304, 256, generator=generator) * 0.02).requires_grad_()
    targets, weights = torch.randint(0, 50304, (1024,), generator=generator), torch.ones(1024)

    def full() -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            F.cross_entropy(hidden @ weight.T, targets, reduction="sum"), (hidden, weight)
        )

    def ours() -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            linear_cross_entropy(hidden, weight, targets, weights)[0], (hidden, weight)
        )

    for a, b in zip(ours(), full(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    benchmark.extra_info["tokens"] = 1024
    benchmark(ours if side == "ours" else full)
