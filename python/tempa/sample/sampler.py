"""Requests and their draws, one call for a whole batch.

A draw is a pure function of its row of logits, the settings, the request's tokens so far, its seed and the
position of the new token. It depends neither on the rest of the batch, nor on the order of requests, nor on
the number of threads. Logits are read where they are: numpy arrays, or tensors on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.sample.settings import Settings

Ids = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Draws:
    """One token for each row.

    Attributes:
        ids: (B,) int64, the tokens; -1 for a bad row.
        logps: (B,) float32, their log-probabilities. "processed": after penalties and temperature, before the
            cuts; at temperature 0, those of temperature 1. "raw": the model's own. NaN with "none".
        kept_logps: (B,) float32, their log-probabilities among the tokens that the cuts kept.
        top_ids: (B, top_n) int64, the likeliest tokens of the distribution of `logps`, the best first; -1
            where there are fewer.
        top_logps: (B, top_n) float32, their log-probabilities.
    """

    ids: NDArray[np.int64]
    logps: NDArray[np.float32]
    kept_logps: NDArray[np.float32]
    top_ids: NDArray[np.int64]
    top_logps: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Verified:
    """What became of drafts.

    Attributes:
        num_accepted: (B,) int64, tokens of each draft that were accepted.
        next_ids: (B,) int64, the token after them; -1 for a bad row.
        draws: As of a step, for each row of logits; rows after that of `next_ids` have the token -1.
    """

    num_accepted: NDArray[np.int64]
    next_ids: NDArray[np.int64]
    draws: Draws


class Sampler:
    """The requests of a server or a rollout.

    A request's position starts at the length of its prompt and grows with its output. All methods may be
    called from any thread.

    Args:
        vocab_size: Tokens; logits may have more columns, which are not read.

    >>> sampler = Sampler(4)
    >>> handle = sampler.add(Settings(temperature=0), prompt=[3, 1])
    >>> sampler.step([handle], np.array([[0.5, 2, 2, 1]], np.float32)).ids
    array([1])
    """

    def __init__(self, vocab_size: int) -> None:
        self._core = _core.Sampler(vocab_size)

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        return self._core.vocab_size

    def __len__(self) -> int:
        """Number of requests."""
        return len(self._core)

    def add(self, settings: Settings, *, prompt: Ids = (), seed: int = 0) -> int:
        """Add a request.

        Args:
            settings: How its tokens are drawn.
            prompt: Its tokens so far; the repetition penalty counts them, and the position of the first draw
                is their number.
            seed: Key of its random numbers, from 0 to 2^64 - 1. Two requests with the same seed draw with the
                same numbers at the same position.

        Returns:
            A handle, never given again.

        Raises:
            ValueError: If a token is not in the vocabulary.
        """
        return self._core.add(settings, seed, _ids(prompt))

    def fork(self, handle: int, seeds: Sequence[int] | NDArray[np.uint64]) -> NDArray[np.int64]:
        """Copy a request with its output, once for each seed, and return the new handles."""
        return self._core.fork(handle, np.asarray(seeds, np.uint64))

    def remove(self, handles: Ids) -> None:
        """Forget requests; all or, if one is unknown, none."""
        self._core.remove(_ids(handles))

    def append(self, handle: int, ids: Ids) -> None:
        """Add tokens to a request's output that it did not draw."""
        self._core.append(handle, _ids(ids))

    def rollback(self, handle: int, num_tokens: int) -> None:
        """Take back the last tokens of a request's output; they are drawn again at the same positions."""
        self._core.rollback(handle, num_tokens)

    def output(self, handle: int) -> NDArray[np.int64]:
        """The output of a request so far."""
        return self._core.output(handle)

    def step(
        self,
        handles: Ids,
        logits: Any,
        *,
        rows: Ids | None = None,
        mask: Any = None,
        logps: Literal["processed", "raw", "none"] = "processed",
        top_n: int = 0,
        on_bad: Literal["raise", "sentinel"] = "raise",
    ) -> Draws:
        """Draw the next token of each request and add it to its output.

        Args:
            handles: (B,) requests, each once.
            logits: (R, columns) float32 or bfloat16, an array or a tensor on the CPU; bfloat16 may come as
                uint16. Rows may lie apart.
            rows: (B,) the row of each request, if they are not its own in order; several may read one row.
            mask: (B, words) int32, bit `i % 32` of word `i // 32` is 1 if token `i` may be drawn, as xgrammar
                and llguidance fill it.
            logps: Which log-probabilities are computed; "none" is fastest.
            top_n: How many of the likeliest tokens are listed.
            on_bad: A row with NaN or +inf, or without a token that may be drawn, raises, and nothing has
                changed; or its token is -1, and its request has not changed.

        Raises:
            KeyError: If a request is unknown or given twice.
            ValueError: If shapes do not fit or a row is bad; the message names the row.
        """
        order = None if rows is None else _ids(rows)
        modes = (logps, top_n, on_bad)
        return Draws(*self._core.step(_ids(handles), _array(logits), order, _optional(mask), modes))

    def verify(
        self,
        handles: Ids,
        drafts: Sequence[Ids],
        logits: Any,
        *,
        draft_probs: Any = None,
        mask: Any = None,
        logps: Literal["processed", "raw", "none"] = "processed",
        top_n: int = 0,
        on_bad: Literal["raise", "sentinel"] = "raise",
    ) -> Verified:
        """Draw along drafts; accepted tokens and the one after them join the output.

        Without `draft_probs`, or at temperature 0, tokens are drawn as `step` draws them, and a draft is
        accepted as far as it has the same tokens: the output is what it would have been without drafts. With
        them, a token is accepted with the probability `min(1, p / q)`, and another one is drawn from what `p`
        has more of (Leviathan et al., 2023): the output has the same distribution.

        Args:
            handles: (B,) requests, each once.
            drafts: Tokens proposed for each; k tokens need k + 1 rows of logits.
            logits: (tokens + B, columns) as of `step`: for each request the row after its output, then the
                row after each token of its draft.
            draft_probs: (tokens, vocab_size) float32, the distribution that each token was drawn from, as
                `distribution` gives it.
            mask: As of `step`, for each row of logits.
            logps: As of `step`.
            top_n: As of `step`.
            on_bad: As of `step`.

        Raises:
            KeyError: If a request is unknown or given twice.
            ValueError: If shapes do not fit, a row is bad, or a token of a draft has no probability there.
        """
        tokens = [_ids(draft) for draft in drafts]
        offsets = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        flat = np.concatenate([np.zeros(0, np.int64), *tokens])
        probs = None if draft_probs is None else np.ascontiguousarray(_array(draft_probs))
        modes = (logps, top_n, on_bad)
        accepted, next_ids, columns = self._core.verify(
            _ids(handles), (flat, offsets, probs), _array(logits), _optional(mask), modes
        )
        return Verified(accepted, next_ids, Draws(*columns))

    def distribution(self, handles: Ids, logits: Any, *, mask: Any = None) -> NDArray[np.float32]:
        """(B, vocab_size) probabilities from which `step` would draw; nothing changes."""
        return self._core.distribution(_ids(handles), _array(logits), _optional(mask))


def _ids(ids: Ids) -> NDArray[np.int64]:
    """Whole numbers only: a float is an error, not a silent cast."""
    array = np.asarray(ids)
    if array.size == 0:
        return np.zeros(0, np.int64)
    return np.ascontiguousarray(array.astype(np.int64, casting="safe", copy=False))


def _array(values: Any) -> NDArray[Any]:
    """A view of an array or of a tensor on the CPU; bfloat16 as uint16."""
    if isinstance(values, np.ndarray):
        return values.view(np.uint16) if values.dtype.name == "bfloat16" else values
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        if values.device.type != "cpu":
            raise TypeError(f"the sampler reads tensors on the CPU, got one on {values.device}: call .cpu()")
        bits = values.view(torch.uint16) if values.dtype == torch.bfloat16 else values
        view: NDArray[Any] = bits.detach().numpy()
        return view
    raise TypeError(f"expected a numpy array or a tensor, got {type(values).__name__}")


def _optional(values: Any) -> NDArray[Any] | None:
    return None if values is None else _array(values)
