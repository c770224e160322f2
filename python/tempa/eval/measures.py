"""Measures of models on held-out data, each with an interval over its items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tempa.align.dpo import pair_logps
from tempa.align.grade import Reward, Task
from tempa.align.grade import exact_answer as answer_reward
from tempa.align.policy_loss import segment_sum
from tempa.align.records import Pair
from tempa.align.reward import end_scores, pair_rows
from tempa.align.rollout import Response, Verified, sample
from tempa.align.sequences import packed, response_logps, response_offsets, split_by_tokens
from tempa.data.packed import Packed
from tempa.engine import Engine
from tempa.eval.intervals import Estimate, bootstrap_interval
from tempa.model import ScalarHead, Transformer
from tempa.tokenizer import Tokenizer

# Tokens in one forward.
_MICRO_TOKENS = 8192


@torch.inference_mode()
def bits_per_byte(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]) -> Estimate:
    """Bits that the model needs for each byte of text; comparable between tokenizers.

    Every token but the first of a text is predicted, from at most `max_positions` tokens before it. Bytes are
    those of the text itself in UTF-8, less the first token's (trap L17): tokens that are parts of a
    character have no text of their own to measure.

    Args:
        model: The language model.
        tokenizer: Its tokenizer.
        texts: As they were written; the interval is over them.

    Raises:
        ValueError: If no text has two tokens.
    """
    ids, offsets = tokenizer.encode_batch(list(texts))
    longest = model.config.max_positions
    windows: list[NDArray[np.integer]] = []
    owners, num_bytes = [], []
    for i, text in enumerate(texts):
        row = ids[offsets[i] : offsets[i + 1]]
        first = len(tokenizer.token_bytes(int(row[0]))) if len(row) else 0
        num_bytes.append(len(text.encode()) - first)
        # One token of overlap: the last of a window is predicted there, and begins the next.
        for start in range(0, len(row) - 1, longest - 1):
            windows.append(row[start : start + longest])
            owners.append(i)
    if not windows:
        raise ValueError(f"none of {len(texts)} texts has two tokens, so there is nothing to predict")
    nats = np.zeros(len(texts))
    for run in split_by_tokens([len(window) for window in windows], _MICRO_TOKENS):
        batch = Packed.from_rows(windows[run]).to(model.device)
        sums = segment_sum(response_logps(model, batch), response_offsets(batch)).double().cpu().numpy()
        np.subtract.at(nats, owners[run], sums)
    kept = np.array(num_bytes) > 0
    sizes = np.array(num_bytes, dtype=np.float64)[kept]
    return bootstrap_interval(nats[kept] / math.log(2) / sizes, weights=sizes)


@dataclass(frozen=True)
class Answers:
    """Responses to tasks and whether they are right.

    Attributes:
        responses: One for each task.
        scores: (n,) float32, one for each response.
    """

    responses: list[Response]
    scores: NDArray[np.float32]

    @property
    def accuracy(self) -> Estimate:
        """Mean score."""
        return bootstrap_interval(self.scores)

    @property
    def stop_rate(self) -> Estimate:
        """Share of responses that end by themselves."""
        return bootstrap_interval([float(response.is_finished) for response in self.responses])


def exact_answer(
    engine: Engine, tasks: Sequence[Task], reward: Reward = answer_reward, *, max_new_tokens: int = 128
) -> Answers:
    """Answer every task with the likeliest tokens and grade the answers (ch3 B12).

    Args:
        engine: Holds the model and its tokenizer.
        tasks: Conversations and expected answers.
        reward: Grades one text; `tempa.align.grade` has some.
        max_new_tokens: The longest response.

    Raises:
        ValueError: If the engine has no tokenizer, or a prompt leaves no room for a response.
    """
    if engine.tokenizer is None:
        raise ValueError("reading and writing text needs a tokenizer; give one to the engine")
    responses = sample(
        engine,
        engine.tokenizer,
        tasks,
        num_samples=1,
        max_new_tokens=max_new_tokens,
        temperature=0.0,
        seeds=[0] * len(tasks),
    )
    return Answers(responses, Verified(reward)(responses).numpy())


@torch.inference_mode()
def pair_accuracy(model: ScalarHead | Transformer, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> Estimate:
    """Share of pairs whose chosen answer gets the higher score, or the higher probability.

    Args:
        model: A reward model, or a language model judged by summed log-probabilities.
        tokenizer: Its tokenizer.
        pairs: Held-out preferences.
    """
    rows = pair_rows(tokenizer, pairs)
    margins = []
    for run in split_by_tokens([sum(len(row.ids) for row in both) for both in rows], _MICRO_TOKENS):
        batch = packed([row for both in rows[run] for row in both])
        scores = (
            end_scores(model, batch).view(-1, 2)
            if isinstance(model, ScalarHead)
            else pair_logps(model, batch)
        )
        margins.append((scores[:, 0] - scores[:, 1]).cpu())
    return bootstrap_interval((torch.cat(margins) > 0).float().numpy())


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Share of items on which our score is higher; a tie counts half.

    Raises:
        ValueError: If there are not as many of ours as of theirs.

    >>> win_rate([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 4.0, 0.0]).mean
    0.625
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} scores of ours, {len(theirs)} of theirs")
    return bootstrap_interval((np.sign(np.subtract(ours, theirs)) + 1) / 2)


def performance_gap_recovered(weak: float, weak_to_strong: float, ceiling: float) -> float:
    """`(P_weak->strong - P_weak) / (P_ceiling - P_weak)`: 1 closes the gap, 0 gains nothing (ch4 W2).

    Raises:
        ValueError: If the ceiling is the weak model's own performance.

    >>> round(performance_gap_recovered(0.60, 0.76, 0.80), 6)
    0.8
    """
    if ceiling == weak:
        raise ValueError(f"there is no gap to recover: weak and ceiling are both {weak}")
    return (weak_to_strong - weak) / (ceiling - weak)


def best_of_n_divergence(n: int) -> float:
    """`log n - (n - 1) / n`, the most that taking the best of n samples can diverge from one (ch4 I2).

    >>> round(best_of_n_divergence(4), 6)
    0.636294
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return math.log(n) - (n - 1) / n
