"""What a request asks of the sampler.

The steps apply in this order, whatever the order of the fields: the mask of a step and `allowed_ids`; `bias`
and `stop_ramp`; repetition, frequency, then presence penalty; `bad_ids`, and `stop_ids` before
`min_new_tokens`; `temperature`; then `top_n_sigma`, `top_k`, `top_p`, `min_p` and `typical_p`, each on what
the one before left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tempa import _core


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How tokens are drawn. The default draws from the model's own distribution.

    Equally likely tokens are ordered by id, so every cut keeps a definite set.

    Attributes:
        temperature: Divides the logits; 0 takes the most likely token, the lowest id of equals.
        top_k: Draw from this many most likely tokens; 0 means all.
        top_p: Then from the fewest of the most likely that hold this share of the probability.
        min_p: Then from those at least this share as likely as the best, after the temperature; 0 means all.
        top_n_sigma: First of all cuts: logits within so many standard deviations of the largest; 0 means all.
        typical_p: Last: the fewest tokens whose surprisal is nearest to the entropy that hold this share.
        repetition_penalty: Divides positive logits of tokens of prompt and output, multiplies negative ones;
            1 is off.
        presence_penalty: Taken from the logits of tokens of the output.
        frequency_penalty: Taken from them for each time they occur there.
        bias: Added to the logits of these tokens.
        allowed_ids: The only tokens that may be drawn; None allows all.
        bad_ids: Tokens that may not be drawn.
        min_new_tokens: How long the output must be before one of `stop_ids` may be drawn.
        stop_ids: Tokens that end the output.
        stop_ramp: Added to the logits of `stop_ids` for each token of the output.

    Raises:
        ValueError: If a value is out of its range.

    >>> Settings(temperature=0.7, top_p=0.9).top_k
    0
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    top_n_sigma: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    allowed_ids: tuple[int, ...] | None = None
    bad_ids: tuple[int, ...] = ()
    min_new_tokens: int = 0
    stop_ids: tuple[int, ...] = ()
    stop_ramp: float = 0.0

    def __post_init__(self) -> None:
        _core.check_sampling(self)
