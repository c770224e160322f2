"""Speculative decoding: several tokens for one pass of the model, by guessing them first.

What is drawn does not change: with guesses that are certain, such as those found in the prompt, not a token;
with those of a draft model, not the distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tempa.engine.engine import Engine
from tempa.engine.request import Ids
from tempa.engine.sampling import Completion, FinishReason, Sampling
from tempa.sample import Sampler


class Drafts(Protocol):
    """Guesses how a text goes on."""

    def propose(self, ids: list[int], count: int) -> tuple[list[int], NDArray[np.float32] | None]:
        """Guess the next tokens.

        Args:
            ids: Prompt and output so far.
            count: Most tokens to guess.

        Returns:
            The tokens, and (tokens, V) what each was drawn from, or None if they are certain.
        """
        ...


@dataclass(frozen=True)
class PromptLookup:
    """Guesses that a text goes on as it did after the same few tokens (Saxena, 2023).

    Attributes:
        longest: Most tokens that have to be the same; fewer are tried in turn.
        shortest: Fewest of them.
    """

    longest: int = 4
    shortest: int = 2

    def propose(self, ids: list[int], count: int) -> tuple[list[int], None]:
        """What followed the last place where the text was the same."""
        text = np.array(ids)
        for length in range(min(self.longest, len(ids) - 1), self.shortest - 1, -1):
            windows = np.lib.stride_tricks.sliding_window_view(text[:-1], length)
            found = np.flatnonzero((windows == text[-length:]).all(1))
            if len(found):
                start = int(found[-1]) + length
                return ids[start : start + count], None
        return [], None


@dataclass(eq=False)
class DraftModel:
    """Guesses by a smaller model of the same vocabulary (Leviathan et al., 2023; Chen et al., 2023).

    Attributes:
        engine: Of that model, with nothing else to do meanwhile.
        sampling: How it draws; the nearer to how the large one does, the more is accepted.
    """

    engine: Engine
    sampling: Sampling = field(default_factory=Sampling)

    def propose(self, ids: list[int], count: int) -> tuple[list[int], NDArray[np.float32]]:
        """Tokens drawn by the model, with their distributions."""
        sampler = Sampler(self.engine.model.config.vocab_size)
        draw = sampler.add(self.sampling, prompt=ids, seed=self.sampling.seed)
        sequences = self.engine.sequences()
        tokens = np.array(ids)
        # What was accepted before is still in its cache.
        (handle,), (cached,) = sequences.admit([tokens])
        one = np.array([handle])
        drawn: list[int] = []
        probs = []
        try:
            fed = tokens[cached:]
            logits = sequences.advance(one, np.array([len(fed)]), fed)
            while True:
                probs.append(sampler.distribution([draw], logits.cpu())[0])
                drawn.append(int(sampler.step([draw], logits.cpu()).ids[0]))
                if len(drawn) == count:
                    return drawn, np.stack(probs)
                fed = np.array(drawn[-1:])
                logits = sequences.advance(one, np.array([1]), fed, new_ids=fed)
        finally:
            sequences.free(one)


def speculate(
    engine: Engine, prompt: Ids, sampling: Sampling, drafts: Drafts, *, num_drafts: int = 5
) -> tuple[Completion, float]:
    """Complete a prompt with the help of guesses.

    Args:
        engine: Has nothing else to do meanwhile.
        prompt: Token ids, at least one.
        sampling: With `n` 1 and no stop strings.
        drafts: Makes guesses.
        num_drafts: Most tokens that are guessed at a time.

    Returns:
        The completion, and how many tokens there were for each pass of the model.

    Raises:
        ValueError: As `Engine.generate`, and if more than a sample or stop strings are asked for.
    """
    if sampling.n != 1 or sampling.stop:
        raise ValueError("speculation gives one sample, without stop strings")
    tokens = engine.check_prompt(prompt)
    sequences = engine.sequences()
    sampler = Sampler(engine.model.config.vocab_size)
    draw = sampler.add(sampling, prompt=tokens, seed=sampling.seed)
    room = min(sampling.max_new_tokens, engine.model.config.max_positions - len(tokens))
    (handle,), (cached,) = sequences.admit([tokens])
    one = np.array([handle])
    ids: list[int] = []
    logps: list[float] = []
    num_passes = 0
    reason: FinishReason | None = None
    try:
        # The last token of the prompt goes with the first drafts.
        fed = tokens[cached:-1]
        if len(fed):
            sequences.advance(one, np.array([len(fed)]), fed)
        while reason is None:
            # A draft that would be the last token is of no use: the one after it is drawn as well.
            count = min(num_drafts, room - len(ids) - 1)
            guess, probs = drafts.propose([*tokens.tolist(), *ids], count) if count > 0 else ([], None)
            last = ids[-1] if ids else int(tokens[-1])
            fed = np.array([last, *guess])
            new = fed if ids else fed[1:]
            every = np.arange(len(fed))
            logits = sequences.advance(one, np.array([len(fed)]), fed, new_ids=new, wanted=every)
            num_passes += 1
            verified = sampler.verify([draw], [guess], logits.cpu(), draft_probs=probs if guess else None)
            accepted = int(verified.num_accepted[0])
            if accepted < len(guess):
                sequences.rollback(one, np.array([len(guess) - accepted]))
            drawn = verified.draws.ids[: accepted + 1].tolist()
            ends = [i for i, token in enumerate(drawn) if token in sampling.stop_ids]
            if ends:
                drawn, reason = drawn[: ends[0] + 1], "stop"
            ids += drawn
            logps += verified.draws.logps[: len(drawn)].tolist()
            if reason is None and len(ids) >= room:
                reason = "length"
    finally:
        sequences.free(one)
    text = ""
    if engine.tokenizer is not None:
        text = engine.tokenizer.decode(ids[:-1] if reason == "stop" else ids)
    completion = Completion(np.array(ids), np.array(logps, np.float32), text, reason)
    return completion, len(ids) / num_passes
