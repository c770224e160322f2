"""Token sequences of one model in a paged cache: all that the engine and its strategies are made of.

A sequence is a handle. It begins with the blocks of its longest cached prefix, grows by `advance`, and may be
forked and rolled back. On the CPU in float32 the logits of a token depend on its sequence only, whatever is
computed together, cached before, or cut into pieces.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempa.data.upload import upload
from tempa.kv import KvManager
from tempa.model import Decoder, KvCache, Transformer
from tempa.ops import AttentionSpec

Handles = NDArray[np.int64]


class NoRoomError(ValueError):
    """There are too few blocks for sequences to begin; when others have ended there may be enough."""


class Sequences:
    """The sequences of a model, and the memory they share.

    Args:
        model: Read at every call, so it must not change while there are sequences.
        num_blocks: Size of the cache.
        block_size: Tokens per block.
        dtype: Of cached keys and values.
        decoder: Computes instead of the model; it has the model's weights.
        reuses_prefixes: Whether a prompt begins with what earlier sequences have computed.

    >>> from tempa.model import ModelConfig
    >>> model = Transformer(ModelConfig(vocab_size=10, depth=1, width=8, num_heads=2))
    >>> sequences = Sequences(model, num_blocks=8, block_size=4)
    >>> (one,), _ = sequences.admit([np.array([1, 2, 3])])
    >>> sequences.advance(np.array([one]), np.array([3]), np.array([1, 2, 3])).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        model: Transformer,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype = torch.float32,
        decoder: Decoder | None = None,
        reuses_prefixes: bool = True,
    ) -> None:
        self.model, self.decoder = model, decoder
        self.num_blocks, self.block_size = num_blocks, block_size
        self.kv = KvManager(num_blocks, block_size=block_size)
        self.cache = KvCache(
            model.config, num_blocks=num_blocks, block_size=block_size, dtype=dtype, device=model.device
        )
        self._epoch = 0
        self._alone = None if reuses_prefixes else itertools.count(1)
        self._tables = np.zeros((0, -(-model.config.max_positions // block_size)), np.int32)

    @property
    def num_free(self) -> int:
        """Blocks that no sequence lists."""
        return self.kv.num_available[0]

    @property
    def num_spare(self) -> int:
        """Those of them that no sequence is going to need for tokens that it has told."""
        fits = self.kv.fits
        size = self.block_size
        return bisect.bisect_left(range(self.num_free), True, key=lambda n: not fits((n + 1) * size))

    def is_like(self, decoder: Decoder | None, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether they would be made so today."""
        blocks = self.cache.blocks
        return (self.decoder, blocks.dtype, blocks.device) == (decoder, dtype, device)

    def admit(
        self, prompts: Sequence[NDArray[np.int64]], namespaces: Sequence[bytes] = ()
    ) -> tuple[Handles, NDArray[np.int64]]:
        """Start sequences.

        Args:
            prompts: Token ids, at least one each.
            namespaces: One for each; only sequences of the same one share blocks.

        Returns:
            Handles, and how many tokens of each prompt are cached; the others have to be advanced.

        Raises:
            NoRoomError: If the prompts do not fit the cache now.
        """
        names = list(namespaces) or [b""] * len(prompts)
        if self._alone is not None:
            names = [name + next(self._alone).to_bytes(8, "little") for name in names]
        admitted = self.kv.admit(prompts, namespaces=names)
        if len(admitted.handles) < len(prompts):
            self.kv.free(admitted.handles)
            raise NoRoomError(
                f"{len(prompts)} prompts do not fit the {self.num_spare} cache blocks that are free"
            )
        self._copy(admitted.copies)
        return admitted.handles, admitted.num_cached

    def preempt(self, handles: Handles) -> None:
        """Give the blocks of sequences back, but keep their tokens; the blocks stay while there is room."""
        self.kv.preempt(handles)

    def resume(self, handles: Handles) -> NDArray[np.int64]:
        """Let preempted sequences go on.

        Returns:
            How many tokens of each are cached; the others have to be advanced again.

        Raises:
            NoRoomError: If they do not fit the cache now.
        """
        resumed = self.kv.resume(handles)
        if len(resumed.handles) < len(handles):
            self.kv.preempt(resumed.handles)
            raise NoRoomError(
                f"{len(handles)} sequences do not fit the {self.num_spare} cache blocks that are free"
            )
        self._copy(resumed.copies)
        return resumed.num_cached

    def advance(
        self,
        handles: Handles,
        counts: NDArray[np.int64],
        ids: NDArray[np.int64],
        *,
        new_ids: NDArray[np.int64] | None = None,
        wanted: NDArray[np.int64] | None = None,
        embeds: Tensor | None = None,
    ) -> Tensor:
        """Compute the next tokens of sequences.

        Args:
            handles: (n,) the sequences.
            counts: (n,) how many tokens of each.
            ids: (T,) these tokens, one sequence after the other: what is left of a prompt, then new ones.
            new_ids: Those of them that are beyond the prompts; none when None.
            wanted: Places in `ids` whose logits are returned; the last of each sequence when None.
            embeds: (T, width), what is read instead of `ids`.

        Returns:
            (wanted, V) float32 logits.

        Raises:
            ValueError: If there are too few blocks.
        """
        starts = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        slots, lengths = self._step(handles, counts, int(starts[-1]), new_ids)
        wanted = starts[1:] - 1 if wanted is None else wanted
        tables = self._tables[: len(handles)]
        if self.decoder is not None:
            logits = self.decoder(
                ids if embeds is None else None,
                cache=self.cache,
                tables=tables,
                lengths=lengths,
                starts=starts,
                wanted=wanted,
                inputs_embeds=None if embeds is None else embeds.numpy(),
            )
            return torch.from_numpy(logits)
        return self._forward(ids, starts, tables, lengths, slots, wanted, embeds)

    def write(self, handle: int, values: Tensor) -> None:
        """Give the next tokens of a prompt keys and values, instead of computing them.

        Args:
            handle: The sequence.
            values: (depth, 2, tokens, Hkv, D).
        """
        count = np.array([values.shape[2]])
        slots, _ = self._step(np.array([handle]), count, int(count[0]), None)
        places = torch.from_numpy(slots.astype(np.int64)).to(self.cache.blocks.device)
        self.cache.write(places, values)

    def fork(self, handle: int, n: int) -> Handles:
        """Start `n` sequences with the tokens of another one, whose blocks they share."""
        return self.kv.fork(handle, n)

    def rollback(self, handles: Handles, counts: NDArray[np.int64]) -> None:
        """Take the last tokens of sequences back."""
        self.kv.rollback(handles, counts)

    def free(self, handles: Handles, *, are_sound: bool = True) -> None:
        """End sequences. What they computed stays for others until its room is needed, if it is sound."""
        self.kv.free(handles, commit=are_sound)

    def scrub(self) -> None:
        """Forget all prefixes, and what is not finite."""
        self.forget()
        self.cache.scrub()

    def forget(self) -> None:
        """Forget all prefixes: the weights have changed."""
        self._epoch += 1
        self.kv.reset(self._epoch)

    def _step(
        self, handles: Handles, counts: NDArray[np.int64], total: int, new_ids: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if len(handles) > len(self._tables):
            self._tables = np.zeros((2 * len(handles), self._tables.shape[1]), np.int32)
        slots, lengths = np.empty(total, np.int32), np.empty(len(handles), np.int32)
        tokens = np.zeros(0, np.int64) if new_ids is None else new_ids
        self._copy(self.kv.step(handles, counts, tokens, self._tables, slots, lengths))
        return slots, lengths.astype(np.int64)

    def _copy(self, copies: NDArray[np.int32]) -> None:
        if len(copies):
            pairs = torch.from_numpy(copies[:, 1:3].astype(np.int64)).to(self.cache.blocks.device)
            self.cache.copy_blocks(pairs[:, 0], pairs[:, 1])

    @torch.inference_mode()
    def _forward(
        self,
        ids: NDArray[np.int64],
        starts: NDArray[np.int64],
        tables: NDArray[np.int32],
        lengths: NDArray[np.int64],
        slots: NDArray[np.int32],
        wanted: NDArray[np.int64],
        embeds: Tensor | None,
    ) -> Tensor:
        """The same by torch, on any device."""
        device, window = self.model.device, self.model.config.window
        counts = np.diff(starts)
        positions = np.arange(starts[-1]) - np.repeat(starts[1:] - lengths, counts)
        used = -(-int(lengths.max()) // self.block_size)
        places, kept_tables, kept_lengths, bounds, order, at, read = upload(
            [slots.astype(np.int64), tables[:, :used], lengths, starts, wanted, positions, ids], device
        )
        if (counts == lengths).all():
            # Nothing is in the cache yet.
            spec = AttentionSpec.packed(bounds, bounds=starts, window=window, slots=places)
        else:
            spec = AttentionSpec.paged(
                kept_tables,
                kept_lengths,
                places,
                host_lengths=lengths,
                starts=starts,
                block_size=self.block_size,
                window=window,
            )
        hidden = self.model(
            None if embeds is not None else read,
            positions=at,
            attention=spec,
            cache=self.cache,
            inputs_embeds=None if embeds is None else embeds.to(device),
        )
        return self.model.logits(hidden[order]).float()
