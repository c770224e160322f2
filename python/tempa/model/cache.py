"""The tensors of a paged key-value cache; which block belongs to whom is decided elsewhere."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tempa.model.config import ModelConfig
from tempa.ops import LayerCache, scaled


class KvCache:
    """Keys and values of every layer in blocks of tokens.

    Args:
        config: Shape of the model.
        num_blocks: Blocks per layer.
        block_size: Tokens per block.
        dtype: Of the stored values. torch.int8 and torch.float8_e4m3fn have a scale for each token and head,
            which stands in the block, behind its values (`tempa.ops.scaled`).
        device: Where they are.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        block_shape = (config.num_kv_heads, block_size, config.head_dim)
        has_scales = scaled.is_scaled(dtype)
        one = (scaled.block_bytes(*block_shape),) if has_scales else block_shape
        shape = (config.depth, 2, num_blocks, *one)
        # Zeros, not empty: a masked place is multiplied by 0, and 0 times a stray NaN is NaN.
        self.blocks = _zeros(shape, dtype, torch.device(device))
        self.block_size = block_size
        self._scaled_shape = block_shape if has_scales else None
        self._layers = [LayerCache(keys, values, self._scaled_shape) for keys, values in self.blocks]

    @staticmethod
    def bytes_per_block(config: ModelConfig, block_size: int, dtype: torch.dtype = torch.float32) -> int:
        """Memory of one block over all layers."""
        row = config.head_dim * dtype.itemsize + (scaled.SCALE_BYTES if scaled.is_scaled(dtype) else 0)
        return 2 * config.depth * block_size * config.num_kv_heads * row

    def layer(self, i: int) -> LayerCache:
        """Keys and values of layer `i`."""
        return self._layers[i]

    def write(self, slots: Tensor, values: Tensor) -> None:
        """Keep keys and values of all layers, (depth, 2, T, Hkv, D), in slots: (T,) int64."""
        values = values.to(self.blocks.device)
        if self._scaled_shape is None:
            values = values.to(self.blocks.dtype)
        for layer, (k, v) in zip(self._layers, values, strict=True):
            layer.write(slots, k, v)

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole blocks of all layers, before their new owners write to them."""
        # Not every device can index e4m3.
        blocks = self.blocks if self._scaled_shape is None else self.blocks.view(torch.int8)
        blocks[:, :, targets] = blocks[:, :, sources]

    def scrub(self) -> None:
        """Make zeros of what is not finite: a masked place is multiplied by 0, which keeps NaN."""
        if self._scaled_shape is None:
            self.blocks.nan_to_num_(0, 0, 0)
        else:
            scaled.scrub(self.blocks, *self._scaled_shape)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take no memory on the CPU until they are written, unlike those of torch."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, np.uint8)).view(dtype).view(shape)
