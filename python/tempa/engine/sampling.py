"""What a generation asks for, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tempa.sample import Settings

# A stop token or string, the limit of tokens, or logits from which nothing can be drawn.
FinishReason: TypeAlias = Literal["stop", "length", "error"]


@dataclass(frozen=True, kw_only=True)
class Sampling(Settings):
    """How tokens are drawn, all that `tempa.sample.Settings` has, and when to stop.

    Attributes:
        max_new_tokens: Most tokens to draw; fewer if the model's `max_positions` comes first.
        seed: Sample i draws with `seed + i`, at a counter that is the token's position. The same seed gives
            the same tokens in any batch; give the prompts of a batch seeds at least `n` apart.
        n: Samples for each prompt.
        stop: Strings that end the text, wherever tokens are cut; the text ends before them.
        stop_ids: Tokens that end it; the text ends before them.
    """

    max_new_tokens: int = 128
    seed: int = 0
    n: int = 1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
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
        ids: (n,) int64, the tokens, with the stop token if one was drawn.
        logps: (n,) float32, the log-probability of each under the temperature, before `top_k` and `top_p`; at
            temperature 0, that of temperature 1. `Transformer.logps` gives the same. NaN for tokens that a
            hook put in.
        text: The decoded tokens, without what stopped it.
        finish_reason: "stop" (a stop token or string) or "length".
        top: The likeliest tokens and their log-probabilities at each place, if the request asked for them.
    """

    ids: NDArray[np.int64]
    logps: NDArray[np.float32]
    text: str
    finish_reason: FinishReason
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
