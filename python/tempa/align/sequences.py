"""Sequences of a prompt and a response: rendering, order, micro-batches, log-probabilities.

Order is a pure function of `(seed, epoch)`, so a stopped run goes on with the same records, and a micro-batch
is cut by tokens, so memory does not depend on which records meet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tempa import _core
from tempa.chat import Message, Rendered, render_batch
from tempa.data.packed import Packed
from tempa.model import Transformer
from tempa.ops import linear_logp
from tempa.tokenizer import Tokenizer

# Keeps the order of records apart from everything else that is drawn with the same seed.
_ORDER_STREAM = 0x4F52_4445 << 32


def render_answers(
    tokenizer: Tokenizer, prompts: Sequence[Sequence[Message]], answers: Sequence[str]
) -> list[Rendered]:
    """Each conversation followed by its answer, with a mask on that answer and its end token alone.

    Earlier assistant turns are part of the prompt.
    """
    turns: list[Message] = [{"role": "assistant", "content": answer} for answer in answers]
    whole = render_batch(tokenizer, [[*prompt, turn] for prompt, turn in zip(prompts, turns, strict=True)])
    prefixes = render_batch(tokenizer, prompts, add_generation_prompt=True).offsets
    rendered = []
    for i, prefix in enumerate(np.diff(prefixes)):
        row = whole[i]
        rendered.append(Rendered(row.ids, (np.arange(len(row.ids)) >= prefix).astype(np.uint8)))
    return rendered


def records_of_step(num_records: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which records update `step` uses: every record once an epoch, each epoch in an order of its own.

    Where an epoch ends inside a step, the next one begins there.

    >>> records_of_step(4, 2, 0, seed=1) + records_of_step(4, 2, 1, seed=1)
    [0, 2, 3, 1]
    """
    picked: list[int] = []
    position = step * batch_size
    while len(picked) < batch_size:
        epoch, start = divmod(position, num_records)
        order = np.argsort(_core.random_bits(seed, _ORDER_STREAM | epoch, 0, num_records), kind="stable")
        part = order[start : start + batch_size - len(picked)]
        picked += part.tolist()
        position += len(part)
    return picked


def split_by_tokens(lengths: Sequence[int], max_tokens: int) -> list[slice]:
    """Cut neighbours into runs of at most `max_tokens` tokens; one that is longer is a run of its own.

    >>> split_by_tokens([3, 3, 3, 9, 1], max_tokens=6)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    runs, start, total = [], 0, 0
    for i, length in enumerate(lengths):
        if i > start and total + length > max_tokens:
            runs.append(slice(start, i))
            start, total = i, 0
        total += length
    return [*runs, slice(start, len(lengths))] if lengths else []


def packed(rows: Sequence[Rendered]) -> Packed:
    """The sequences as one batch; weights are their masks."""
    return Packed.from_rows([row.ids for row in rows], [row.mask for row in rows])


def response_logps(model: Transformer, batch: Packed, *, temperature: float = 1.0) -> Tensor:
    """(N,) float32 log-probability of each trained token, in order; the others cost no logits.

    Equal to `model.logps(batch, temperature=temperature)[batch.weights > 0]`.
    """
    return linear_logp(
        model.hidden(batch)[batch.trained],
        model.head_weight,
        batch.targets[batch.trained],
        temperature=temperature,
        softcap=model.config.softcap,
    )


def response_offsets(batch: Packed) -> Tensor:
    """(n + 1,) int64 boundaries of each sequence's trained tokens, as `response_logps` lays them out."""
    before = torch.cat([batch.weights.new_zeros(1), (batch.weights > 0).cumsum(0)]).long()
    return before[batch.cu_seqlens]
