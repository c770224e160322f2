"""The decoder-only Transformer: one forward for training, scoring and generation.

Tokens are flat, (T, ...), and an `AttentionSpec` says which belong together, so a batch has no padding and
no batch dimension. Parameters are float32; autocast chooses the dtype of the products.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempa.data.packed import Packed
from tempa.model.cache import KvCache
from tempa.model.config import ModelConfig
from tempa.model.init import initialize
from tempa.ops import (
    AttentionSpec,
    LayerCache,
    add_layer_norm,
    add_rms_norm,
    attention,
    layer_norm,
    linear_cross_entropy,
    linear_logp,
    relu2,
    rms_norm,
    rope,
    rotations,
    softcap,
    swiglu,
)


class Norm(nn.Module):
    """RMSNorm or LayerNorm, as the configuration says."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps, self.is_rms = config.norm_eps, config.norm == "rms"
        self.weight = nn.Parameter(torch.ones(config.width))
        has_bias = config.bias and not self.is_rms
        self.bias = nn.Parameter(torch.zeros(config.width)) if has_bias else None

    def forward(self, x: Tensor, branch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Add the branch to the residual stream, (..., width), and return the norm of that and the sum."""
        if branch is None:
            if self.is_rms:
                return rms_norm(x, self.weight, self.eps, for_product=True), x
            return layer_norm(x, self.weight, self.bias, self.eps, for_product=True), x
        if self.is_rms:
            return add_rms_norm(branch, x, self.weight, self.eps, for_product=True)
        return add_layer_norm(branch, x, self.weight, self.bias, self.eps, for_product=True)


class Attention(nn.Module):
    """Causal self-attention; queries, keys and values come from one matrix product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        inner = config.num_heads * config.head_dim
        self.qkv = nn.Linear(
            config.width, inner + 2 * config.num_kv_heads * config.head_dim, bias=config.bias
        )
        self.out = nn.Linear(inner, config.width, bias=config.bias)

    def forward(
        self, x: Tensor, turns: Tensor | None, spec: AttentionSpec, cache: LayerCache | None
    ) -> Tensor:
        """(T, width) to (T, width)."""
        c = self.config
        # What a cache keeps is turned on its way there.
        is_kept = cache is not None and spec.slots is not None
        qkv = self.qkv(x).unflatten(-1, (-1, c.head_dim))  # (T, H + 2 Hkv, D)
        if c.qk_norm or turns is not None:
            # Queries and keys together: half the passes.
            qk, v = qkv.split((c.num_heads + c.num_kv_heads, c.num_kv_heads), dim=1)
            if c.qk_norm:
                qk = rms_norm(qk, eps=c.norm_eps)
            if turns is not None and not is_kept:
                qk = rope(qk, turns)
            q, k = qk.split((c.num_heads, c.num_kv_heads), dim=1)
        else:
            q, k, v = qkv.split((c.num_heads, c.num_kv_heads, c.num_kv_heads), dim=1)
        attended = attention(q, k, v, spec, cache, turns if is_kept else None)
        out: Tensor = self.out(attended.flatten(1))
        return out


class Mlp(nn.Module):
    """The feed-forward layer; for swiglu, `up` holds the gate in its first half."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        up_width = config.mlp_width * (2 if config.mlp == "swiglu" else 1)
        self.up = nn.Linear(config.width, up_width, bias=config.bias)
        self.down = nn.Linear(config.mlp_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(T, width) to (T, width)."""
        inner = self.up(x)
        match self.kind:
            case "swiglu":
                inner = swiglu(inner)
            case "relu2":
                inner = relu2(inner)
            case "gelu":
                inner = F.gelu(inner)
        out: Tensor = self.down(inner)
        return out


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))` (pre-norm; ch2 B3).

    Each sum is left to the norm that comes next, so on CUDA the two are one kernel.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config)
        self.attention = Attention(config)
        self.mlp_norm = Norm(config)
        self.mlp = Mlp(config)

    def forward(
        self,
        x: Tensor,
        branch: Tensor | None,
        turns: Tensor | None,
        spec: AttentionSpec,
        cache: LayerCache | None,
    ) -> tuple[Tensor, Tensor]:
        """The residual stream and what is still to be added to it, (T, width) both, in and out."""
        normed, x = self.attention_norm(x, branch)
        normed, x = self.mlp_norm(x, self.attention(normed, turns, spec, cache))
        return x, self.mlp(normed)


class Transformer(nn.Module):
    """A language model over flat tokens.

    Args:
        config: The shape.
        seed: Of the initial weights, which are the same for the same seed on any machine.

    >>> model = Transformer(ModelConfig(vocab_size=10, depth=1, width=8, num_heads=2))
    >>> batch = Packed.from_rows([np.array([1, 2, 3]), np.array([4, 5])])
    >>> model.logps(batch).shape
    torch.Size([5])
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.device("cpu"):
            self.embedding = nn.Embedding(config.vocab_size, config.width)
            learned = config.positions == "learned"
            self.position_embedding = nn.Embedding(config.max_positions, config.width) if learned else None
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
            self.final_norm = Norm(config)
            self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        initialize(self, config, seed)

    @property
    def head_weight(self) -> Tensor:
        """(V, width), the output embedding."""
        return self.embedding.weight if self.head is None else self.head.weight

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.weight.device

    @property
    def num_params(self) -> int:
        """Parameters, a tied embedding counted once."""
        return sum(p.numel() for p in self.parameters())

    def forward(
        self,
        ids: Tensor | None = None,
        *,
        positions: Tensor,
        attention: AttentionSpec,
        cache: KvCache | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final norm.

        Args:
            ids: (T,) int64 tokens; or give `inputs_embeds`.
            positions: (T,) int64, each token's place in its own sequence.
            attention: Which tokens belong together.
            cache: Keys and values kept between calls, for a spec with slots.
            inputs_embeds: (T, width), instead of `ids`.

        Returns:
            (T, width)

        Raises:
            ValueError: If not exactly one of `ids` and `inputs_embeds` is given, or a sequence is too long.
        """
        if (ids is None) == (inputs_embeds is None):
            raise ValueError("give either ids or inputs_embeds")
        c = self.config
        if attention.max_length > c.max_positions:
            raise ValueError(
                f"a sequence of {attention.max_length} tokens exceeds max_positions {c.max_positions}"
            )
        x = self.embedding(ids) if inputs_embeds is None else inputs_embeds
        turns = None
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        else:
            wide = torch.promote_types(x.dtype, torch.float32)
            turns = rotations(
                positions, c.head_dim, max_positions=c.max_positions, theta=c.rope_theta, dtype=wide
            )
        if c.embedding_norm:
            x = rms_norm(x, eps=c.norm_eps)
        branch = None
        for i, block in enumerate(self.blocks):
            x, branch = block(x, branch, turns, attention, None if cache is None else cache.layer(i))
        hidden: Tensor = self.final_norm(x, branch)[0]
        return hidden

    def hidden(self, batch: Packed) -> Tensor:
        """(T, width) for whole sequences."""
        spec = AttentionSpec.packed(batch.cu_seqlens, bounds=batch.bounds, window=self.config.window)
        out: Tensor = self(batch.ids, positions=batch.positions, attention=spec)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) float32 from hidden states; prefer `loss` and `logps`, which never hold them all."""
        logits = F.linear(hidden, self.head_weight)
        return softcap(logits.to(torch.promote_types(logits.dtype, torch.float32)), self.config.softcap)

    def loss(self, batch: Packed) -> tuple[Tensor, Tensor]:
        """Weighted sum of the negative log-likelihood of the targets, and the sum of the weights."""
        return linear_cross_entropy(
            self.hidden(batch),
            self.head_weight,
            batch.targets,
            batch.weights,
            chosen=batch.trained,
            softcap=self.config.softcap,
        )

    def logps(self, batch: Packed, *, temperature: float = 1.0) -> Tensor:
        """(T,) float32 log-probability of every target, as a sampler with this temperature has it."""
        return linear_logp(
            self.hidden(batch),
            self.head_weight,
            batch.targets,
            temperature=temperature,
            softcap=self.config.softcap,
        )


class ScalarHead(nn.Module):
    """A Transformer that gives one number per token: a value or a reward.

    Args:
        backbone: The model; it is shared, not copied.

    The head starts at zero, so the first prediction is 0 everywhere.
    """

    def __init__(self, backbone: Transformer) -> None:
        super().__init__()
        self.backbone = backbone
        self.scalar = nn.Linear(backbone.config.width, 1)
        nn.init.zeros_(self.scalar.weight)
        nn.init.zeros_(self.scalar.bias)
        self.scalar.to(backbone.device)

    @property
    def config(self) -> ModelConfig:
        """The shape of the backbone."""
        return self.backbone.config

    def forward(self, batch: Packed) -> Tensor:
        """(T,) float32."""
        values: Tensor = self.scalar(self.backbone.hidden(batch)).squeeze(1)
        return values.to(torch.promote_types(values.dtype, torch.float32))
