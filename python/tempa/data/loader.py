"""Training batches as a pure function of `(seed, index)`.

There is no iterator state: a run that stops after batch `i` goes on with batch `i + 1`, on any machine and
with any number of workers. In packed mode every token but the first of each document is a target exactly
once an epoch of its source, and documents never see each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tempa.data.draw import Draw, MixturePlan, Mode
from tempa.data.mixture import Mixture
from tempa.data.packed import Packed
from tempa.data.shards import Shards


class Loader:
    """Batches of `batch_size` rows of at most `seq_len` tokens.

    A token counts as an input together with its target, the token after it, so `seq_len` is the number of
    predictions of a full row.

    - `packed`: whole documents are packed into rows best-fit; longer documents are cut, each piece a
      sequence of its own. Each epoch has its own order of the same rows.
    - `windows`: each row is one sequence from a random place in the stream, across document boundaries.

    A row is of one source; the rows of a mixture come in random order, each source in epochs of its own.

    Args:
        data: The tokenised corpus: a mixture, a directory that `Mixture.load` reads, or opened shards.
        seq_len: Predictions in a full row.
        batch_size: Rows in a batch.
        seed: Chooses the order.
        mode: How rows are cut.
        num_tokens: Predictions in the whole run. Only a mixture with `max_epochs` needs it.
        tokenizer_fingerprint: Fail unless this tokenizer (its `sha256`) made the ids.

    Raises:
        ValueError: If a size is not positive, the mode is unknown, a source is too short for one row or of
            another tokenizer, or `max_epochs` cannot be kept.
        FileNotFoundError: If there are no shards.

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
        data: Mixture | Shards | str | Path,
        *,
        seq_len: int,
        batch_size: int,
        seed: int = 0,
        mode: Mode = "packed",
        num_tokens: int | None = None,
        tokenizer_fingerprint: str | None = None,
    ) -> None:
        for name, value, least in (("seq_len", seq_len, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        mixture, self.sources = _opened(data, tokenizer_fingerprint)
        self.seq_len, self.batch_size, self.seed = seq_len, batch_size, seed
        self.mode: Mode = mode
        self._draw = Draw(
            mixture,
            self.sources,
            seq_len=seq_len,
            batch_size=batch_size,
            seed=seed,
            mode=mode,
            num_tokens=num_tokens,
        )

    @property
    def num_rows(self) -> int:
        """Rows in one epoch of every source."""
        return sum(rows.num_rows for rows in self._draw.rows.values())

    @property
    def num_batches_per_epoch(self) -> int:
        """Batches of `epoch`."""
        return sum(self._num_batches(source) for source in self.sources)

    @property
    def tokens_per_batch(self) -> int:
        """Predictions in a batch of full rows."""
        return self.seq_len * self.batch_size

    @property
    def num_targets(self) -> int:
        """Predictions in one epoch of every source."""
        return sum(self._draw.sizes.values())

    def batch(self, index: int) -> Packed:
        """Batch `index` of the endless shuffled sequence.

        Always `batch_size` rows: where an epoch ends inside a batch, the next one begins there. A batch of
        `b` rows at `index` holds the same rows as the `k` batches of `b / k` rows from `index * k` on.

        Raises:
            ValueError: If the index is negative, or beyond `num_tokens` where `max_epochs` depends on them.
        """
        if index < 0:
            raise ValueError(f"a batch index must not be negative, got {index}")
        self._draw.check_end((index + 1) * self.batch_size)
        return _packed(self._draw.core.batch(index))

    def epoch(self, source: str | None = None) -> Iterator[Packed]:
        """One pass in corpus order, for evaluation: every target once, the last batch of a source smaller.

        Args:
            source: The name of the only source to read; all, one after the other, when None.
        """
        for number, name in enumerate(self.sources):
            if source in (None, name):
                for index in range(self._num_batches(name)):
                    yield _packed(self._draw.core.sequential_batch(number, index))

    def plan(self, num_tokens: int) -> MixturePlan:
        """What a run of so many predictions reads of each source, and what packing leaves unused.

        Raises:
            ValueError: If `num_tokens` is not positive, or more than `max_epochs` was worked out for.
        """
        return self._draw.plan(num_tokens)

    def _num_batches(self, source: str) -> int:
        return -(-self._draw.rows[source].num_rows // self.batch_size)


def _opened(
    data: Mixture | Shards | str | Path, fingerprint: str | None
) -> tuple[Mixture, dict[str, Shards]]:
    if isinstance(data, Shards):
        if fingerprint is not None:
            data._shards.check_tokenizer(fingerprint)
        name = data.directory.resolve().name
        return Mixture(sources={name: data.directory}), {name: data}
    mixture = data if isinstance(data, Mixture) else Mixture.load(data)
    return mixture, mixture.open(tokenizer_fingerprint=fingerprint)


def _packed(arrays: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]) -> Packed:
    ids, targets, cu_seqlens = (torch.from_numpy(array) for array in arrays)
    return Packed(ids, targets, torch.ones(len(ids), dtype=torch.float32), cu_seqlens)
