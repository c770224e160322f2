"""What the stages that read records share: order, micro-batches, and what does not fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tempa.align.sequences import packed, records_of_step, split_by_tokens
from tempa.align.settings import RecordSettings
from tempa.chat import Rendered
from tempa.data.packed import Packed
from tempa.train.stage import Stage

# The sequences of one record, which stay together: one, or the two of a pair.
Rows = tuple[Rendered, ...]


@dataclass(frozen=True)
class Micro:
    """Some records of a step.

    Attributes:
        batch: Their sequences.
        records: Their places in the data.
    """

    batch: Packed
    records: list[int]


class RecordStage(Stage):
    """Training on records.

    Records with a sequence longer than the model reads are left out, which is said on stderr: cutting them
    would remove the end that the model has to learn.

    Args:
        rows: The sequences of each record.
        held_rows: Those to evaluate on.
        max_tokens: The longest sequence that the model reads.
        settings: Batches and seed.

    Raises:
        ValueError: If no record fits.
    """

    def __init__(
        self, rows: Sequence[Rows], held_rows: Sequence[Rows], max_tokens: int, settings: RecordSettings
    ) -> None:
        self.rows, self.held_rows = _fitting(rows, max_tokens), _fitting(held_rows, max_tokens)
        self.settings = settings
        left_out = len(rows) + len(held_rows) - len(self.rows) - len(self.held_rows)
        if not self.rows:
            raise ValueError(f"none of {len(rows)} records fits into the {max_tokens} tokens the model reads")
        if left_out:
            print(
                f"{self.name}: records longer than {max_tokens} tokens left out: {left_out}", file=sys.stderr
            )

    def micro_batches(self, step: int) -> tuple[Sequence[Micro], float]:
        """The records of update `step`, cut by tokens; the denominator is counted over all of them."""
        records = records_of_step(len(self.rows), self.settings.batch_size, step, self.settings.seed)
        return list(self._cut(self.rows, records)), self.count(records)

    def count(self, records: Sequence[int]) -> float:
        """What the summed loss of these records is divided by."""
        return float(len(records))

    def held_out(self) -> Iterator[Micro]:
        """The records to evaluate on."""
        return self._cut(self.held_rows, range(len(self.held_rows)))

    def _cut(self, rows: Sequence[Rows], records: Sequence[int]) -> Iterator[Micro]:
        lengths = [sum(len(sequence.ids) for sequence in rows[i]) for i in records]
        for run in split_by_tokens(lengths, self.settings.micro_tokens):
            part = list(records[run])
            yield Micro(packed([sequence for i in part for sequence in rows[i]]), part)


def _fitting(rows: Sequence[Rows], max_tokens: int) -> list[Rows]:
    return [row for row in rows if max(len(sequence.ids) for sequence in row) <= max_tokens]


def num_trained(rows: Rows) -> int:
    """Tokens of a record that the loss is on."""
    return sum(int(np.count_nonzero(sequence.mask[1:])) for sequence in rows)
