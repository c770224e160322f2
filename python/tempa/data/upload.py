"""Arrays from the host to a device in one copy, which nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Where each array begins: what the widest load of a kernel asks for.
ALIGNMENT = 16


def upload(arrays: Sequence[NDArray[Any]], device: torch.device | str) -> list[Tensor]:
    """Copy arrays to a device.

    `tensor.to(device)` of memory that may be paged out waits until the device has done all earlier work. Here
    all arrays go through one piece of memory that may not, and the device copies it in its turn.

    Args:
        arrays: Of any shapes and dtypes. On the CPU tensors may share their memory; for other devices it may
            change as soon as this returns.
        device: Where to.

    Returns:
        Contiguous tensors with the same values; on another device than the CPU they share one allocation.

    >>> [tensor.tolist() for tensor in upload([np.arange(3), np.array([0.5])], "cpu")]
    [[0, 1, 2], [0.5]]
    """
    device = torch.device(device)
    if device.type == "cpu":
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    return _in_one_piece(arrays, device)


def _in_one_piece(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    starts = np.cumsum([0, *(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays)]).tolist()
    staging = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    spans = [slice(start, start + array.nbytes) for start, array in zip(starts, arrays, strict=False)]
    for span, array in zip(spans, arrays, strict=True):
        staging.numpy()[span] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = staging.to(device, non_blocking=True)
    return [
        there[span].view(torch.from_numpy(array.ravel()[:0]).dtype).view(array.shape)
        for span, array in zip(spans, arrays, strict=True)
    ]
