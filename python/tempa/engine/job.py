"""Requests under way: their samples, and the courses of these through the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tempa.engine.request import Constraint, Event, Request
from tempa.engine.sampling import FinishReason
from tempa.engine.text import StopWatch


@dataclass(eq=False, slots=True)
class Course:
    """One prompt of a sample on its way through the model.

    Attributes:
        handle: Its sequence.
        ids: Tokens that are not in the cache yet.
        num_cached: Tokens that are.
        num_known: Tokens that it has blocks for, in use or set aside: of the prompt, then all in the cache.
        is_shared: Whether its last block is that of other samples too, so that the next token takes another.
        embeds: What is read instead of the first of `ids`, (tokens, width).
        row: Of the logits of this step after its last token, -1 if it has tokens left.
        logits: (V,) after its last token, while other courses of the sample are behind.
    """

    handle: int
    ids: list[int] = field(default_factory=list)
    num_cached: int = 0
    num_known: int = 0
    is_shared: bool = False
    embeds: Tensor | None = None
    row: int = -1
    logits: Tensor | None = None

    def num_lacking(self, count: int, block_size: int) -> int:
        """Blocks that its next tokens take beyond those it has, at most."""
        lacking = -(-(self.num_cached + count) // block_size) - -(-self.num_known // block_size)
        return max(lacking, 0) + self.is_shared


@dataclass(eq=False, slots=True)
class Job:
    """A request under way.

    Attributes:
        ticket: Names it.
        request: What is asked.
        prompts: Of each course, checked; that of the first with a token for each place of `prefix_kv`.
        needs_text: Whether its text is made while it is written.
        num_open: Samples that have not ended.
        num_begun: Samples that have begun, or follow one that has.
        samples: Those that have begun.
        error: What has ended it, if something was raised.
    """

    ticket: int
    request: Request
    prompts: list[NDArray[np.int64]]
    needs_text: bool
    num_open: int
    num_begun: int = 0
    samples: list[Sample] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """Whether all samples have ended."""
        return self.num_open == 0

    def end(self, reason: FinishReason) -> None:
        """End the samples that have not ended."""
        for sample in self.samples:
            sample.reason = sample.reason or reason
        self.num_open = 0

    def fail(self, error: BaseException) -> None:
        """End them because of an error."""
        if not self.is_over:
            self.error = error
            self.end("error")

    def tell(self) -> list[Event]:
        """What has happened to its samples since the last time."""
        events: list[Event] = []
        for sample in self.samples:
            if sample.num_told < len(sample.ids) or sample.reason == "error":
                events += sample.tell()
        if self.error is not None:
            begun = {sample.index for sample in self.samples}
            events += [self.failure(i) for i in range(self.request.sampling.n) if i not in begun]
        return events

    def failure(self, index: int) -> Event:
        """The end of a sample because of an error."""
        return Event(self.ticket, index, None, math.nan, (), "", "error", self.error)


@dataclass(eq=False, slots=True)
class Sample:
    """One sample of a request.

    Attributes:
        job: The request.
        index: Which of its samples.
        courses: One for each prompt.
        draw: Its handle with the sampler.
        room: Tokens it may still get.
        followers: Indices of the samples that begin where its prompt ends.
        has_begun: Whether its prompt has been computed, so that tokens are drawn.
        watch: Makes the text.
        constraint: Says what may be drawn.
        ids: What was drawn or put in.
        logps: Log-probabilities of what was drawn, NaN for what was put in.
        top: The likeliest tokens at each place, if asked for.
        text: Pieces of the text, one for each token, if it is made.
        num_told: Tokens that events have told of, and one more for an error.
        reason: Why it has ended.
    """

    job: Job
    index: int
    courses: list[Course]
    draw: int
    room: int
    followers: range = range(0)
    has_begun: bool = False
    watch: StopWatch | None = None
    constraint: Constraint | None = None
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    num_told: int = 0
    reason: FinishReason | None = None

    @property
    def num_rows(self) -> int:
        """Samples that it stands for: itself and those that follow."""
        return 1 + len(self.followers)

    @property
    def handles(self) -> NDArray[np.int64]:
        """Its sequences."""
        return np.array([course.handle for course in self.courses])

    def end(self, reason: FinishReason) -> None:
        """Have its last token."""
        self.reason = reason
        self.job.num_open -= 1

    def tell(self) -> list[Event]:
        """What has happened to it since the last time."""
        ticket, is_failed, last = self.job.ticket, self.reason == "error", len(self.ids) - 1
        events: list[Event] = []
        for at in range(self.num_told, last + 1):
            top = self.top[at] if self.top else ()
            piece = self.text[at] if self.text else ""
            reason = self.reason if at == last and not is_failed else None
            events.append(Event(ticket, self.index, self.ids[at], self.logps[at], top, piece, reason))
        if is_failed and self.num_told <= last + 1:
            events.append(self.job.failure(self.index))
        self.num_told = last + 1 + is_failed
        return events
