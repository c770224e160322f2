"""Generation and scoring with a paged key-value cache."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tempa.data.packed import Packed
from tempa.engine.run import Memory, Request, Run, cache_dtype, cut_jobs
from tempa.engine.sampling import Completion, Sampling
from tempa.engine.text import StopWatch
from tempa.model import Decoder, KvCache, Transformer
from tempa.tokenizer import Tokenizer

Ids = Sequence[int] | NDArray[np.integer]

# Tokens scored in one forward.
SCORE_TOKENS = 16384


class Engine:
    """Completes and scores token sequences, many at a time.

    The model is read, not copied: an engine over a model in training always has its current weights.

    Args:
        model: What to sample from.
        tokenizer: Makes the text of completions and finds stop strings; None leaves texts empty.
        block_size: Tokens per block of the cache.
        max_batch: Most samples that advance together.
        cache_bytes: Memory for keys and values; requests wait until they fit.
        weights: How decode steps on the CPU keep matrices, as for `Decoder`. "auto" is float32, where
            log-probabilities of samples are those of the model; without a decoder the model itself decodes.

    >>> from tempa.model import ModelConfig
    >>> engine = Engine(Transformer(ModelConfig(vocab_size=10, depth=1, width=8, num_heads=2)))
    >>> [[completion]] = engine.generate([[1, 2, 3]], Sampling(max_new_tokens=4))
    >>> len(completion.ids), completion.finish_reason
    (4, 'length')
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer | None = None,
        *,
        block_size: int = 16,
        max_batch: int = 512,
        cache_bytes: int = 1 << 30,
        weights: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
    ) -> None:
        for name, value in (("block_size", block_size), ("max_batch", max_batch)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if tokenizer is not None and tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}"
            )
        self.model, self.tokenizer = model, tokenizer
        self._block_size, self._max_batch, self._cache_bytes = block_size, max_batch, cache_bytes
        self._weights = weights
        self._decoder: Decoder | None = None
        if weights != "auto":
            self._decoder = Decoder(model, weights=weights)
        self._spare: Memory | None = None  # of the last run that ended

    def generate(
        self, prompts: Sequence[Ids], sampling: Sampling | Sequence[Sampling]
    ) -> list[list[Completion]]:
        """Complete prompts.

        The tokens of a sample depend on its prompt and its sampling only, not on what else is in the batch.

        Args:
            prompts: Token ids, at least one each.
            sampling: One for all prompts, or one for each.

        Returns:
            For each prompt, its `n` completions.

        Raises:
            ValueError: If a prompt is empty, has an id outside the vocabulary, leaves no room for a new
                token, or can never fit the cache; the message names it and the remedy.
        """
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if len(samplings) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts but {len(samplings)} samplings")
        if not prompts:
            return []
        requests = [
            (self._check(prompt, one, f"prompt {i}"), one)
            for i, (prompt, one) in enumerate(zip(prompts, samplings, strict=True))
        ]
        run = self._start(requests)
        try:
            while run.step():
                pass
        finally:
            run.close()
        # Kept only after a run that ended well: one that met NaN leaves NaN in the blocks.
        self._spare = run.memory
        results = iter(zip(run.results(), run.stopped.tolist(), strict=True))
        return [
            [self._completion(*drawn, stopped, s) for drawn, stopped in itertools.islice(results, s.n)]
            for s in samplings
        ]

    def stream(self, prompt: Ids, sampling: Sampling) -> Iterator[str]:
        """Complete one prompt and hand out its text as it comes; stopping early costs nothing.

        Args:
            prompt: Token ids, at least one.
            sampling: With `n` 1.

        Raises:
            ValueError: As `generate`, and without a tokenizer. The checks are made at the call.
        """
        if self.tokenizer is None:
            raise ValueError("streaming text needs a tokenizer; give one to the engine")
        if sampling.n != 1:
            raise ValueError(f"a stream is one sample, got n = {sampling.n}")
        return self._stream(self._check(prompt, sampling, "the prompt"), sampling, self.tokenizer)

    def _stream(self, prompt: NDArray[np.int64], sampling: Sampling, tokenizer: Tokenizer) -> Iterator[str]:
        run = self._start([(prompt, sampling)])
        watch = StopWatch(tokenizer, sampling.stop)
        try:
            while drawn := run.step():
                token = int(drawn[1][0])
                piece = "" if token in sampling.stop_ids else watch.push(token)
                if piece:
                    yield piece
        finally:
            run.close()
        self._spare = run.memory
        rest = watch.flush()
        if rest:
            yield rest

    def score(
        self, prompt: Ids, continuations: Sequence[Ids], *, temperature: float = 1.0
    ) -> list[NDArray[np.float32]]:
        """Log-probability of every token of each continuation after the prompt.

        Args:
            prompt: Token ids, at least one.
            continuations: Token ids; an empty one gets an empty array.
            temperature: Divides the logits.

        Raises:
            ValueError: If an id is outside the vocabulary or a continuation exceeds the model's length.
        """
        start = self._ids(prompt, "the prompt")
        ends = [self._ids(ids, f"continuation {i}", may_be_empty=True) for i, ids in enumerate(continuations)]
        rows: list[NDArray[np.integer]] = [np.concatenate([start, ids]) for ids in ends]
        scores: list[NDArray[np.float32]] = []
        with torch.inference_mode():
            for batch in _batches(rows):
                packed = Packed.from_rows(batch).to(self.model.device)
                logps = self.model.logps(packed, temperature=temperature).float().cpu().numpy()
                cuts = np.cumsum([len(row) for row in batch])
                scores += [part[len(start) - 1 : -1] for part in np.split(logps, cuts[:-1])]
        return scores

    def _start(self, requests: list[Request]) -> Run:
        config, weight = self.model.config, self.model.embedding.weight
        max_blocks = self._cache_bytes // KvCache.bytes_per_block(
            config, self._block_size, cache_dtype(weight)
        )
        jobs = cut_jobs(
            requests,
            max_positions=config.max_positions,
            block_size=self._block_size,
            max_batch=self._max_batch,
            max_blocks=max_blocks,
        )
        num_blocks = max(1, min(max_blocks, sum(job.num_blocks for job in jobs)))
        memory, self._spare = self._spare, None
        if memory is None or not memory.fits(self.model, num_blocks):
            memory = Memory(self.model, num_blocks, self._block_size, self._max_batch)
        return Run(
            self.model, self.tokenizer, requests, jobs, memory, self._max_batch, self._current_decoder()
        )

    def _current_decoder(self) -> Decoder | None:
        """A decoder with the weights that the model has now, if it can decode as the model would."""
        if self._weights == "auto" and (
            torch.is_autocast_enabled(self.model.device.type) or not Decoder.supports(self.model)
        ):
            return None
        if self._decoder is None:
            self._decoder = Decoder(self.model)
        else:
            self._decoder.refresh()
        return self._decoder

    def _check(self, prompt: Ids, sampling: Sampling, name: str) -> NDArray[np.int64]:
        ids = self._ids(prompt, name)
        longest, vocab_size = self.model.config.max_positions, self.model.config.vocab_size
        if len(ids) >= longest:
            raise ValueError(
                f"{name} has {len(ids)} tokens and leaves no room for a new one: the model takes {longest}"
            )
        for stop_id in sampling.stop_ids:
            if not 0 <= stop_id < vocab_size:
                raise ValueError(
                    f"{name}: stop id {stop_id} is outside the vocabulary of {vocab_size} tokens"
                )
        if sampling.stop and self.tokenizer is None:
            raise ValueError(f"{name}: stop strings need a tokenizer; give one to the engine")
        return ids

    def _ids(self, ids: Ids, name: str, *, may_be_empty: bool = False) -> NDArray[np.int64]:
        array = np.asarray(ids, dtype=np.int64)
        if array.ndim != 1:
            raise ValueError(f"{name} must be a flat sequence of ids, got {array.ndim} dimensions")
        if not len(array) and not may_be_empty:
            raise ValueError(f"{name} is empty; begin with a token such as <|endoftext|>")
        wrong = array[(array < 0) | (array >= self.model.config.vocab_size)]
        if len(wrong):
            raise ValueError(
                f"{name} has id {wrong[0]}, outside the vocabulary of {self.model.config.vocab_size} tokens"
            )
        return array

    def _completion(
        self, ids: NDArray[np.int64], logps: NDArray[np.float32], stopped: bool, sampling: Sampling
    ) -> Completion:
        text = ""
        if self.tokenizer is not None:
            kept = ids[:-1] if stopped and ids[-1] in sampling.stop_ids else ids
            text = self.tokenizer.decode(kept)
            if sampling.stop:
                text = text[
                    : min((place for s in sampling.stop if (place := text.find(s)) >= 0), default=None)
                ]
        return Completion(ids, logps, text, "stop" if stopped else "length")


def _batches(rows: list[NDArray[np.integer]]) -> Iterator[list[NDArray[np.integer]]]:
    batch: list[NDArray[np.integer]] = []
    num_tokens = 0
    for row in rows:
        if batch and num_tokens + len(row) > SCORE_TOKENS:
            yield batch
            batch, num_tokens = [], 0
        batch.append(row)
        num_tokens += len(row)
    if batch:
        yield batch
