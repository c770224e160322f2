"""A Transformer's forward on the CPU without torch: packed weights, one call for all layers.

A token's logits depend on its sequence only: not on the batch, the number of threads, or how the sequence was
cut into calls. With float32 weights they are those of the model within rounding.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tempa import _core
from tempa.model.cache import KvCache
from tempa.model.transformer import Transformer
from tempa.ops import rotations

Weights = Literal["float32", "bfloat16", "int8"]


class Decoder:
    """Runs a model over new tokens of sequences whose earlier ones are in a cache.

    Args:
        model: Its weights are copied by `refresh`; the embedding is read where it is.
        weights: How matrices are kept. "float32" is exact; "bfloat16" rounds them and what they multiply;
            "int8" does so with a scale for each 64 columns of a row. Norms and embedding stay as they are.
        num_threads: All processors when None.

    >>> from tempa.model import ModelConfig
    >>> model = Transformer(ModelConfig(vocab_size=10, depth=1, width=8, num_heads=2))
    >>> cache = KvCache(model.config, num_blocks=2, block_size=4)
    >>> table = np.array([[1]], np.int32)
    >>> Decoder(model)(np.array([3, 4]), cache=cache, tables=table, lengths=np.array([2])).shape
    (1, 10)
    """

    def __init__(
        self, model: Transformer, *, weights: Weights = "float32", num_threads: int | None = None
    ) -> None:
        if not self.supports(model):
            raise ValueError("the decoder needs a model in float32 on the CPU; elsewhere use the model")
        config = model.config
        turns = np.zeros((0, config.head_dim), np.float32)
        if config.positions == "rope":
            places = torch.arange(config.max_positions)
            table = rotations(
                places, config.head_dim, max_positions=config.max_positions, theta=config.rope_theta
            )
            turns = torch.view_as_real(table).reshape(config.max_positions, -1).numpy()
        self.model, self.weights = model, weights
        self._core = _core.Decoder(config, turns, weights, num_threads or _core.num_processors())
        self.refresh()

    @staticmethod
    def supports(model: Transformer) -> bool:
        """Whether a model is on the CPU in float32."""
        return all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())

    @property
    def num_bytes(self) -> int:
        """Bytes of weights that a call reads, whatever the batch."""
        return self._core.num_bytes

    def refresh(self) -> None:
        """Copy the weights that have changed.

        All are hashed, which takes as long as reading them. torch counts changes for nothing, but its
        fused optimizers do not count theirs.
        """
        named = self.model.named_parameters()
        self._core.pack({name: p.detach().contiguous().numpy() for name, p in named})

    def __call__(
        self,
        ids: NDArray[np.int64] | None,
        *,
        cache: KvCache,
        tables: NDArray[np.int32],
        lengths: NDArray[np.int64],
        starts: NDArray[np.int64] | None = None,
        wanted: NDArray[np.int64] | None = None,
        inputs_embeds: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Logits of new tokens, whose keys and values go to the cache.

        Args:
            ids: (T,) the new tokens of all sequences, one sequence after the other; or give `inputs_embeds`.
            cache: Of the model, on the CPU; float32, bfloat16 or int8.
            tables: (n, blocks) row i lists the blocks of sequence i, also those that the new tokens go to.
            lengths: (n,) tokens of each sequence, the new ones included.
            starts: (n + 1,) where the new tokens of each sequence start; equally many of each when None.
            wanted: The tokens whose logits are returned; the last of each sequence when None.
            inputs_embeds: (T, width), instead of `ids`.

        Returns:
            (wanted, V)

        Raises:
            ValueError: If shapes disagree, an id or a block does not exist, a sequence is longer than the
                model takes, or two sequences write to one block.
        """
        if ids is not None and inputs_embeds is None:
            num_tokens, embedding = len(ids), self.model.embedding.weight.detach().numpy()
        elif ids is None and inputs_embeds is not None:
            num_tokens, embedding = len(inputs_embeds), inputs_embeds
        else:
            raise ValueError("give either ids or inputs_embeds")
        if starts is None:
            starts = np.linspace(0, num_tokens, len(lengths) + 1).astype(np.int64)
        if wanted is None:
            wanted = starts[1:] - 1
        places = self.model.position_embedding
        blocks = cache.blocks.view(torch.uint16) if cache.blocks.dtype == torch.bfloat16 else cache.blocks
        return self._core.forward(
            ids,
            embedding,
            None if places is None else places.weight.detach().numpy(),
            blocks.numpy(),
            tables,
            lengths,
            starts,
            wanted,
            cache.block_size,
        )
