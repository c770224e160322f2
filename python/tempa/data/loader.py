"""Training batches as a pure function of `(seed, index)`.

There is no iterator state: a run that stops after batch `i` goes on with batch `i + 1`, on any machine and
with any number of workers. In packed mode every token but the first of each document is a target exactly
once an epoch, and documents never see each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tempa import _core
from tempa.data.packed import Packed
from tempa.data.shards import Shards

Mode = Literal["packed", "windows"]


class Loader:
    """Batches of `batch_size` rows of at most `seq_len` tokens.

    A token counts as an input together with its target, the token after it, so `seq_len` is the number of
    predictions of a full row.

    - `packed`: whole documents are packed into rows best-fit; longer documents are cut, each piece a
      sequence of its own. Each epoch has its own order of the same rows.
    - `windows`: each row is one sequence from a random place in the stream, across document boundaries.

    Args:
        shards: The tokenised corpus, or its directory.
        seq_len: Predictions in a full row.
        batch_size: Rows in a batch.
        seed: Chooses the order.
        mode: How rows are cut.

    Raises:
        ValueError: If a size is not positive, the mode is unknown, or the corpus is too short for one row.

    >>> import tempfile
    >>> from tempa.data.shards import ShardWriter
    >>> with ShardWriter(Path(tempfile.mkdtemp(), "two"), "ab" * 32, vocab_size=10) as writer:
    ...     writer.add(np.array([1, 2, 3, 4, 5], np.uint32), np.array([0, 3, 5]))
    >>> batch = Loader(writer.directory, seq_len=4, batch_size=1).batch(7)
    >>> batch.ids.tolist(), batch.targets.tolist(), batch.cu_seqlens.tolist()
    ([1, 2, 4], [2, 3, 5], [0, 2, 3])
    """

    def __init__(
        self,
        shards: Shards | str | Path,
        *,
        seq_len: int,
        batch_size: int,
        seed: int = 0,
        mode: Mode = "packed",
    ) -> None:
        for name, value, least in (("seq_len", seq_len, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.shards = shards if isinstance(shards, Shards) else Shards(shards)
        self.seq_len, self.batch_size, self.seed = seq_len, batch_size, seed
        self.mode: Mode = mode
        self._loader = _core.Loader(self.shards._shards, seq_len, batch_size, seed, mode)

    @property
    def num_rows(self) -> int:
        """Rows in an epoch."""
        return self._loader.num_rows

    @property
    def num_batches_per_epoch(self) -> int:
        """Batches that hold every row of an epoch."""
        return -(-self.num_rows // self.batch_size)

    @property
    def tokens_per_batch(self) -> int:
        """Predictions in a batch of full rows."""
        return self.seq_len * self.batch_size

    @property
    def num_targets(self) -> int:
        """Predictions in an epoch."""
        return self._loader.num_positions

    def batch(self, index: int) -> Packed:
        """Batch `index` of the endless shuffled sequence.

        Always `batch_size` rows: where an epoch ends inside a batch, the next one begins there. A batch of
        `b` rows at `index` holds the same rows as the `k` batches of `b / k` rows from `index * k` on.

        Raises:
            ValueError: If the index is negative.
        """
        return _packed(self._loader.batch(_checked(index)))

    def epoch(self) -> Iterator[Packed]:
        """One pass in corpus order, for evaluation: every target once, the last batch smaller."""
        for index in range(self.num_batches_per_epoch):
            yield _packed(self._loader.sequential_batch(index))


def _checked(index: int) -> int:
    if index < 0:
        raise ValueError(f"a batch index must not be negative, got {index}")
    return index


def _packed(arrays: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]) -> Packed:
    ids, targets, cu_seqlens = (torch.from_numpy(array) for array in arrays)
    return Packed(ids, targets, torch.ones(len(ids), dtype=torch.float32), cu_seqlens)
