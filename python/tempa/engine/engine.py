"""Generation and scoring with a paged key-value cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempa.data.packed import Packed
from tempa.engine.job import Job, Sample
from tempa.engine.request import Event, Ids, Request
from tempa.engine.sampling import Completion, Sampling
from tempa.engine.scheduler import Scheduler
from tempa.engine.sequences import Sequences
from tempa.model import Decoder, KvCache, Transformer, weights_checksum
from tempa.ops import scaled
from tempa.tokenizer import Tokenizer

_CACHE_DTYPES = (None, torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn)
# Tokens scored in one forward.
SCORE_TOKENS = 16384


class Engine:
    """Completes and scores token sequences, many at a time.

    The model is read, not copied: an engine over a model in training always has its current weights. Prompts
    that begin alike are computed once, also across calls, as long as the weights are the same.

    Either call `generate` and `stream`, or serve: `submit` requests and call `step` until `is_idle`. One
    thread at a time may use an engine.

    Args:
        model: What to sample from.
        tokenizer: Makes the text of completions and finds stop strings; None leaves texts empty.
        block_size: Tokens per block of the cache.
        max_batch: Most samples that advance together.
        cache_bytes: Most memory for keys and values, on the CPU taken as it is needed. Requests wait until
            they fit, and the last of those that run are put back when it is full, which changes no token.
        step_tokens: Most tokens of prompts in a step, so that long prompts do not hold up the others.
        weights: How steps on the CPU keep matrices, as for `Decoder`. "auto" is float32, where
            log-probabilities of samples are those of the model, and lets the model compute where `Decoder`
            cannot.
        cache_dtype: Of cached keys and values: as the model computes, or with a scale for each token and head
            torch.int8 or float8_e4m3fn; `Decoder` takes float32, bfloat16 and int8. None is bfloat16 where
            `weights` are rounded, else as the model computes.
        reuses_prefixes: Whether prompts begin with what earlier ones have computed. It changes no token.
        has_fixed_weights: Whether the weights never change, as when serving. Otherwise they are read once
            whenever the engine begins to work, to see if they have.

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
        cache_bytes: int = 4 << 30,
        step_tokens: int = 2048,
        weights: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
        cache_dtype: torch.dtype | None = None,
        reuses_prefixes: bool = True,
        has_fixed_weights: bool = False,
    ) -> None:
        sizes = {"block_size": block_size, "max_batch": max_batch, "step_tokens": step_tokens}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if cache_dtype not in _CACHE_DTYPES:
            raise ValueError(
                f"cache_dtype must be torch.float32, bfloat16, int8 or float8_e4m3fn, got {cache_dtype}"
            )
        if tokenizer is not None and tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}"
            )
        self.model, self.tokenizer = model, tokenizer
        self._block_size, self._max_batch, self._cache_bytes = block_size, max_batch, cache_bytes
        self._step_tokens, self._weights, self._reuses_prefixes = step_tokens, weights, reuses_prefixes
        self._has_fixed_weights, self._cache_dtype = has_fixed_weights, cache_dtype
        self._decoder = Decoder(model, weights=weights) if weights != "auto" else None
        self._scheduler: Scheduler | None = None
        self._checksum: int | None = None  # of the weights that prefixes were computed with
        self._num_tickets = 0
        self._jobs: dict[int, Job] = {}
        self._submitted: dict[int, Job] = {}  # those whose events `step` tells

    def generate(
        self, prompts: Sequence[Ids | Request], sampling: Sampling | Sequence[Sampling] | None = None
    ) -> list[list[Completion]]:
        """Complete prompts.

        The tokens of a sample depend on its request only, not on what else is in the batch.

        Args:
            prompts: Token ids, at least one each, or whole requests.
            sampling: One for all prompts, or one for each; requests have their own.

        Returns:
            For each prompt, its `n` completions.

        Raises:
            ValueError: If a prompt is empty, has an id outside the vocabulary, leaves no room for a new
                token, or can never fit the cache; the message names it and the remedy. If the model gives
                logits that are not finite.
            Exception: What a hook, a constraint or another function of a request has raised, of the first
                such prompt.
        """
        requests = _requests(prompts, sampling)
        checked = [self._check(request, f"prompt {i}") for i, request in enumerate(requests)]
        jobs: list[Job] = []
        try:
            for i, (request, courses) in enumerate(zip(requests, checked, strict=True)):
                jobs.append(self._add(request, courses, f"prompt {i}", needs_text=False))
            return [self._finish(job, f"prompt {i}") for i, job in enumerate(jobs)]
        finally:
            for job in jobs:
                self.cancel(job.ticket)

    def stream(self, prompt: Ids | Request, sampling: Sampling | None = None) -> Iterator[str]:
        """Complete one prompt and hand out its text as it comes; stopping early costs nothing.

        Args:
            prompt: Token ids, at least one, or a whole request.
            sampling: With `n` 1; a request has its own.

        Raises:
            ValueError: As `generate`, and without a tokenizer. The checks are made at the call.
        """
        [request] = _requests([prompt], sampling)
        if self.tokenizer is None:
            raise ValueError("streaming text needs a tokenizer; give one to the engine")
        if request.sampling.n != 1:
            raise ValueError(f"a stream is one sample, got n = {request.sampling.n}")
        return self._stream(request, self._check(request, "the prompt"))

    def _stream(self, request: Request, courses: list[NDArray[np.int64]]) -> Iterator[str]:
        job = self._add(request, courses, "the prompt", needs_text=True)
        try:
            done = 0
            while True:
                pieces = [sample.text for sample in job.samples]
                for piece in pieces[0][done:] if pieces else ():
                    done += 1
                    if piece:
                        yield piece
                if job.is_over:
                    self._finish(job, "the prompt")
                    return
                self._advance()
        finally:
            self.cancel(job.ticket)

    def submit(self, request: Request) -> int:
        """Let a request wait for its turn.

        Returns:
            A ticket, which its events have.

        Raises:
            ValueError: If it cannot be served; the message says why.
        """
        job = self._add(request, self._check(request, "the prompt"), "the request", needs_text=True)
        self._submitted[job.ticket] = job
        return job.ticket

    def step(self) -> list[Event]:
        """Advance everything by a token, and tell what happened to requests that were submitted.

        What a function of a request raises ends that request, and its events tell. Anything else that raises
        here ends all requests, and the events of the next call tell.
        """
        if not self.is_idle:
            self._advance()
        events = [event for job in self._submitted.values() for event in job.tell()]
        for job in [job for job in self._submitted.values() if job.is_over]:
            self.cancel(job.ticket)
        return events

    def cancel(self, ticket: int) -> None:
        """End a request; its blocks are free at once. One that has ended or is not known is no error."""
        job = self._jobs.pop(ticket, None)
        self._submitted.pop(ticket, None)
        if job is not None and not job.is_over and self._scheduler is not None:
            self._scheduler.cancel(job)

    def sequences(self) -> Sequences:
        """The cache and the model of the engine, for strategies that go step by step; while it is idle.

        Raises:
            RuntimeError: If requests run or wait: their blocks are set aside.
        """
        if not self.is_idle:
            raise RuntimeError("the engine is at work; a strategy needs an engine without requests")
        return self._current().sequences

    def check_prompt(self, prompt: Ids) -> NDArray[np.int64]:
        """The tokens of a prompt, if the model can go on from it.

        Raises:
            ValueError: If it is empty, has an id outside the vocabulary or leaves no room for a new token.
        """
        return self._check(Request(prompt=prompt), "the prompt")[0]

    @property
    def is_idle(self) -> bool:
        """Whether no request runs or waits."""
        return not (self.num_running or self.num_waiting)

    @property
    def num_running(self) -> int:
        """Samples that are being written."""
        return 0 if self._scheduler is None else self._scheduler.num_running

    @property
    def num_waiting(self) -> int:
        """Requests that have not begun as a whole, and samples that were put back for want of room."""
        return 0 if self._scheduler is None else self._scheduler.num_waiting

    @property
    def cache_usage(self) -> float:
        """Share of the cache that running samples hold."""
        if self._scheduler is None:
            return 0.0
        sequences = self._scheduler.sequences
        return 1 - sequences.num_free / sequences.num_blocks

    def stats(self) -> dict[str, int]:
        """Counts of the cache since it was made, see `KvManager.stats`."""
        if self._scheduler is None:
            return {}
        return {**self._scheduler.sequences.kv.stats(), "num_preempted": self._scheduler.num_preempted}

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
        return self.score_each([prompt] * len(continuations), continuations, temperature=temperature)

    def score_each(
        self, prompts: Sequence[Ids], continuations: Sequence[Ids], *, temperature: float = 1.0
    ) -> list[NDArray[np.float32]]:
        """`score` for continuations with a prompt each."""
        starts = [self._ids(ids, f"prompt {i}") for i, ids in enumerate(prompts)]
        ends = [self._ids(ids, f"continuation {i}", may_be_empty=True) for i, ids in enumerate(continuations)]
        rows: list[NDArray[np.integer]] = [
            np.concatenate([start, end]) for start, end in zip(starts, ends, strict=True)
        ]
        flat: list[NDArray[np.float32]] = []
        with torch.inference_mode():
            for batch in _batches(rows):
                packed = Packed.from_rows(batch).to(self.model.device)
                logps = self.model.logps(packed, temperature=temperature).float().cpu().numpy()
                flat += np.split(logps, np.cumsum([len(row) for row in batch])[:-1])
        return [part[len(start) - 1 : -1] for start, part in zip(starts, flat, strict=True)]

    def _advance(self) -> None:
        assert self._scheduler is not None
        try:
            self._scheduler.step()
        except BaseException as error:
            # What was half done is in no order, so nothing that ran or waited can go on.
            self._scheduler = None
            for job in self._jobs.values():
                job.fail(error)
            raise

    def _add(self, request: Request, courses: list[NDArray[np.int64]], name: str, *, needs_text: bool) -> Job:
        ticket = self._num_tickets
        try:
            job = self._current().add(ticket, request, courses, needs_text=needs_text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        self._num_tickets += 1
        self._jobs[ticket] = job
        return job

    def _current(self) -> Scheduler:
        """The scheduler, with the weights that the model has now if nothing runs."""
        scheduler = self._scheduler
        if scheduler is not None and not self.is_idle:
            return scheduler
        is_changed = False
        if self._checksum is None or not self._has_fixed_weights:
            checksum = weights_checksum(self.model)
            is_changed = checksum != self._checksum
            self._checksum = checksum
        decoder = self._current_decoder(is_changed=is_changed)
        weight = self.model.embedding.weight
        dtype = self._dtype(decoder, weight)
        if scheduler is None or not scheduler.sequences.is_like(decoder, dtype, weight.device):
            scheduler = self._scheduler = self._make(decoder, dtype)
        elif is_changed:
            scheduler.sequences.forget()
        return scheduler

    def _dtype(self, decoder: Decoder | None, weight: Tensor) -> torch.dtype:
        """Of the cache."""
        if decoder is None:
            dtype = _computed_dtype(weight)
            if self._cache_dtype is not None and scaled.is_scaled(self._cache_dtype):
                return self._cache_dtype
            if self._cache_dtype not in (None, dtype):
                raise ValueError(
                    f"cache_dtype is {self._cache_dtype}, but the model computes in {dtype} here"
                )
            return dtype
        if self._cache_dtype == torch.float8_e4m3fn:
            raise ValueError(
                "cache_dtype is torch.float8_e4m3fn, but the decoder keeps float32, bfloat16 or int8"
            )
        if self._cache_dtype is not None:
            return self._cache_dtype
        return torch.float32 if decoder.weights == "float32" else torch.bfloat16

    def _make(self, decoder: Decoder | None, dtype: torch.dtype) -> Scheduler:
        config = self.model.config
        num_bytes = KvCache.bytes_per_block(config, self._block_size, dtype)
        # Room for prefixes beside a full batch is enough.
        enough = 2 * self._max_batch * -(-config.max_positions // self._block_size)
        sequences = Sequences(
            self.model,
            num_blocks=max(1, min(self._cache_bytes // num_bytes, enough)),
            block_size=self._block_size,
            dtype=dtype,
            decoder=decoder,
            reuses_prefixes=self._reuses_prefixes,
        )
        return Scheduler(sequences, self.tokenizer, max_batch=self._max_batch, step_tokens=self._step_tokens)

    def _current_decoder(self, *, is_changed: bool) -> Decoder | None:
        """A decoder with the weights that the model has now, if it can compute as the model would."""
        if self._decoder is not None and is_changed:
            self._decoder.refresh()
        if self._weights == "auto" and (
            torch.is_autocast_enabled(self.model.device.type) or not Decoder.supports(self.model)
        ):
            return None
        if self._decoder is None:
            self._decoder = Decoder(self.model)
        return self._decoder

    def _check(self, request: Request, name: str) -> list[NDArray[np.int64]]:
        """The tokens of each prompt, if they can be completed."""
        config, sampling = self.model.config, request.sampling
        names = [name, *(f"{name}, other {i}" for i in range(len(request.others)))]
        prompts = [request.prompt, *request.others]
        courses = [self._ids(ids, of) for ids, of in zip(prompts, names, strict=True)]
        if request.inputs_embeds is not None:
            _check_shape(request.inputs_embeds, (len(courses[0]), config.width), f"{name}: inputs_embeds")
        if request.prefix_kv is not None:
            count = request.prefix_kv.shape[2] if request.prefix_kv.dim() == 5 else 0
            shape = (config.depth, 2, count, config.num_kv_heads, config.head_dim)
            _check_shape(request.prefix_kv, shape, f"{name}: prefix_kv")
            courses[0] = np.concatenate([np.zeros(count, np.int64), courses[0]])
        for ids, of in zip(courses, names, strict=True):
            if len(ids) >= config.max_positions:
                raise ValueError(
                    f"{of} has {len(ids)} tokens and leaves no room for a new one: "
                    f"the model takes {config.max_positions}"
                )
        wrong = [token for token in sampling.stop_ids if not 0 <= token < config.vocab_size]
        if wrong:
            raise ValueError(
                f"{name}: stop id {wrong[0]} is outside the vocabulary of {config.vocab_size} tokens"
            )
        if sampling.stop and self.tokenizer is None:
            raise ValueError(f"{name}: stop strings need a tokenizer; give one to the engine")
        return courses

    def _ids(self, ids: Ids, name: str, *, may_be_empty: bool = False) -> NDArray[np.int64]:
        array = np.asarray(ids, dtype=np.int64 if len(ids) == 0 else None)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(
                f"{name} should be a flat sequence of ids, got shape {array.shape} of {array.dtype}"
            )
        if not may_be_empty and len(array) == 0:
            raise ValueError(f"{name} is empty; begin with a token, such as <|endoftext|>")
        array = array.astype(np.int64)
        wrong = array[(array < 0) | (array >= self.model.config.vocab_size)]
        if len(wrong):
            raise ValueError(
                f"{name} has id {wrong[0]}, outside the vocabulary of {self.model.config.vocab_size} tokens"
            )
        return array

    def _finish(self, job: Job, name: str) -> list[Completion]:
        """The samples of a request in order, when all have ended."""
        while not job.is_over:
            self._advance()
        if job.error is not None:
            job.error.add_note(f"in {name}")
            raise job.error
        samples = sorted(job.samples, key=lambda sample: sample.index)
        return [self._completion(sample, name) for sample in samples]

    def _completion(self, sample: Sample, name: str) -> Completion:
        if sample.reason == "error":
            raise ValueError(
                f"{name}, sample {sample.index}: after {len(sample.ids)} tokens there was none to draw: "
                "the logits are not finite, or everything is forbidden"
            )
        assert sample.reason is not None
        ids = np.array(sample.ids, np.int64)
        text = "".join(sample.text)
        if self.tokenizer is not None and sample.watch is None:
            is_stopped = sample.reason == "stop"
            text = self.tokenizer.decode(ids[:-1] if is_stopped else ids)
        return Completion(ids, np.array(sample.logps, np.float32), text, sample.reason, tuple(sample.top))


def _requests(
    prompts: Sequence[Ids | Request], sampling: Sampling | Sequence[Sampling] | None
) -> list[Request]:
    """Requests, where prompts go with settings."""
    if sampling is None or isinstance(sampling, Sampling):
        settings = [sampling] * len(prompts)
    else:
        settings = list(sampling)
    if len(settings) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(settings)} samplings")
    requests = []
    for i, (prompt, one) in enumerate(zip(prompts, settings, strict=True)):
        if isinstance(prompt, Request):
            if one is not None:
                raise ValueError(f"prompt {i} is a request, which has its own sampling")
            requests.append(prompt)
        elif one is None:
            raise ValueError(f"prompt {i} needs a sampling")
        else:
            requests.append(Request(prompt=prompt, sampling=one))
    return requests


def _check_shape(values: Tensor, shape: tuple[int, ...], name: str) -> None:
    if tuple(values.shape) != shape:
        raise ValueError(f"{name} should have shape {shape}, got {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} has values that are not finite")


def _computed_dtype(weight: Tensor) -> torch.dtype:
    """What products with `weight` give: its dtype, or that of autocast."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


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
