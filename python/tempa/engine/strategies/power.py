"""Samples of the power distribution p(x)^alpha over whole sequences: a base model at its best, untrained.

A low temperature sharpens each token by itself; this favours tokens that lead to likely sequences. Block by
block, a suffix is drawn anew from a proposal and taken or left by Metropolis and Hastings (Karan & Du, 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.engine.engine import Engine
from tempa.engine.request import Ids
from tempa.engine.sampling import Completion, Sampling

# Streams of random numbers: where a suffix starts, whether it is taken, and the seeds of proposals.
_PLACE, _ACCEPT, _PROPOSE = range(0x706F_7765_7200, 0x706F_7765_7203)


@dataclass(eq=False)
class _Chain:
    """A sequence that is being improved.

    Attributes:
        prompt: What it continues.
        ids: Its tokens.
        logps: Their log-probabilities under the model.
        proposals: And under the proposal.
    """

    prompt: NDArray[np.int64]
    ids: NDArray[np.int64]
    logps: NDArray[np.float64]
    proposals: NDArray[np.float64]


def power_sample(
    engine: Engine,
    prompts: Sequence[Ids],
    *,
    alpha: float = 4.0,
    max_new_tokens: int = 128,
    block_tokens: int = 0,
    num_steps: int = 10,
    stop_ids: tuple[int, ...] = (),
    seed: int = 0,
) -> list[Completion]:
    """One sample for each prompt (lecture L8).

    Args:
        engine: Gives proposals, at temperature `1 / alpha`, and the model's own log-probabilities.
        prompts: Token ids, at least one each.
        alpha: The power; 1 gives the model's own distribution.
        max_new_tokens: The longest sample.
        block_tokens: Tokens by which samples grow between rounds; 0 means a sixteenth of the longest.
        num_steps: Proposals for each sample in each round.
        stop_ids: Tokens that end a sample.
        seed: Prompt i draws with numbers of its own.

    Returns:
        Completions whose `logps` are those of the model at temperature 1.

    Raises:
        ValueError: If a number is out of range, or as `Engine.generate`.
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha must be a positive number, got {alpha}")
    if num_steps < 0 or max_new_tokens < 1:
        raise ValueError(f"got num_steps {num_steps} and max_new_tokens {max_new_tokens}")
    block = block_tokens or -(-max_new_tokens // 16)
    empty = np.zeros(0)
    chains = [
        _Chain(np.asarray(prompt, np.int64), empty.astype(np.int64), empty, empty) for prompt in prompts
    ]
    sampler = _Proposals(engine, 1 / alpha, stop_ids, seed)
    for length in [*range(block, max_new_tokens, block), max_new_tokens]:
        sampler.extend(chains, length)
        for _ in range(num_steps):
            sampler.improve(chains, length, alpha)
    return [sampler.completion(chain) for chain in chains]


@dataclass(eq=False)
class _Proposals:
    engine: Engine
    temperature: float
    stop_ids: tuple[int, ...]
    seed: int
    num_rounds: int = 0

    def extend(self, chains: list[_Chain], length: int) -> None:
        """Let samples that have not ended grow to a length."""
        growing = [chain for chain in chains if not self._has_ended(chain) and len(chain.ids) < length]
        longer = self._propose(growing, [chain.ids for chain in growing], length)
        for chain, grown in zip(growing, longer, strict=True):
            chain.ids, chain.logps, chain.proposals = grown.ids, grown.logps, grown.proposals

    def improve(self, chains: list[_Chain], length: int, alpha: float) -> None:
        """Propose another suffix for each sample, and take it or not."""
        uniforms = [
            _core.random_uniform(self.seed, stream + self.num_rounds * 4, 0, len(chains))
            for stream in (_PLACE, _ACCEPT)
        ]
        starts = [int(u * len(chain.ids)) for u, chain in zip(uniforms[0], chains, strict=True)]
        kept = [chain.ids[:start] for chain, start in zip(chains, starts, strict=True)]
        proposed = self._propose(chains, kept, length)
        for chain, new, start, u in zip(chains, proposed, starts, uniforms[1].tolist(), strict=True):
            # A place is drawn from as many as there are tokens, so lengths count in the way back.
            log_ratio = (
                alpha * (new.logps[start:].sum() - chain.logps[start:].sum())
                + chain.proposals[start:].sum()
                - new.proposals[start:].sum()
                + np.log(len(chain.ids) / len(new.ids))
            )
            if np.log1p(-u) < log_ratio:
                chain.ids, chain.logps, chain.proposals = new.ids, new.logps, new.proposals

    def _propose(self, chains: list[_Chain], kept: list[NDArray[np.int64]], length: int) -> list[_Chain]:
        self.num_rounds += 1
        if not chains:
            return []
        seeds = _core.random_bits(self.seed, _PROPOSE + self.num_rounds * 4, 0, len(chains)) >> np.uint64(1)
        prompts = [np.concatenate([chain.prompt, ids]) for chain, ids in zip(chains, kept, strict=True)]
        samplings = [
            Sampling(
                max_new_tokens=length - len(ids),
                temperature=self.temperature,
                seed=one,
                stop_ids=self.stop_ids,
            )
            for ids, one in zip(kept, seeds.tolist(), strict=True)
        ]
        drawn = [completion for (completion,) in self.engine.generate(prompts, samplings)]
        wholes = [np.concatenate([ids, one.ids]) for ids, one in zip(kept, drawn, strict=True)]
        scores = self.engine.score_each([chain.prompt for chain in chains], wholes)
        return [
            _Chain(
                chain.prompt,
                whole,
                logps.astype(np.float64),
                np.concatenate([chain.proposals[: len(ids)], one.logps]),
            )
            for chain, ids, one, whole, logps in zip(chains, kept, drawn, wholes, scores, strict=True)
        ]

    def _has_ended(self, chain: _Chain) -> bool:
        return bool(len(chain.ids)) and int(chain.ids[-1]) in self.stop_ids

    def completion(self, chain: _Chain) -> Completion:
        """A sample as the engine would give it."""
        has_ended = self._has_ended(chain)
        text = ""
        if self.engine.tokenizer is not None:
            text = self.engine.tokenizer.decode(chain.ids[:-1] if has_ended else chain.ids)
        return Completion(chain.ids, chain.logps.astype(np.float32), text, "stop" if has_ended else "length")
