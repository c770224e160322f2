"""Batches without padding: several sequences in one row of tokens.

Sequence `i` of a batch is `ids[cu_seqlens[i]:cu_seqlens[i + 1]]`. There is no pad token, so nothing can be
masked by mistake, and sequences never see each other: attention gets the same boundaries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempa.data.upload import upload


@dataclass(frozen=True)
class Packed:
    """A batch of sequences for next-token training.

    Attributes:
        ids: (T,) int64, the inputs.
        targets: (T,) int64, what each position should predict; any valid id where the weight is 0.
        weights: (T,) float32, how much each target counts in the loss; 0 means not trained.
        cu_seqlens: (n + 1,) int64, where sequences begin and end, from 0 to T.
        host: The batch on the CPU that `to` has copied: to ask a device is to wait for it.
    """

    ids: Tensor
    targets: Tensor
    weights: Tensor
    cu_seqlens: Tensor
    host: Packed | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_rows(
        cls, rows: list[NDArray[np.integer]], masks: list[NDArray[np.integer]] | None = None
    ) -> Packed:
        """Batch whole sequences; each token is predicted from those before it in its own sequence.

        Args:
            rows: Token ids of each sequence, at least one token each.
            masks: For each sequence, 1 where the token is to be learned; all but the first when None.

        Raises:
            ValueError: If there is no row, a row is empty, or a mask has another length than its row.
        """
        if not rows:
            raise ValueError("a batch needs at least one sequence")
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        if not lengths.all():
            raise ValueError(f"sequence {int(np.argmin(lengths))} is empty")
        ids = np.concatenate(rows).astype(np.int64)
        ends = np.cumsum(lengths)
        learned = np.ones(len(ids), np.float32) if masks is None else np.concatenate(masks).astype(np.float32)
        if len(learned) != len(ids):
            raise ValueError(f"masks cover {len(learned)} tokens, the sequences have {len(ids)}")
        targets, weights = np.roll(ids, -1), np.roll(learned, -1)
        targets[ends - 1], weights[ends - 1] = 0, 0  # the last token of a sequence predicts nothing
        return cls(
            torch.from_numpy(ids),
            torch.from_numpy(targets),
            torch.from_numpy(weights),
            torch.from_numpy(np.concatenate([[0], ends])),
        )

    @property
    def num_tokens(self) -> int:
        """Tokens the model reads."""
        return self.ids.numel()

    @property
    def num_sequences(self) -> int:
        """Sequences in the batch."""
        return self.cu_seqlens.numel() - 1

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """(n + 1,) int64, `cu_seqlens` on the host."""
        return self.cu_seqlens.cpu().numpy() if self.host is None else self.host.bounds

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """(m,) int64, those whose weight is not 0, on the host."""
        return np.flatnonzero(self.weights.cpu().numpy()) if self.host is None else self.host.places

    @cached_property
    def trained(self) -> Tensor:
        """`places`, where the batch is."""
        (places,) = upload([self.places], self.ids.device)
        return places

    @cached_property
    def lengths(self) -> Tensor:
        """(n,) int64, tokens per sequence."""
        return self.cu_seqlens.diff()

    @cached_property
    def positions(self) -> Tensor:
        """(T,) int64, each token's place in its own sequence."""
        starts = self.cu_seqlens[:-1].repeat_interleave(self.lengths, output_size=self.num_tokens)
        return torch.arange(self.num_tokens, device=self.ids.device) - starts

    def to(self, device: torch.device | str) -> Packed:
        """The same batch on another device."""
        if self.ids.device.type != "cpu":
            parts = (self.ids, self.targets, self.weights, self.cu_seqlens)
            ids, targets, weights, cu_seqlens = (part.to(device) for part in parts)
            return Packed(ids, targets, weights, cu_seqlens, self.host)
        if torch.device(device).type == "cpu":
            return self
        ids, targets, weights, cu_seqlens = upload(
            [part.numpy() for part in (self.ids, self.targets, self.weights, self.cu_seqlens)], device
        )
        return Packed(ids, targets, weights, cu_seqlens, self)
