"""The shape of a Transformer, as a frozen dataclass, and the named shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only Transformer. The defaults are the modern recipe; `gpt2` gives the classic one.

    Attributes:
        vocab_size: Rows of the embedding.
        depth: Number of blocks.
        width: Size of the residual stream.
        num_heads: Query heads.
        num_kv_heads: Key and value heads, a divisor of `num_heads`; 0 means as many.
        head_dim: Size of a head; 0 means `width / num_heads`.
        mlp: Non-linearity of the feed-forward layer.
        mlp_width: Its inner size; 0 means 4 times `width`, or 8/3 of it for swiglu, which has three matrices.
        norm: "rms" (RMSNorm) or "layer" (LayerNorm).
        norm_eps: Added under the root.
        positions: "rope" rotates queries and keys; "learned" adds a vector to the embedding.
        rope_theta: Base of the rotary wavelengths.
        max_positions: Longest sequence.
        window: Tokens that attention looks back, itself included; all when None.
        qk_norm: Whether queries and keys are normalised before the dot product.
        embedding_norm: Whether the embedding is normalised, so the residual stream starts at scale 1.
        tied: Whether the output head is the embedding.
        bias: Whether linear layers and LayerNorm have a bias.
        softcap: Bound on the logits; none when None.
        init: "modern" (output projections start at zero) or "gpt2" (normal, 0.02).
    """

    vocab_size: int
    depth: int = 4
    width: int = 128
    num_heads: int = 4
    num_kv_heads: int = 0
    head_dim: int = 0
    mlp: Literal["relu2", "swiglu", "gelu"] = "relu2"
    mlp_width: int = 0
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    positions: Literal["rope", "learned"] = "rope"
    rope_theta: float = 10000.0
    max_positions: int = 1024
    window: int | None = None
    qk_norm: bool = True
    embedding_norm: bool = True
    tied: bool = True
    bias: bool = False
    softcap: float | None = None
    init: Literal["modern", "gpt2"] = "modern"

    def __post_init__(self) -> None:
        derived = {
            "num_kv_heads": self.num_heads,
            "head_dim": self.width // max(self.num_heads, 1),
            # Multiples of 32 keep rows of the matrices aligned.
            "mlp_width": (self.width * 8 // 3 + 31) // 32 * 32 if self.mlp == "swiglu" else 4 * self.width,
        }
        for name, value in derived.items():
            if getattr(self, name) == 0:
                object.__setattr__(self, name, value)
        for name in ("vocab_size", "depth", "width", "num_heads", "num_kv_heads", "head_dim", "mlp_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_positions < 1:
            raise ValueError(f"max_positions must be at least 1, got {self.max_positions}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, got {self.head_dim}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    @classmethod
    def preset(cls, name: str, vocab_size: int, **changes: Any) -> ModelConfig:
        """A named shape: `1m` to `1b` by parameters outside the embeddings, `nanogpt` or `gpt2`.

        >>> ModelConfig.preset("85m", vocab_size=50304).width
        768
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
        return cls(vocab_size=vocab_size, **{**PRESETS[name], **changes})

    @classmethod
    def from_depth(cls, depth: int, vocab_size: int, **changes: Any) -> ModelConfig:
        """The modern recipe at a depth: width 64 depth, heads of 64, about 49152 depth^3 parameters."""
        return cls(
            vocab_size=vocab_size, **{"depth": depth, "width": 64 * depth, "num_heads": depth, **changes}
        )

    def with_vocab_size(self, vocab_size: int) -> ModelConfig:
        """The same shape for another tokenizer."""
        return replace(self, vocab_size=vocab_size)

    @property
    def num_params(self) -> int:
        """Parameters of the model, without building it.

        >>> ModelConfig.preset("gpt2", vocab_size=50257).num_params
        124337664
        """
        qkv = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        up = self.mlp_width * (2 if self.mlp == "swiglu" else 1)
        matrices = self.width * (qkv + self.num_heads * self.head_dim + up + self.mlp_width)
        biases = (qkv + up + 2 * self.width) * self.bias
        norm = self.width * (1 + (self.bias and self.norm == "layer"))
        learned = self.max_positions * self.width * (self.positions == "learned")
        embeddings = self.vocab_size * self.width * (1 if self.tied else 2)
        return self.depth * (matrices + biases + 2 * norm) + norm + learned + embeddings


_CHOICES = {
    "mlp": ("relu2", "swiglu", "gelu"),
    "norm": ("rms", "layer"),
    "positions": ("rope", "learned"),
    "init": ("modern", "gpt2"),
}

# What nanoGPT trains: GPT-2 with exact GELU and, by default, no biases.
_GPT2: dict[str, Any] = {
    "mlp": "gelu",
    "norm": "layer",
    "norm_eps": 1e-5,
    "positions": "learned",
    "qk_norm": False,
    "embedding_norm": False,
    "init": "gpt2",
}


def _by_depth(depth: int) -> dict[str, Any]:
    return {"depth": depth, "width": 64 * depth, "num_heads": depth}


PRESETS: dict[str, dict[str, Any]] = {
    "1m": {"depth": 4, "width": 128, "num_heads": 4},
    "3m": _by_depth(4),
    "10m": _by_depth(6),
    "25m": _by_depth(8),
    "50m": _by_depth(10),
    "85m": _by_depth(12),
    "200m": _by_depth(16),
    "400m": _by_depth(20),
    "1b": {**_by_depth(28), "max_positions": 2048},
    "nanogpt": {**_GPT2, "depth": 4, "width": 128, "num_heads": 4, "max_positions": 64},
    "gpt2": {**_GPT2, "depth": 12, "width": 768, "num_heads": 12, "max_positions": 1024},
}
