"""Settings that every kind of training shares.

A recipe's configuration inherits from `TrainConfig` and adds its own fields, so `fit` takes any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the loop trains, whatever it trains.

    Attributes:
        steps: Number of updates.
        lr: Peak learning rate of AdamW.
        muon_lr: Peak learning rate of Muon, which moves the hidden matrices when `optimizer` is "muon".
        optimizer: "adamw" for all parameters, or "muon" for hidden matrices and AdamW for the rest.
        schedule: Shape of the learning rate after warm-up.
        warmup_steps: Updates over which the rate rises in equal steps to its peak.
        min_lr_ratio: Rate of the last update as a share of the peak.
        decay_fraction: Share of the updates in which the "wsd" schedule falls from the peak.
        betas: Decay of the running means of the gradient, Muon's included, and of AdamW's of its square.
        weight_decay: Decoupled decay of matrices, embeddings included; vectors are not decayed.
        clip_norm: Largest global gradient norm; 0 does not clip.
        precision: "auto" takes bf16 where this machine computes the model faster in it.
        eval_every: Updates between evaluations; 0 evaluates only at the end.
        save_every: Updates between checkpoints; 0 saves only at the end.
        keep_checkpoints: How many of the newest checkpoints stay on disk.
        log_every: Updates between rows of metrics.jsonl.
        seed: Everything random in the run follows from it.
        device: "cpu", "cuda", "cuda:1", or "auto" for a GPU if there is one.
    """

    steps: int = 1000
    lr: float = 3e-3
    muon_lr: float = 0.02
    optimizer: Literal["adamw", "muon"] = "muon"
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup_steps: int = 20
    min_lr_ratio: float = 0.1
    decay_fraction: float = 0.3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    eval_every: int = 100
    save_every: int = 100
    keep_checkpoints: int = 2
    log_every: int = 10
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        positive = ("steps", "lr", "muon_lr", "keep_checkpoints", "log_every")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "clip_norm", "eval_every", "save_every", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("min_lr_ratio", "decay_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")
