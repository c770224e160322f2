"""Settings that let a pretrained model follow instructions without tuning (Hewitt et al., 2024; lecture L21).

Three rules, each of which can be switched off: end-of-text becomes likelier as the answer grows, a few tokens
are made likelier or less likely, and tokens that were used become less likely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from tempa.sample.settings import Settings

# Nats added at every position. Angle brackets and bars imitate the markers of the prompt; the words go on
# with the question or evade it; signs of formatted, agreeing text are raised.
TOKEN_OFFSETS: Mapping[str, float] = MappingProxyType(
    {
        "<": -4, " <": -4, "|": -4,
        "I": -5, " I": -5, " We": -3, " What": -5, " should": -6,
        " *": 1, " -": 1, "  ": 1, " #": 1, " ##": 1, "\n": 1, " !": 1,
    }
)  # fmt: skip


def rule_adapter(
    encode: Callable[[str], Sequence[int]],
    end_ids: Sequence[int],
    *,
    stop_ramp: float = 15 / 250,
    offsets: Mapping[str, float] = TOKEN_OFFSETS,
    used_penalty: float = 1.5,
    temperature: float = 1.0,
) -> Settings:
    """The rule adapter as settings.

    Args:
        encode: Text to ids; an offset applies where its text is a single token.
        end_ids: Tokens that end the answer.
        stop_ramp: Nats added to those for each token of the answer; 0 switches the rule off. The default adds
            15 after 250 tokens.
        offsets: Nats added to tokens, by their text; empty switches the rule off.
        used_penalty: Nats taken from each token that the answer has; 0 switches the rule off.
        temperature: As of `Settings`.

    Returns:
        Settings with `stop_ids`, `stop_ramp`, `bias` and `presence_penalty`.

    >>> rule_adapter(lambda text: [ord(c) for c in text], [0], offsets={"<": -4}).bias
    {60: -4}
    """
    encoded = {text: encode(text) for text in offsets}
    return Settings(
        temperature=temperature,
        bias={ids[0]: offsets[text] for text, ids in encoded.items() if len(ids) == 1},
        stop_ids=tuple(end_ids),
        stop_ramp=stop_ramp,
        presence_penalty=used_penalty,
    )
