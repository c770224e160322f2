"""Continuous batching: which samples take part in a step, and what becomes of them.

A sample joins as soon as blocks for its longest course are set aside, so nothing that runs is thrown out. A
step computes one token of every sample that is being written and, of prompts, as many tokens as its budget
leaves. A sample's tokens depend on its request alone.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempa.engine.request import Constraint, Request
from tempa.engine.sampling import FinishReason
from tempa.engine.sequences import Sequences
from tempa.engine.text import StopWatch
from tempa.sample import Draws, Sampler
from tempa.tokenizer import Tokenizer


@dataclass(eq=False, slots=True)
class Course:
    """One prompt of a sample on its way through the model.

    Attributes:
        handle: Its sequence.
        ids: Tokens that are not in the cache yet.
        is_prompt: Whether they are of the prompt.
        embeds: (tokens of `ids`, width), what is read instead of them, if anything.
        row: Of the logits of this step after its last token, -1 if it has tokens left.
        logits: (V,) after its last token, while other courses of the sample are behind.
    """

    handle: int
    ids: NDArray[np.int64]
    is_prompt: bool = True
    embeds: Tensor | None = None
    row: int = -1
    logits: Tensor | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the next token can be drawn."""
        return self.row >= 0 or self.logits is not None


@dataclass(eq=False, slots=True)
class Job:
    """Samples of a request that were admitted together.

    Attributes:
        samples: Gets them, after those that were admitted before, in order.
        num_shared: Blocks that hold their prompt, apart from its last, partial block.
        num_own: Blocks of each, at worst.
        num_left: Samples that have not ended.
    """

    samples: list[Sample]
    num_shared: int
    num_own: int
    num_left: int


@dataclass(eq=False, slots=True)
class Sample:
    """One sample of a request.

    Attributes:
        ticket: Of the request.
        index: Which of its samples.
        request: What is asked.
        job: The samples that were admitted with it.
        courses: One for each prompt.
        draw: Its handle with the sampler.
        room: Tokens it may still get.
        followers: Indices of the samples that begin where its prompt ends.
        needs_text: Whether its text is made while it is written.
        watch: Makes the text.
        constraint: Says what may be drawn.
        ids: What was drawn or put in.
        logps: Log-probabilities of what was drawn, NaN for what was put in.
        top: The likeliest tokens at each place, if asked for.
        text: Pieces of the text.
        reason: Why it has ended.
    """

    ticket: int
    index: int
    request: Request
    job: Job
    courses: list[Course]
    draw: int
    room: int
    followers: range
    needs_text: bool
    watch: StopWatch | None = None
    constraint: Constraint | None = None
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    reason: FinishReason | None = None


@dataclass(eq=False, slots=True)
class _Waiting:
    ticket: int
    request: Request
    prompts: list[NDArray[np.int64]]
    samples: list[Sample]
    needs_text: bool
    next_index: int = 0


class Scheduler:
    """The samples that run or wait.

    Args:
        sequences: Where they are computed; the scheduler is their only user.
        tokenizer: Makes texts and finds stop strings.
        max_batch: Most samples that run.
        step_tokens: Most tokens of prompts in a step, and one at least.
    """

    def __init__(
        self,
        sequences: Sequences,
        tokenizer: Tokenizer | None,
        *,
        max_batch: int,
        step_tokens: int,
    ) -> None:
        self.sequences = sequences
        self._tokenizer, self._max_batch, self._step_tokens = tokenizer, max_batch, step_tokens
        self._sampler = Sampler(sequences.model.config.vocab_size)
        self._waiting: deque[_Waiting] = deque()
        self._running: list[Sample] = []
        self._num_reserved = 0

    @property
    def num_running(self) -> int:
        """Samples that run."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests of which a sample waits."""
        return len(self._waiting)

    def add(
        self,
        ticket: int,
        request: Request,
        prompts: list[NDArray[np.int64]],
        samples: list[Sample],
        *,
        needs_text: bool,
    ) -> None:
        """Let a request wait.

        Args:
            ticket: Names it.
            request: What is asked.
            prompts: Of each course, checked; that of the first with a token for each place of `prefix_kv`.
            samples: Gets its samples when they begin, in order.
            needs_text: Whether its text is made while it is written; it is, too, if there are stop strings.

        Raises:
            ValueError: If one sample of it cannot fit the cache or the batch.
        """
        shared, own = self._blocks(request, prompts)
        if shared + own > self.sequences.num_blocks:
            raise ValueError(
                f"a sample needs {shared + own} cache blocks and {self.sequences.num_blocks} fit; "
                "raise cache_bytes or lower max_new_tokens"
            )
        is_watched = needs_text or bool(request.sampling.stop)
        self._waiting.append(_Waiting(ticket, request, prompts, samples, is_watched))

    def is_waiting(self, ticket: int) -> bool:
        """Whether some sample of a request has not begun."""
        return any(one.ticket == ticket for one in self._waiting) or any(
            sample.ticket == ticket and sample.followers for sample in self._running
        )

    def cancel(self, ticket: int) -> None:
        """Forget a request; its samples are not heard of again."""
        self._waiting = deque(one for one in self._waiting if one.ticket != ticket)
        gone = [sample for sample in self._running if sample.ticket == ticket]
        for sample in gone:
            sample.reason = "length"
        self._drop(gone)

    def step(self) -> list[Sample]:
        """Give samples their next token.

        Returns:
            The samples that got a token or have ended, in the order in which they joined.
        """
        self._admit()
        chunks = list(self._chunks())
        if not chunks:
            return []
        return self._draw(self._advance(chunks))

    def _blocks(self, request: Request, prompts: list[NDArray[np.int64]]) -> tuple[int, int]:
        """Cache blocks that all samples share, and those of each, at worst."""
        size, shared, own = self.sequences.block_size, 0, 0
        for prompt in prompts:
            # The last token that is drawn is never read, so it is not cached.
            length = len(prompt) + self._room(request, prompts) - 1
            shared += len(prompt) // size
            own += -(-length // size) - len(prompt) // size
        return shared, own

    def _room(self, request: Request, prompts: list[NDArray[np.int64]]) -> int:
        longest = max(map(len, prompts))
        return min(request.sampling.max_new_tokens, self.sequences.model.config.max_positions - longest)

    def _admit(self) -> None:
        num_running = sum(1 + len(sample.followers) for sample in self._running)
        while self._waiting:
            one = self._waiting[0]
            shared, own = self._blocks(one.request, one.prompts)
            free = self.sequences.num_blocks - self._num_reserved - shared
            count = min(
                one.request.sampling.n - one.next_index, self._max_batch - num_running, free // max(own, 1)
            )
            if count < 1 or free < 0:
                return
            job = Job(one.samples, shared, own, count)
            self._num_reserved += shared + count * own
            self._running.append(self._begin(one, job, count))
            num_running += count
            one.next_index += count
            if one.next_index == one.request.sampling.n:
                self._waiting.popleft()

    def _begin(self, one: _Waiting, job: Job, count: int) -> Sample:
        request, sampling = one.request, one.request.sampling
        names = [request.namespace] * len(one.prompts)
        prefix = 0
        if request.prefix_kv is not None:
            prefix = request.prefix_kv.shape[2]
            names[0] += b"kv" + _digest(request.prefix_kv)
        if request.inputs_embeds is not None:
            names[0] += b"in" + _digest(request.inputs_embeds)
        handles, cached = self.sequences.admit(one.prompts, names)
        courses = [
            Course(int(handle), prompt[done:])
            for handle, prompt, done in zip(handles, one.prompts, cached.tolist(), strict=True)
        ]
        first = courses[0]
        if request.prefix_kv is not None and cached[0] < prefix:
            self.sequences.write(first.handle, request.prefix_kv[:, :, int(cached[0]) :])
            first.ids = one.prompts[0][prefix:]
        if request.inputs_embeds is not None:
            first.embeds = request.inputs_embeds[len(request.inputs_embeds) - len(first.ids) :]
        index = one.next_index
        draw = self._sampler.add(sampling, prompt=one.prompts[0][prefix:], seed=sampling.seed + index)
        room = self._room(request, one.prompts)
        followers = range(index + 1, index + count)
        sample = Sample(one.ticket, index, request, job, courses, draw, room, followers, one.needs_text)
        return self._fitted(sample)

    def _fitted(self, sample: Sample) -> Sample:
        """With what belongs to a sample alone."""
        request = sample.request
        if self._tokenizer is not None and sample.needs_text:
            sample.watch = StopWatch(self._tokenizer, request.sampling.stop)
        if request.constraint is not None:
            sample.constraint = request.constraint()
        sample.job.samples.append(sample)
        return sample

    def _chunks(self) -> Iterator[tuple[Course, int]]:
        """Which courses go on, and by how many tokens."""
        budget = self._step_tokens
        for sample in self._running:
            for course in sample.courses:
                left = len(course.ids)
                if left == 1 and not course.is_prompt:
                    yield course, 1
                elif left and budget > 0:
                    # What is read instead of tokens is read in one piece.
                    count = left if course.embeds is not None else min(left, budget)
                    budget -= count
                    yield course, count

    def _advance(self, chunks: list[tuple[Course, int]]) -> Tensor:
        """Compute chunks; a course that has no token left gets its row of the logits, (rows, V)."""
        counts = np.array([count for _, count in chunks])
        pieces = [course.ids[:count] for course, count in chunks]
        new = [piece for (course, _), piece in zip(chunks, pieces, strict=True) if not course.is_prompt]
        is_done = counts == [len(course.ids) for course, _ in chunks]
        logits = self.sequences.advance(
            np.array([course.handle for course, _ in chunks]),
            counts,
            np.concatenate(pieces),
            new_ids=np.concatenate(new) if new else None,
            wanted=np.cumsum(counts)[is_done] - 1,
            embeds=self._embeds(chunks),
        )
        for (course, count), row in zip(chunks, (np.cumsum(is_done) - 1).tolist(), strict=True):
            course.ids, course.embeds = course.ids[count:], None
            course.row = -1 if len(course.ids) else row
        return logits

    def _embeds(self, chunks: list[tuple[Course, int]]) -> Tensor | None:
        if all(course.embeds is None for course, _ in chunks):
            return None
        table = self.sequences.model.embedding.weight.detach()
        return torch.cat([
            table[torch.from_numpy(course.ids[:count]).to(table.device)]
            if course.embeds is None
            else course.embeds.to(table)
            for course, count in chunks
        ])  # fmt: skip

    def _draw(self, logits: Tensor) -> list[Sample]:
        """Draw for every sample all of whose courses have logits."""
        running: list[Sample] = []
        ready: list[Sample] = []
        rows: list[int] = []
        combined: list[Tensor] = []
        for sample in self._running:
            running.append(sample)
            if not all(course.is_ready for course in sample.courses):
                for course in sample.courses:
                    if course.row >= 0:
                        course.logits, course.row = logits[course.row].clone(), -1
                continue
            row = sample.courses[0].row
            if len(sample.courses) > 1:
                row = len(logits) + len(combined)
                combined.append(_combined(sample, logits))
            followers = self._follow(sample)
            running += followers
            ready += [sample, *followers]
            rows += [row] * (1 + len(followers))
            for course in sample.courses:
                course.row, course.logits = -1, None
        self._running = running
        if not ready:
            return []
        if combined:
            logits = torch.cat([logits, torch.stack(combined)])
        draws = self._sampler.step(
            [sample.draw for sample in ready],
            logits.float().cpu(),
            rows=rows,
            mask=self._mask(ready),
            top_n=max(sample.request.top_logps for sample in ready),
            on_bad="sentinel",
        )
        for i, token in enumerate(draws.ids.tolist()):
            if token >= 0:
                self._take(ready[i], token, draws, i)
                continue
            ready[i].reason = "error"
            if bool((logits[rows[i]].isnan() | logits[rows[i]].isposinf()).any()):
                self.sequences.scrub()
        self._drop([sample for sample in ready if sample.reason is not None])
        return ready

    def _follow(self, sample: Sample) -> list[Sample]:
        """The samples that begin where the prompt of this one ends."""
        if not sample.followers:
            return []
        request, followers = sample.request, sample.followers
        handles = [self.sequences.fork(course.handle, len(followers)) for course in sample.courses]
        draws = self._sampler.fork(sample.draw, [request.sampling.seed + index for index in followers])
        sample.followers = range(0)
        nothing = np.zeros(0, np.int64)
        return [
            self._fitted(
                Sample(
                    sample.ticket,
                    index,
                    request,
                    sample.job,
                    [Course(int(of[i]), nothing) for of in handles],
                    int(draws[i]),
                    sample.room,
                    range(0),
                    sample.needs_text,
                )
            )
            for i, index in enumerate(followers)
        ]

    def _mask(self, samples: list[Sample]) -> NDArray[np.int32] | None:
        """(samples, words) of what may be drawn, if any sample is constrained."""
        if all(sample.constraint is None for sample in samples):
            return None
        words = -(-self._sampler.vocab_size // 32)
        mask = np.full((len(samples), words), -1, np.int32)
        for row, sample in zip(mask, samples, strict=True):
            if sample.constraint is not None:
                sample.constraint.fill(row)
        return mask

    def _take(self, sample: Sample, token: int, draws: Draws, i: int) -> None:
        """Add what was drawn for a sample."""
        request = sample.request
        top: tuple[tuple[int, float], ...] = ()
        if request.top_logps:
            ids, logps = (column[i, : request.top_logps] for column in (draws.top_ids, draws.top_logps))
            top = tuple(pair for pair in zip(ids.tolist(), logps.tolist(), strict=True) if pair[0] >= 0)
        if sample.constraint is not None:
            sample.constraint.accept(token)
        self._add(sample, token, float(draws.logps[i]), top)
        given: list[int] = []
        if request.hook is not None and sample.reason is None:
            given = [int(one) for one in request.hook(sample.ids)][: sample.room]
            for one in given:
                if sample.reason is None:
                    self._add(sample, one, math.nan, ())
            self._sampler.append(sample.draw, given)
        if sample.reason is None:
            for course in sample.courses:
                course.ids, course.is_prompt = np.array([token, *given]), False

    def _add(self, sample: Sample, token: int, logp: float, top: tuple[tuple[int, float], ...]) -> None:
        sample.ids.append(token)
        sample.logps.append(logp)
        sample.top.append(top)
        sample.room -= 1
        piece = ""
        if token in sample.request.sampling.stop_ids:
            sample.reason = "stop"
        elif sample.watch is not None:
            piece = sample.watch.push(token)
            if sample.watch.stopped:
                sample.reason = "stop"
        if sample.reason is None and sample.room == 0:
            sample.reason = "length"
        if sample.reason is not None and sample.watch is not None:
            piece += sample.watch.flush()
        sample.text.append(piece)

    def _drop(self, ended: list[Sample]) -> None:
        """Give back what samples hold that have ended."""
        if not ended:
            return
        for are_sound in (True, False):
            handles = [
                course.handle
                for sample in ended
                for course in sample.courses
                if (sample.reason != "error") == are_sound
            ]
            if handles:
                self.sequences.free(np.array(handles), are_sound=are_sound)
        self._sampler.remove([sample.draw for sample in ended])
        for sample in ended:
            job = sample.job
            # Those that have not begun end with the one they were to follow.
            gone = 1 + len(sample.followers)
            job.num_left -= gone
            self._num_reserved -= gone * job.num_own + (0 if job.num_left else job.num_shared)
        self._running = [sample for sample in self._running if sample.reason is None]


def _combined(sample: Sample, logits: Tensor) -> Tensor:
    """(V,) of several prompts."""
    rows = [logits[course.row] if course.logits is None else course.logits for course in sample.courses]
    each = torch.stack(rows).float()
    if sample.request.combine is not None:
        return sample.request.combine(each)
    return each.log_softmax(-1).mean(0)


def _digest(values: Tensor) -> bytes:
    """Names values, so that only equal ones share blocks."""
    plain = values.detach().cpu().contiguous()
    return hashlib.sha256(plain.view(torch.uint8).numpy().tobytes()).digest()
