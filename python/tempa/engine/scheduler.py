"""Continuous batching: which samples take part in a step.

Samples stand in line in the order in which they came. One joins when there are blocks for its prompt, and one
more for each course that runs; it takes blocks as it grows. When they run out, the last that joined is put
back until something ends. Its blocks stay as prefixes while nobody needs them, so it mostly goes on where it
was. The first in line is never put back, and one sample always fits, so all of them come to their end.

A sample's tokens depend on its request alone: not on the batch, nor on whether it was put back.
"""

from __future__ import annotations

import hashlib
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempa.engine.job import Course, Job, Sample
from tempa.engine.request import Request
from tempa.engine.sequences import NoRoomError, Sequences
from tempa.engine.writer import Writer
from tempa.model import Transformer
from tempa.sample import Sampler
from tempa.tokenizer import Tokenizer


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
        self.num_preempted = 0
        self._max_batch, self._step_tokens = max_batch, step_tokens
        self._sampler = _sampler(sequences.model)
        self._writer = Writer(self._sampler, tokenizer)
        # The line: every sample here came before those of the next.
        self._running: list[Sample] = []
        self._preempted: deque[Sample] = deque()
        self._waiting: deque[Job] = deque()
        self._is_full = False  # whether the first who does not run has to wait until something ends

    @property
    def num_running(self) -> int:
        """Samples that run."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests of which a sample has not begun, and samples that were put back."""
        return len(self._waiting) + len(self._preempted)

    def add(
        self, ticket: int, request: Request, prompts: list[NDArray[np.int64]], *, needs_text: bool
    ) -> Job:
        """Let a request wait.

        Args:
            ticket: Names it.
            request: What is asked.
            prompts: Of each course, checked; that of the first with a token for each place of `prefix_kv`.
            needs_text: Whether its text is made while it is written; it is, too, if there are stop strings.

        Raises:
            ValueError: If one sample of it cannot fit the cache, or it names a token that is not there.
        """
        sampling = request.sampling
        job = Job(ticket, request, prompts, needs_text or bool(sampling.stop), num_open=sampling.n)
        # The last token that is drawn is never read, so it is not cached.
        num_more, size = self._room(job) - 1, self.sequences.block_size
        num_blocks = sum(-(-(len(prompt) + num_more) // size) for prompt in prompts)
        if num_blocks > self.sequences.num_blocks:
            raise ValueError(
                f"a sample needs {num_blocks} cache blocks and {self.sequences.num_blocks} fit; "
                "raise cache_bytes or lower max_new_tokens"
            )
        self._sampler.remove([self._sampler.add(sampling)])  # raises what it cannot draw
        self._waiting.append(job)
        return job

    def cancel(self, job: Job) -> None:
        """Forget a request; its samples are not heard of again."""
        job.end("length")
        self._waiting = deque(one for one in self._waiting if one is not job)
        self._is_full = False
        self._drop()

    def step(self) -> None:
        """Give samples their next token."""
        self._join()
        if self._running:
            self._draw(self._advance(self._plan()))
            self._drop()

    def _room(self, job: Job) -> int:
        longest = max(map(len, job.prompts))
        return min(job.request.sampling.max_new_tokens, self.sequences.model.config.max_positions - longest)

    def _join(self) -> None:
        """Let those run whose turn it is."""
        if self._is_full or not self.num_waiting:
            return
        num_rows = sum(sample.num_rows for sample in self._running)
        num_courses = sum(sample.num_rows * len(sample.courses) for sample in self._running)
        while not self._is_full and self.num_waiting:
            sample = None
            # Admission that is taken back counts as a query of the cache, so it is not tried in vain.
            if not self._running or self.sequences.num_spare > num_courses:
                sample = self._resume(num_courses) if self._preempted else self._begin(num_rows, num_courses)
            if sample is None:
                self._is_full = True
            else:
                self._running.append(sample)
                num_rows += sample.num_rows
                num_courses += sample.num_rows * len(sample.courses)

    def _resume(self, num_courses: int) -> Sample | None:
        """The first that was put back, if there is room for it beside so many courses."""
        sample = self._preempted[0]
        try:
            cached = self.sequences.resume(sample.handles)
        except NoRoomError:
            if self._running:
                return None
            raise  # somebody else has blocks, so waiting would never end
        num_free = self.sequences.num_spare - num_courses
        if self._running and num_free < sample.num_rows * len(sample.courses):
            self.sequences.preempt(sample.handles)
            return None
        self._place(sample, cached.tolist())
        return self._preempted.popleft()

    def _begin(self, num_rows: int, num_courses: int) -> Sample | None:
        """The next sample of the first request that waits, with as many followers as there is room for."""
        job = self._waiting[0]
        request, sampling, index = job.request, job.request.sampling, job.num_begun
        count = min(sampling.n - index, self._max_batch - num_rows)
        if count < 1:
            return None
        try:
            handles, cached = self.sequences.admit(job.prompts, _namespaces(request))
        except NoRoomError:
            if self._running:
                return None
            raise  # somebody else has blocks, so waiting would never end
        num_free = self.sequences.num_spare - num_courses
        # One alone always fits.
        count = min(count, max(num_free // len(handles), 0 if self._running else 1))
        if count < 1:
            self.sequences.free(handles)
            return None
        prompt = job.prompts[0][_num_given(request) :]
        draw = self._sampler.add(sampling, prompt=prompt, seed=sampling.seed + index)
        courses = [Course(int(handle)) for handle in handles]
        followers = range(index + 1, index + count)
        sample = Sample(job, index, courses, draw, self._room(job), followers)
        self._place(sample, cached.tolist())
        job.samples.append(sample)
        job.num_begun += count
        if job.num_begun == sampling.n:
            self._waiting.popleft()
        return sample

    def _place(self, sample: Sample, cached: list[int]) -> None:
        """Say what of a sample has to be computed, when its sequences begin with so many tokens."""
        request = sample.job.request
        num_given = _num_given(request)
        if request.prefix_kv is not None and cached[0] < num_given:
            self.sequences.write(sample.courses[0].handle, request.prefix_kv[:, :, cached[0] :])
            cached[0] = num_given
        for course, prompt, done in zip(sample.courses, sample.job.prompts, cached, strict=True):
            course.ids = prompt[done:].tolist() + sample.ids[max(done - len(prompt), 0) :]
            course.num_cached, course.num_known = done, max(course.num_known, len(prompt))
        if request.inputs_embeds is not None:
            sample.courses[0].embeds = _rest(request.inputs_embeds, cached[0] - num_given)

    def _plan(self) -> list[tuple[Course, int]]:
        """Which courses go on, and by how many tokens; those that joined last are put back if blocks lack."""
        while True:
            chunks: list[tuple[Course, int]] = []
            budget, lacking = self._step_tokens, 0
            for sample in self._running:
                for course in sample.courses:
                    left = len(course.ids)
                    if left > 1:
                        left = min(left, budget)
                        budget -= left
                    if left:
                        chunks.append((course, left))
                        lacking += course.num_lacking(left, self.sequences.block_size)
            if len(self._running) == 1 or lacking <= self.sequences.num_spare:
                return chunks
            self._preempt(self._running.pop())

    def _preempt(self, sample: Sample) -> None:
        self.sequences.preempt(sample.handles)
        for course in sample.courses:
            course.is_shared, course.logits = False, None
        self._preempted.appendleft(sample)
        self._is_full = True
        self.num_preempted += 1

    def _advance(self, chunks: list[tuple[Course, int]]) -> Tensor:
        """Compute chunks; a course that has no token left gets its row of the logits, (rows, V)."""
        ids: list[int] = []
        new: list[int] = []
        for course, count in chunks:
            piece = course.ids[:count]
            ids += piece
            new += piece[course.num_known - course.num_cached :]
        counts = np.array([count for _, count in chunks])
        is_done = np.array([count == len(course.ids) for course, count in chunks])
        logits = self.sequences.advance(
            np.array([course.handle for course, _ in chunks]),
            counts,
            np.array(ids),
            new_ids=np.array(new, np.int64),
            wanted=np.cumsum(counts)[is_done] - 1,
            embeds=self._embeds(chunks),
        )
        row = 0
        for course, count in chunks:
            course.ids = course.ids[count:]
            course.num_cached += count
            if course.num_known < course.num_cached:
                course.num_known = course.num_cached
            course.is_shared = False
            course.embeds = None if course.embeds is None else _rest(course.embeds, count)
            if not course.ids:
                course.row = row
                row += 1
        return logits

    def _embeds(self, chunks: list[tuple[Course, int]]) -> Tensor | None:
        if all(course.embeds is None for course, _ in chunks):
            return None
        table = self.sequences.model.embedding.weight.detach()
        pieces: list[Tensor] = []
        for course, count in chunks:
            given = table[:0] if course.embeds is None else course.embeds[:count].to(table)
            rest = torch.tensor(course.ids[len(given) : count], dtype=torch.int64, device=table.device)
            pieces += [given, table[rest]]
        return torch.cat(pieces)

    def _draw(self, logits: Tensor) -> None:
        """Draw for every sample all of whose courses have logits."""
        running: list[Sample] = []
        ready: list[Sample] = []
        rows: list[int] = []
        for sample in self._running:
            if len(sample.courses) == 1:
                [course] = sample.courses
                row, course.row = course.row, -1
            else:
                row = self._combined(sample, logits)
            if row < 0:
                running.append(sample)
                continue
            group = [sample] if sample.has_begun else self._branch(sample)
            running += group
            ready += group
            rows += [row] * len(group)
        self._running = running
        if ready and not self._writer.write(ready, logits, rows):
            self.sequences.scrub()

    def _combined(self, sample: Sample, logits: Tensor) -> int:
        """The row that several courses draw from together, or -1 while some are behind."""
        row = -1
        if all(course.row >= 0 or course.logits is not None for course in sample.courses):
            row = self._writer.combine(sample, logits)
        for course in sample.courses:
            if row >= 0:
                course.logits = None
            elif course.row >= 0:
                course.logits = logits[course.row].clone()
            course.row = -1
        return row

    def _branch(self, sample: Sample) -> list[Sample]:
        """A sample whose prompt has been computed, and those that begin where it ends."""
        job, indices, group = sample.job, sample.followers, [sample]
        sample.followers = range(0)
        if indices and not job.is_over:
            draws = self._sampler.fork(
                sample.draw, [job.request.sampling.seed + index for index in indices]
            ).tolist()
            handles = [self.sequences.fork(course.handle, len(indices)).tolist() for course in sample.courses]
            for index, draw, *own in zip(indices, draws, *handles, strict=True):
                courses = [
                    Course(handle, [], course.num_cached, course.num_known)
                    for handle, course in zip(own, sample.courses, strict=True)
                ]
                group.append(Sample(job, index, courses, draw, sample.room))
            job.samples += group[1:]
        for one in group:
            one.has_begun = True
            for course in one.courses:
                is_partial = course.num_cached % self.sequences.block_size > 0
                course.is_shared = is_partial and len(group) > 1
            self._writer.begin(one)
        return group

    def _drop(self) -> None:
        """Give back what samples hold that have ended."""
        ended = [sample for sample in (*self._running, *self._preempted) if sample.reason is not None]
        if not ended:
            return
        for are_sound in (True, False):
            those = [sample for sample in ended if (sample.reason != "error") == are_sound]
            if those:
                handles = np.concatenate([sample.handles for sample in those])
                self.sequences.free(handles, are_sound=are_sound)
        self._sampler.remove([sample.draw for sample in ended])
        self._running = [sample for sample in self._running if sample.reason is None]
        self._preempted = deque(sample for sample in self._preempted if sample.reason is None)
        # Of those that wait, only the first may have begun and failed.
        if self._waiting and self._waiting[0].is_over:
            self._waiting.popleft()
        self._is_full = False


def _sampler(model: Transformer) -> Sampler:
    """One that draws where the model computes."""
    if model.device.type != "cuda":
        return Sampler(model.config.vocab_size)
    from tempa.ops.sampler_cuda import CudaSampler

    return CudaSampler(model.config.vocab_size)


def _num_given(request: Request) -> int:
    """Places before the prompt whose keys and values are given."""
    return 0 if request.prefix_kv is None else request.prefix_kv.shape[2]


def _rest(embeds: Tensor, count: int) -> Tensor | None:
    return embeds[count:] if count < len(embeds) else None


def _namespaces(request: Request) -> list[bytes]:
    """Of each prompt: what its keys depend on besides its tokens."""
    names = [request.namespace] * (1 + len(request.others))
    if request.prefix_kv is not None:
        names[0] += b"kv" + _digest(request.prefix_kv)
    if request.inputs_embeds is not None:
        names[0] += b"in" + _digest(request.inputs_embeds)
    return names


def _digest(values: Tensor) -> bytes:
    """Names values, so that only equal ones share blocks."""
    plain = values.detach().cpu().contiguous()
    return hashlib.sha256(plain.view(torch.uint8).numpy().tobytes()).digest()
