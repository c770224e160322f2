"""What a generation asks for, and what it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn and when to stop.

    Attributes:
        max_new_tokens: Most tokens to draw; fewer if the model's `max_positions` comes first.
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Draw from this many most likely tokens; 0 means all.
        top_p: Then from the fewest that hold this share of the probability.
        seed: Sample i draws with `seed + i`, at a counter that is the token's position. The same seed gives
            the same tokens in any batch; give the prompts of a batch seeds at least `n` apart.
        n: Samples for each prompt.
        stop: Strings that end the text, wherever tokens are cut; the text ends before them.
        stop_ids: Tokens that end it; the text ends before them.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or a positive number, got {self.temperature}")
        if not 0 <= self.top_k < 1 << 32:
            raise ValueError(f"top_k must be 0 (all tokens) or positive, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")
        if "" in self.stop:
            raise ValueError("a stop string must not be empty: it would stop every text at once")


@dataclass(frozen=True, eq=False)
class Completion:
    """One sample.

    Attributes:
        ids: (n,) int64, the drawn tokens, with the stop token if one was drawn.
        logps: (n,) float32, the log-probability of each under the temperature, before `top_k` and `top_p`; at
            temperature 0, that of temperature 1. `Transformer.logps` gives the same.
        text: The decoded tokens, without what stopped it.
        finish_reason: "stop" (a stop token or string) or "length".
    """

    ids: NDArray[np.int64]
    logps: NDArray[np.float32]
    text: str
    finish_reason: Literal["stop", "length"]
