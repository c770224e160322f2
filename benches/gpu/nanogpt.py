"""GPT-2 as short training scripts write it, for torch.compile: what our training step is measured beside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempa.model import ModelConfig, Transformer


class Block(nn.Module):
    """Pre-norm attention and feed-forward, without biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(config.width, bias=False)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.mlp_norm = nn.LayerNorm(config.width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, width) to (B, L, width)."""
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        out: Tensor = x + self.down(F.gelu(self.up(self.mlp_norm(x))))
        return out


class NanoGpt(nn.Module):
    """A language model with learned positions, its head the embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.max_positions, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_norm = nn.LayerNorm(config.width, bias=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of (B, L) tokens."""
        x = self.embedding(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.final_norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    @torch.no_grad()
    def take(self, model: Transformer) -> None:
        """Copy the weights of ours."""
        names = {"embedding": "embedding", "positions": "position_embedding", "final_norm": "final_norm"}
        ours = dict(model.named_parameters())
        for name, parameter in self.named_parameters():
            first, _, rest = name.partition(".")
            inner = rest
            for part in ("qkv", "out"):
                inner = inner.replace(f".{part}.", f".attention.{part}.")
            for part in ("up", "down"):
                inner = inner.replace(f".{part}.", f".mlp.{part}.")
            parameter.copy_(ours[f"blocks.{inner}" if first == "blocks" else f"{names[first]}.{rest}"])
