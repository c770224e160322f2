"""Beam search: the likeliest continuations, by keeping the best few at every length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tempa.engine.engine import Engine
from tempa.engine.request import Ids
from tempa.engine.sequences import Sequences


@dataclass(frozen=True, eq=False)
class Beam:
    """A continuation that was found.

    Attributes:
        ids: Its tokens, with the stop token if there is one.
        logp: Its log-probability.
        score: The log-probability over the length to the power of the length penalty.
    """

    ids: list[int]
    logp: float
    score: float


def beam_search(
    engine: Engine,
    prompt: Ids,
    *,
    num_beams: int = 4,
    max_new_tokens: int = 128,
    stop_ids: Sequence[int] = (),
    length_penalty: float = 1.0,
) -> list[Beam]:
    """Continuations of high probability (ch3 F7); with as many beams as continuations, the likeliest of all.

    Args:
        engine: Has nothing else to do meanwhile.
        prompt: Token ids, at least one.
        num_beams: Continuations that are kept at every length, and returned.
        max_new_tokens: The longest continuation.
        stop_ids: Tokens that end one.
        length_penalty: 0 compares sums of log-probabilities, 1 their means.

    Returns:
        `num_beams` continuations at most, the best score first; equal ones in order of their ids.

    Raises:
        ValueError: If the prompt does not fit the model or the beams do not fit the cache.

    >>> from tempa.model import ModelConfig, Transformer
    >>> engine = Engine(Transformer(ModelConfig(vocab_size=10, depth=1, width=8, num_heads=2)))
    >>> [len(beam.ids) for beam in beam_search(engine, [1, 2], num_beams=3, max_new_tokens=5)]
    [5, 5, 5]
    """
    for name, value in (("num_beams", num_beams), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    tokens = engine.check_prompt(prompt)
    sequences = engine.sequences()
    room = min(max_new_tokens, engine.model.config.max_positions - len(tokens))
    (first,), (cached,) = sequences.admit([tokens])
    live = _Live(sequences, [int(first)], [[]], np.zeros(1))
    ended: list[Beam] = []
    try:
        fed = tokens[cached:]
        logits = sequences.advance(np.array([first]), np.array([len(fed)]), fed)
        for length in range(1, room + 1):
            logps = live.logps[:, None] + logits.double().log_softmax(-1).cpu().numpy()  # (beams, V)
            goes_on: list[tuple[int, int]] = []
            for parent, token in _best(logps, num_beams * (1 + len(stop_ids))):
                if token in stop_ids or length == room:
                    ids, logp = [*live.ids[parent], token], float(logps[parent, token])
                    ended.append(Beam(ids, logp, logp / length**length_penalty))
                elif len(goes_on) < num_beams:
                    goes_on.append((parent, token))
            ended = sorted(ended, key=lambda beam: (-beam.score, beam.ids))[:num_beams]
            if not goes_on or _is_settled(ended, num_beams, logps, goes_on, room, length_penalty):
                break
            live.branch(goes_on, logps)
            drawn = np.array([ids[-1] for ids in live.ids])
            logits = sequences.advance(
                np.array(live.handles), np.ones(len(drawn), np.int64), drawn, new_ids=drawn
            )
    finally:
        sequences.free(np.array(live.handles))
    return ended


def _best(logps: NDArray[np.float64], count: int) -> list[tuple[int, int]]:
    """(beam, token) of the likeliest, equals in order."""
    flat = logps.ravel()
    order = np.lexsort((np.arange(len(flat)), -flat))[:count]
    return [(int(one) // logps.shape[1], int(one) % logps.shape[1]) for one in order]


def _is_settled(
    ended: list[Beam],
    num_beams: int,
    logps: NDArray[np.float64],
    goes_on: list[tuple[int, int]],
    room: int,
    length_penalty: float,
) -> bool:
    """Whether nothing that goes on can come to be among the best: its log-probability only falls."""
    most = max(logps[parent, token] for parent, token in goes_on)
    return len(ended) == num_beams and ended[-1].score >= most / room ** max(length_penalty, 0.0)


@dataclass(eq=False)
class _Live:
    """Continuations that go on, each with a sequence of its own."""

    sequences: Sequences
    handles: list[int]
    ids: list[list[int]]
    logps: NDArray[np.float64]

    def branch(self, children: list[tuple[int, int]], logps: NDArray[np.float64]) -> None:
        """Go on with (beam, token) pairs, which share the blocks of their beam."""
        counts = Counter(parent for parent, _ in children)
        unused = [handle for i, handle in enumerate(self.handles) if i not in counts]
        if unused:
            self.sequences.free(np.array(unused))
        spare = {
            i: [self.handles[i], *self.sequences.fork(self.handles[i], n - 1).tolist()]
            for i, n in counts.items()
        }
        self.handles = [spare[parent].pop() for parent, _ in children]
        self.ids = [[*self.ids[parent], token] for parent, token in children]
        self.logps = np.array([logps[parent, token] for parent, token in children])
