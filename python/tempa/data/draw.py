"""The rows of a mixture in the order in which they are drawn, and a plan of what a run reads of each source.

A share of predictions becomes a share of rows: a source that fills its rows badly gets more of them. Row `p`
of the endless sequence is a function of the seed, `p` and the mixture, found without a look at those before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from rich.table import Table

from tempa import _core
from tempa.data.mixture import Mixture, Stage
from tempa.data.shards import Shards

Mode = Literal["packed", "windows"]


@dataclass(frozen=True)
class SourcePlan:
    """What a run reads of one source.

    Attributes:
        name: Its name in the mixture.
        num_documents: Documents there are.
        num_targets: Predictions in one epoch.
        num_unused: Positions in one epoch's rows that no document fills; none in windows.
        num_cut_documents: Documents that are longer than a row and so are cut; not counted in windows.
        wanted: Share of the run by the weights, before `max_epochs`.
        share: Share of the run that is read.
        rows: Rows that are read.
        tokens: Predictions in them; a part of an epoch is counted as the mean of its rows.
        epochs: How often the source is read.
    """

    name: str
    num_documents: int
    num_targets: int
    num_unused: int
    num_cut_documents: int
    wanted: float
    share: float
    rows: int
    tokens: int
    epochs: float


@dataclass(frozen=True)
class MixturePlan:
    """What a run of `num_tokens` predictions reads of each source."""

    num_tokens: int
    num_rows: int
    seq_len: int
    mode: Mode
    stages: tuple[Stage, ...]
    sources: tuple[SourcePlan, ...]

    def table(self) -> Table:
        """The plan as a table for the terminal."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("source", no_wrap=True)
        names = (
            "documents",
            "tokens",
            "wanted",
            "share",
            "epochs",
            "read",
            "rows",
            "unused",
            "cut",
        )
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        for source in self.sources:
            positions = source.num_targets + source.num_unused
            table.add_row(
                source.name,
                f"{source.num_documents:,}",
                f"{source.num_targets:,}",
                f"{source.wanted:.3%}",
                f"{source.share:.3%}",
                f"{source.epochs:.3f}",
                f"{source.tokens:,}",
                f"{source.rows:,}",
                f"{source.num_unused / positions:.3%}",
                f"{source.num_cut_documents:,}",
            )
        return table


class Draw:
    """Rows of `seq_len` predictions from the sources of a mixture.

    Args:
        mixture: What is wanted of each source.
        shards: The sources, opened.
        seq_len: Predictions in a full row.
        batch_size: Rows in a batch.
        seed: Chooses the order.
        mode: How rows are cut, see `Loader`.
        num_tokens: Predictions in the whole run, for `max_epochs`.

    Raises:
        ValueError: If the mode is unknown, a source is too short for one row, or `max_epochs` cannot be kept.
    """

    def __init__(
        self,
        mixture: Mixture,
        shards: Mapping[str, Shards],
        *,
        seq_len: int,
        batch_size: int = 1,
        seed: int = 0,
        mode: Mode = "packed",
        num_tokens: int | None = None,
    ) -> None:
        self.mixture, self.shards, self.seq_len, self.num_tokens = mixture, shards, seq_len, num_tokens
        self.mode: Mode = mode
        self.rows = {name: _core.Rows(source._shards, seq_len, mode) for name, source in shards.items()}
        self.sizes = {name: rows.num_positions for name, rows in self.rows.items()}
        # Predictions in a row as it is drawn: windows are all full.
        self._fill = {
            name: seq_len if mode == "windows" else rows.num_positions / rows.num_rows
            for name, rows in self.rows.items()
        }
        self.stages = mixture.shares(self.sizes, num_tokens)
        self._starts = [0]
        for stage, after in zip(self.stages, self.stages[1:], strict=False):
            length = self._rows_of(stage, after.from_tokens - stage.from_tokens)
            self._starts.append(self._starts[-1] + length)
        # Beyond it, a source would be read more often than it may.
        self.end = None if mixture.max_epochs is None or num_tokens is None else self.num_rows(num_tokens)
        starts, stages = list(self._starts), list(self.stages)
        if self.end is not None:  # a stage ends there, so that shares are exact up to it
            starts.append(self.end)
            stages.append(stages[-1])
        weights = [stage.weights[name] / self._fill[name] for stage in stages for name in shards]
        self.core = _core.Loader(list(self.rows.values()), starts, weights, batch_size, seed)

    def num_rows(self, num_tokens: int) -> int:
        """Rows that hold the first `num_tokens` predictions, on average."""
        last = max(i for i, stage in enumerate(self.stages) if stage.from_tokens < num_tokens or i == 0)
        stage = self.stages[last]
        return self._starts[last] + self._rows_of(stage, num_tokens - stage.from_tokens)

    def plan(self, num_tokens: int) -> MixturePlan:
        """What a run reads of each source, and what packing leaves unused.

        Raises:
            ValueError: If `num_tokens` is not positive, or more than the mixture was planned for.
        """
        if num_tokens < 1:
            raise ValueError(f"a plan needs at least 1 token, got {num_tokens}")
        num_rows = self.num_rows(num_tokens)
        self.check_end(num_rows)
        unlimited = replace(self.mixture, max_epochs=None).shares(self.sizes)
        wanted = dict.fromkeys(self.rows, 0.0)
        for i, stage in enumerate(unlimited):
            end = unlimited[i + 1].from_tokens if i + 1 < len(unlimited) else num_tokens
            length = max(min(end, num_tokens) - stage.from_tokens, 0)
            for name, share in stage.weights.items():
                wanted[name] += share * length / num_tokens
        counts = dict(zip(self.rows, self.core.counts(num_rows).tolist(), strict=True))
        tokens = {name: round(count * self._fill[name]) for name, count in counts.items()}
        sources = []
        for name, rows in self.rows.items():
            is_packed = self.mode == "packed"
            lengths = self.shards[name].lengths()
            sources.append(
                SourcePlan(
                    name=name,
                    num_documents=len(lengths),
                    num_targets=self.sizes[name],
                    num_unused=is_packed * (rows.num_rows * self.seq_len - rows.num_positions),
                    num_cut_documents=is_packed * int(np.count_nonzero(lengths > self.seq_len + 1)),
                    wanted=wanted[name],
                    share=tokens[name] / sum(tokens.values()),
                    rows=counts[name],
                    tokens=tokens[name],
                    epochs=tokens[name] / self.sizes[name],
                )
            )
        return MixturePlan(num_tokens, num_rows, self.seq_len, self.mode, self.stages, tuple(sources))

    def check_end(self, num_rows: int) -> None:
        """Fail if so many rows are more than `max_epochs` was worked out for.

        Raises:
            ValueError: Naming the length of the run.
        """
        if self.end is not None and num_rows > self.end:
            raise ValueError(
                f"row {num_rows - 1} is beyond the {self.num_tokens:,} tokens "
                "for which max_epochs was worked out"
            )

    def _rows_of(self, stage: Stage, num_tokens: int) -> int:
        """Rows in which a stage predicts `num_tokens`."""
        rows_per_token = sum(share / self._fill[name] for name, share in stage.weights.items())
        return max(1, math.ceil(num_tokens * rows_per_token))
