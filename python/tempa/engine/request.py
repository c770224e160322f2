"""What is asked of an engine, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tempa.engine.sampling import FinishReason, Sampling

Ids: TypeAlias = Sequence[int] | NDArray[np.integer]

# Called with the ids of a sample so far whenever one was drawn; what it returns is added to them.
Hook: TypeAlias = Callable[[list[int]], Sequence[int]]

# The logits of each prompt of a request, (prompts, V), to those that are drawn from, (V,).
Combine: TypeAlias = Callable[[Tensor], Tensor]


class Constraint(Protocol):
    """Says which tokens may come next, such as a matcher of xgrammar or llguidance."""

    def fill(self, words: NDArray[np.int32]) -> None:
        """Set bit `i % 32` of word `i // 32` if token `i` may be drawn, and clear it if not."""
        ...

    def accept(self, token: int) -> None:
        """Take notice of a token that was drawn."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A prompt, how it is completed, and what takes part in it.

    Attributes:
        prompt: Token ids, at least one.
        sampling: How tokens are drawn and when to stop.
        namespace: Only requests of the same one share cached prefixes: a tenant, an adapter.
        others: More prompts, whose logits are combined with those of the first; what is drawn goes on all of
            them. An ensemble, or what to contrast with.
        combine: How; the default is the mean of the log-probabilities.
        inputs_embeds: (tokens of the prompt, width), which are read instead of its tokens.
        prefix_kv: (depth, 2, tokens, Hkv, D), keys and values that stand before the prompt.
        hook: Puts tokens in after those that were drawn: results of tools.
        constraint: Makes a constraint for each sample.
        top_logps: How many of the likeliest tokens are told with each one.
    """

    prompt: Ids
    sampling: Sampling = field(default_factory=Sampling)
    namespace: bytes = b""
    others: Sequence[Ids] = ()
    combine: Combine | None = None
    inputs_embeds: Tensor | None = None
    prefix_kv: Tensor | None = None
    hook: Hook | None = None
    constraint: Callable[[], Constraint] | None = None
    top_logps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.top_logps <= 1000:
            raise ValueError(f"top_logps must be 0 to 1000, got {self.top_logps}")
        if self.combine is not None and not self.others:
            raise ValueError("combine needs other prompts, whose logits it combines with those of the first")


class Event(NamedTuple):
    """A token of a sample, or its end.

    Attributes:
        ticket: Of the request.
        sample: Which of its samples.
        token: The token; None if the sample ends without one.
        logp: Its log-probability, as in `Completion.logps`.
        top: The likeliest tokens at its place and their log-probabilities, the best first.
        text: What it settles of the text; empty while it may be part of a character or of a stop string.
        finish_reason: Why the sample has ended, if it has.
        error: What has ended it with the reason "error", if something was raised: by a function of the
            request, or by the engine. None if there was no token to draw.
    """

    ticket: int
    sample: int
    token: int | None
    logp: float
    top: tuple[tuple[int, float], ...]
    text: str
    finish_reason: FinishReason | None
    error: BaseException | None = None
