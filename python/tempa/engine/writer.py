"""From logits to tokens and text: draws, stops, and what a request brings along.

Hooks, constraints and functions of a request may raise. That ends their request and no other.
"""

from __future__ import annotations

import math
import operator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempa.engine.job import Sample
from tempa.engine.text import StopWatch
from tempa.sample import Sampler
from tempa.tokenizer import Tokenizer

# Likeliest tokens and their log-probabilities.
_Top = tuple[tuple[int, float], ...]


class Writer:
    """Gives samples their tokens.

    Args:
        sampler: Knows every sample that is written.
        tokenizer: Makes texts and finds stop strings.
    """

    def __init__(self, sampler: Sampler, tokenizer: Tokenizer | None) -> None:
        self._sampler, self._tokenizer = sampler, tokenizer

    def begin(self, sample: Sample) -> None:
        """Give a sample what belongs to it alone."""
        job = sample.job
        if self._tokenizer is not None and job.needs_text:
            sample.watch = StopWatch(self._tokenizer, job.request.sampling.stop)
        if job.request.constraint is not None:
            try:
                sample.constraint = job.request.constraint()
            except Exception as error:
                job.fail(error)

    def combine(self, sample: Sample, logits: Tensor) -> int:
        """Put what a sample with several courses draws from into a row of theirs, and say which."""
        row = max(course.row for course in sample.courses)
        each = torch.stack([
            logits[course.row] if course.logits is None else course.logits for course in sample.courses
        ])  # fmt: skip
        try:
            if sample.job.request.combine is None:
                combined = each.log_softmax(-1).mean(0)
            else:
                combined = sample.job.request.combine(each)
            shape, expected = tuple(combined.shape), (each.shape[1],)
            if shape != expected:
                raise ValueError(f"combine should give logits of shape {expected}, got {shape}")
            with torch.inference_mode():
                logits[row] = combined
        except Exception as error:
            sample.job.fail(error)
        return row

    def write(self, samples: list[Sample], logits: Tensor, rows: list[int]) -> bool:
        """Draw a token for each sample from its row; those that have failed draw for nothing.

        Returns:
            Whether all logits were numbers.
        """
        draws = self._sampler.step(
            [sample.draw for sample in samples],
            logits if logits.is_cuda else logits.cpu(),
            rows=rows,
            mask=self._mask(samples),
            top_n=max(sample.job.request.top_logps for sample in samples),
            on_bad="sentinel",
        )
        is_sound = True
        tokens, logps = draws.ids.tolist(), draws.logps.tolist()
        for i, (sample, token, logp) in enumerate(zip(samples, tokens, logps, strict=True)):
            if token < 0:
                is_sound &= not bool((logits[rows[i]].isnan() | logits[rows[i]].isposinf()).any())
            if sample.reason is not None:
                continue
            if token < 0:
                sample.end("error")
                continue
            top: _Top = ()
            if count := sample.job.request.top_logps:
                pairs = zip(
                    draws.top_ids[i, :count].tolist(), draws.top_logps[i, :count].tolist(), strict=True
                )
                top = tuple(pair for pair in pairs if pair[0] >= 0)
            try:
                self._take(sample, token, logp, top)
            except Exception as error:
                sample.job.fail(error)
        return is_sound

    def _mask(self, samples: list[Sample]) -> NDArray[np.int32] | None:
        """(samples, words) of what may be drawn, if any sample is constrained."""
        if all(sample.constraint is None for sample in samples):
            return None
        words = -(-self._sampler.vocab_size // 32)
        mask = np.full((len(samples), words), -1, np.int32)
        for row, sample in zip(mask, samples, strict=True):
            if sample.constraint is not None:
                try:
                    sample.constraint.fill(row)
                except Exception as error:
                    sample.job.fail(error)
        return mask

    def _take(self, sample: Sample, token: int, logp: float, top: _Top) -> None:
        """Add what was drawn for a sample, and what its hook puts in behind it."""
        if sample.constraint is not None:
            sample.constraint.accept(token)
        self._add(sample, token, logp, top)
        fed = [token]
        hook = sample.job.request.hook
        if hook is not None and sample.reason is None:
            given = [operator.index(one) for one in hook(sample.ids.copy())][: sample.room]
            self._sampler.append(sample.draw, given)
            for one in given:
                if sample.reason is None:
                    self._add(sample, one, math.nan, ())
            fed += given
        for course in sample.courses:
            course.ids = fed

    def _add(self, sample: Sample, token: int, logp: float, top: _Top) -> None:
        request, watch = sample.job.request, sample.watch
        is_stopped = token in request.sampling.stop_ids
        if watch is not None:
            piece = "" if is_stopped else watch.push(token)
            is_stopped = is_stopped or watch.stopped
            if is_stopped or sample.room == 1:
                piece += watch.flush()
            sample.text.append(piece)
        if request.top_logps:
            sample.top.append(top)
        sample.ids.append(token)
        sample.logps.append(logp)
        sample.room -= 1
        if is_stopped:
            sample.end("stop")
        elif sample.room == 0:
            sample.end("length")
