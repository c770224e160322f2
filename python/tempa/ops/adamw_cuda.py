"""`tempa::adamw_`, one AdamW step of many tensors in one launch on CUDA; kernel in `cuda/adamw.cu`.

The moments are float32 whatever the parameters are, and the update is that of `torch.optim.AdamW`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempa.data.upload import upload
from tempa.ops import nvrtc
from tempa.ops.cuda_tensors import ELEMENTS, check, check_same

SOURCE = "adamw.cu"
THREADS = 256
# Elements of a block: enough to hide its start, few enough that small tensors use the device.
CHUNK = 1 << 14


def defines(dtype: torch.dtype) -> dict[str, str | int]:
    """The macros that `adamw.cu` is compiled with."""
    return {"ELEMENT": ELEMENTS[dtype], "CHUNK": CHUNK, "THREADS": THREADS}


def step_in_place(
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """Update parameters and their moments.

    Args:
        parameters: Of one dtype, on one device, contiguous.
        gradients: Like the parameters.
        means: float32, exponential means of the gradients.
        squares: float32, exponential means of their squares.
        step: Number of this step, from 1.
        lr: Learning rate.
        betas: Decay of the two means.
        eps: Added to the root.
        weight_decay: Decoupled decay, times the rate.

    Raises:
        ValueError: If the lists differ in length, shapes, dtypes or devices, or a tensor is not contiguous.
    """
    _check(parameters, gradients, means, squares, step)
    lists = (parameters, gradients, means, squares)
    sizes = np.array([tensor.numel() for tensor in parameters], np.int64)
    chunks = chunks_of(sizes)
    if not len(chunks):
        return
    first = parameters[0]
    addresses = [[tensor.data_ptr() for tensor in tensors] for tensors in lists]
    table = np.stack([*np.array(addresses, np.int64), sizes], axis=1)
    nvrtc.launch(
        _kernel(first.dtype, first.device),
        *(None, None, None, None, *upload([table, chunks], first.device)),
        *numbers(step, lr, betas, eps, weight_decay),
        grid=len(chunks),
        block=THREADS,
    )


def chunks_of(sizes: NDArray[np.int64]) -> NDArray[np.int32]:
    """(chunks, 2): tensor and number of the chunk in it, for tensors of these sizes."""
    counts = -(-sizes // CHUNK)
    tensor = np.repeat(np.arange(len(sizes)), counts)
    number = np.arange(len(tensor)) - np.repeat(counts.cumsum() - counts, counts)
    return np.stack([tensor, number], axis=1).astype(np.int32)


def numbers(
    step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> tuple[float, ...]:
    """What the kernel multiplies by; differences from 1 are taken in float64."""
    (beta1, beta2), rate = betas, lr / (1 - betas[0] ** step)
    inverse_root = 1 / math.sqrt(1 - beta2**step)
    return rate, 1 - lr * weight_decay, 1 - beta1, beta2, 1 - beta2, inverse_root, eps


def _check(
    parameters: list[Tensor], gradients: list[Tensor], means: list[Tensor], squares: list[Tensor], step: int
) -> None:
    lengths = [len(tensors) for tensors in (parameters, gradients, means, squares)]
    if len(set(lengths)) > 1 or step < 1:
        raise ValueError(
            f"adamw on CUDA: expected lists of one length and a step from 1, got {lengths}, {step}"
        )
    for parameter, *others in zip(parameters, gradients, means, squares, strict=True):
        check("adamw", parameters[0], parameter, others[0])
        for moment in others[1:]:
            check_same("adamw", parameter, moment, torch.float32)
        if any(other.shape != parameter.shape or not other.is_contiguous() for other in others):
            shapes = [tuple(tensor.shape) for tensor in (parameter, *others)]
            raise ValueError(f"adamw on CUDA: a parameter and its gradient and moments do not fit: {shapes}")


@functools.cache
def _kernel(dtype: torch.dtype, device: torch.device) -> nvrtc.Kernel:
    return nvrtc.load(SOURCE, "adamw", device, defines(dtype))


def _step_cuda(
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    step: int,
    lr: float,
    betas: list[float],
    eps: float,
    weight_decay: float,
) -> None:
    beta1, beta2 = betas
    gradients = [gradient.contiguous() for gradient in gradients]
    step_in_place(parameters, gradients, means, squares, step, lr, (beta1, beta2), eps, weight_decay)


def _step_cpu(
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    step: int,
    lr: float,
    betas: list[float],
    eps: float,
    weight_decay: float,
) -> None:
    beta1, beta2 = betas
    for p, g, m, v in zip(parameters, gradients, means, squares, strict=True):
        gradient = g.to(m.dtype)
        m.lerp_(gradient, 1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = v.sqrt().div_(math.sqrt(1 - beta2**step)).add_(eps)
        p.copy_((p.to(m.dtype) * (1 - lr * weight_decay)).addcdiv_(m, root, value=-lr / (1 - beta1**step)))


def _step_fake(*_: object) -> None:
    """Nothing is returned."""


_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "adamw_(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] means, Tensor(c!)[] squares, int step,"
    " float lr, float[] betas, float eps, float weight_decay) -> ()"
)
_library.impl("adamw_", _step_cuda, "CUDA")
_library.impl("adamw_", _step_cpu, "CPU")
torch.library.register_fake("tempa::adamw_", _step_fake, lib=_library)
