"""What the CUDA backends ask of their tensors before a launch."""

from __future__ import annotations

import torch
from torch import Tensor

# The element types of `cuda/ptx.cuh`.
ELEMENTS = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "fp16"}

# One thread moves at most this much at a time, and only from addresses that are a multiple of it.
PACK_BYTES = 16


def has_kernels(x: Tensor) -> bool:
    """Whether operations on x are kernels of CUDA. Tests say so for tensors on the CPU, too."""
    return x.device.type == "cuda"


def check(op: str, x: Tensor, *others: Tensor | None) -> None:
    """Refuse what the kernels of an operation cannot read.

    Args:
        op: Its name, for the message.
        x: Decides dtype and device.
        others: Contiguous like x, with its dtype, on its device; None for a missing one.

    Raises:
        ValueError: If the dtype has no kernel, or a tensor is not contiguous or differs from x.
    """
    if x.dtype not in ELEMENTS:
        raise ValueError(f"{op} on CUDA: float32, bfloat16 or float16 is needed, got {x.dtype}")
    for tensor in (x, *others):
        if tensor is None:
            continue
        if not tensor.is_contiguous():
            raise ValueError(f"{op} on CUDA: a tensor of shape {tuple(tensor.shape)} is not contiguous")
        check_same(op, x, tensor, x.dtype)


def check_same(op: str, x: Tensor, tensor: Tensor, dtype: torch.dtype) -> None:
    """Refuse a tensor of another dtype than this, or on another device than x.

    Raises:
        ValueError: With both dtypes and devices.
    """
    if tensor.dtype != dtype or tensor.device != x.device:
        raise ValueError(
            f"{op} on CUDA: expected {dtype} on {x.device}, but got {tensor.dtype} on {tensor.device}"
        )


def is_aligned(*tensors: Tensor | None) -> bool:
    """Whether every tensor starts at a multiple of `PACK_BYTES`."""
    return all(tensor is None or tensor.data_ptr() % PACK_BYTES == 0 for tensor in tensors)


def pack_size(width: int, dtype: torch.dtype, *, aligned: bool = True) -> int:
    """Elements that one instruction moves: a full pack if rows of `width` consist of them, else one."""
    vector = PACK_BYTES // dtype.itemsize
    return 1 if not aligned or width % vector else vector
