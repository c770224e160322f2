"""Bookkeeping of a paged key-value cache for any engine: who has which block, which prefixes are there.

No tensor is touched and torch is not imported. Prefixes are found by their tokens, never by a hash alone. A
block can be hit from the moment its tokens are final: those of a step count as final at the next step of the
sequence, at `commit`, `preempt` or `free`, so launch the work of a step before any of these, and take
rejected drafts back before them. Run the copies that a call returns before the next call's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tempa import _core

# Until when a priority counts if nothing else is said: always.
ALWAYS = 2**32 - 1
STORED, REMOVED, CLEARED = range(3)

_Integer = TypeVar("_Integer", bound=np.integer)
_TokenIds = NDArray[np.uint32] | NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Layers that share block tables.

    Attributes:
        num_blocks: Blocks of its pool.
        window: How many tokens back a query sees, itself included; all when None.
        sinks: Tokens at the beginning that every query sees besides its window.
    """

    num_blocks: int
    window: int | None = None
    sinks: int = 0


class Admission(NamedTuple):
    """Requests that were admitted: the first ones, in order.

    Attributes:
        handles: One for each.
        num_cached: How many of its tokens are in the cache; the others have to be stepped.
        copies: (n, 4) int32: group, source block, target block, tokens; to run before the next call's.
    """

    handles: NDArray[np.int64]
    num_cached: NDArray[np.int64]
    copies: NDArray[np.int32]


class Events(NamedTuple):
    """What a router has to know, in order.

    Attributes:
        kinds: STORED, REMOVED or CLEARED.
        entries: The number of a stored block of tokens until it is removed.
        parents: Of what was stored, the entry before it, or -1 at the beginning.
        tokens: Of what was stored, `block_size` each.
        namespaces: Of what was stored at the beginning, in order.
    """

    kinds: NDArray[np.uint8]
    entries: NDArray[np.int64]
    parents: NDArray[np.int64]
    tokens: NDArray[np.uint32]
    namespaces: list[bytes]


class KvManager:
    """Fixed-size blocks of tokens, sequences that list them, and the prefixes that they share.

    A call that raises has changed nothing. Methods may be called from any thread, one at a time.

    Args:
        groups: Pools of blocks; a number is one group without a window.
        block_size: Tokens per block.
        watermark: Blocks of each pool that admission leaves to sequences that grow.
        has_events: Keep a log for `events`, which grows until it is taken.

    Raises:
        ValueError: If a size is out of range, or a slot would not fit int32.

    >>> kv = KvManager(8, block_size=4)
    >>> tables, slots, lengths = np.zeros((2, 8), np.int32), np.zeros(16, np.int32), np.zeros(2, np.int32)
    >>> first = kv.admit([range(10)])
    >>> _ = kv.step(first.handles, np.array([10]), None, tables, slots, lengths)
    >>> kv.free(first.handles)
    >>> kv.admit([range(8)]).num_cached  # a whole block, and a copy of all but the last token of another
    array([7])
    """

    def __init__(
        self,
        groups: int | Sequence[Group],
        *,
        block_size: int = 16,
        watermark: int = 0,
        has_events: bool = False,
    ) -> None:
        self.groups = (Group(groups),) if isinstance(groups, int) else tuple(groups)
        self.block_size = block_size
        self._core = _core.KvManager(
            [(group.num_blocks, group.window, group.sinks) for group in self.groups],
            block_size,
            watermark,
            has_events,
            False,
        )

    def admit(
        self,
        prompts: Sequence[ArrayLike],
        *,
        namespaces: Sequence[bytes] = (),
        priorities: ArrayLike | None = None,
        until: ArrayLike | None = None,
        reserves: ArrayLike | None = None,
    ) -> Admission:
        """Start a sequence for each prompt, as many as fit in their order.

        Args:
            prompts: Token ids, at least one each.
            namespaces: One for each prompt, b"" if there are none. Only equal ones share blocks: put there
                all that keys depend on besides the tokens, such as the adapter, a tenant's salt, an image.
            priorities: 0 to 31 for each; what a request leaves behind stays longer than that of lower ones.
                0 when None.
            until: Until when, in the unit of `expire`; `ALWAYS` when None.
            reserves: Tokens beyond the prompt to set blocks aside for; 0 when None.

        Raises:
            ValueError: If a prompt is empty or can never fit, or a setting is out of range.
        """
        arrays = [np.asarray(prompt, order="C") for prompt in prompts]
        offsets = np.array([0, *accumulate(map(len, arrays))], np.int64)
        tokens = arrays[0] if len(arrays) == 1 else np.concatenate(arrays or [np.zeros(0, np.uint32)])
        return self.admit_flat(
            tokens, offsets, namespaces=namespaces, priorities=priorities, until=until, reserves=reserves
        )

    def admit_flat(
        self,
        tokens: _TokenIds,
        offsets: NDArray[np.int64],
        *,
        namespaces: Sequence[bytes] = (),
        priorities: ArrayLike | None = None,
        until: ArrayLike | None = None,
        reserves: ArrayLike | None = None,
    ) -> Admission:
        """`admit` for prompts that lie one after the other: uint32, int32 or int64, and where each begins."""
        return Admission(
            *self._core.admit(
                tokens,
                offsets,
                namespaces,
                _checked(priorities, np.uint8),
                _checked(until, np.uint32),
                _checked(reserves, np.int64),
            )
        )

    def resume(self, handles: NDArray[np.int64]) -> Admission:
        """Admit preempted sequences again, as many as fit in their order, with all their tokens."""
        return Admission(*self._core.resume(handles))

    def step(
        self,
        handles: NDArray[np.int64],
        counts: NDArray[np.int64] | None,
        tokens: _TokenIds | None,
        tables: NDArray[np.int32],
        slots: NDArray[np.int32],
        lengths: NDArray[np.int32],
    ) -> NDArray[np.int32]:
        """Make room for the next tokens of a batch: the one call of an engine step.

        Only entries that are new are written to `tables` if the same array is given as in the last step, so
        nobody else may write to it meanwhile. Rows hold any block where the window has passed and behind the
        last block.

        Args:
            handles: Sequence i of the step is row i of the tables.
            counts: How many tokens of each; one each when None.
            tokens: The ids beyond the prompts, sequence by sequence; exactly as many as are missing. When
                None, what is written beyond the prompt is unknown and is never a prefix of others.
            tables: (rows, blocks), or (groups, rows, blocks): the blocks of each sequence.
            slots: (groups * n,), where n is at least the new tokens: `block * block_size + offset` of each.
            lengths: (rows,): tokens of each sequence, the new ones included.

        Returns:
            Copies as in `Admission`, to run before anything is written to `slots`.

        Raises:
            KeyError: If a handle is unknown.
            ValueError: If a handle comes twice, the arrays do not fit, or there are too few blocks: preempt
                or free some, and step again.
        """
        return self._core.step(handles, counts, tokens, tables, slots, lengths)

    def commit(self, handles: NDArray[np.int64]) -> None:
        """Let others hit the full blocks of sequences now, not from their next step on."""
        self._core.commit(handles)

    def fork(self, handle: int, n: int = 1) -> NDArray[np.int64]:
        """Start `n` sequences that share all blocks of another; who writes to a shared one gets a copy."""
        return self._core.fork(handle, n)

    def rollback(self, handles: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Take the last tokens back, such as rejected drafts.

        Raises:
            KeyError: If a handle is unknown.
            ValueError: If there are fewer tokens, or a window has let go what would be seen again.
        """
        self._core.rollback(handles, counts)

    def free(self, handles: NDArray[np.int64], *, commit: bool = True) -> None:
        """End sequences. Without `commit`, what the last step was to write is not offered to others."""
        self._core.free(handles, commit)

    def preempt(self, handles: NDArray[np.int64]) -> None:
        """Give the blocks of sequences back and remember their tokens for `resume`."""
        self._core.preempt(handles)

    def evict(self, num_blocks: int) -> list[int]:
        """Let go what would be evicted first, until `num_blocks` more blocks of each group are free.

        Admission and steps evict what they need; this does it before, between steps or ahead of a burst.

        Returns:
            How many blocks of each group became free: fewer where fewer are cached, and more where a block
            of another group was of no use without them.
        """
        return self._core.evict(num_blocks)

    def reset(self, epoch: int) -> bool:
        """Forget all prefixes if `epoch` is another one than at the last call, as after a change of weights.

        Live sequences go on, but nothing of them is a prefix of others. The first epoch is 0.
        """
        return self._core.reset(epoch)

    def expire(self, now: int) -> None:
        """Say what time it is, as any growing number: priorities that count until then count no longer."""
        self._core.expire(now)

    def fits(self, num_tokens: int) -> bool:
        """Whether a sequence of so many tokens would be admitted now, without any of it in the cache."""
        return self._core.fits(num_tokens)

    def events(self) -> Events:
        """What was stored and removed since the last call."""
        return Events(*self._core.events())

    def stats(self) -> dict[str, int]:
        """Counts since the beginning: tokens queried and hit, blocks evicted, merged, copied, preemptions."""
        return self._core.stats()

    def check(self) -> None:
        """Recount everything; slow.

        Raises:
            ValueError: If the bookkeeping contradicts itself.
        """
        self._core.check()

    @property
    def num_available(self) -> list[int]:
        """Blocks of each group that no sequence lists."""
        return self._core.num_available()

    @property
    def num_cached(self) -> list[int]:
        """Those of them that hold a prefix; they are evicted when their room is needed."""
        return self._core.num_cached()


def _checked(values: ArrayLike | None, dtype: type[_Integer]) -> NDArray[_Integer] | None:
    """Whole numbers in the range of `dtype`, as such; None if there are none."""
    if values is None:
        return None
    array = np.asarray(values)
    if not array.size:
        return None
    limits = np.iinfo(dtype)
    if array.dtype.kind not in "iu" or array.min() < limits.min or array.max() > limits.max:
        raise ValueError(f"expected whole numbers from {limits.min} to {limits.max}, got {array}")
    return array.astype(dtype)
