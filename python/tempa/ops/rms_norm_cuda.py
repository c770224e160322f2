"""`tempa::rms_norm`, the torch operator behind `ops.rms_norm` on CUDA; kernels in `cuda/rms_norm.cu`.

Registered for CUDA, CPU, fake tensors and autograd, so `torch.compile`, meta tensors and `opcheck` work. The
CPU implementation is there to check the operator; `ops.rms_norm` has a shorter way on CPU.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tempa.ops import nvrtc
from tempa.ops.cuda_tensors import ELEMENTS, check, is_aligned, pack_size
from tempa.ops.norms import rms_norm_gradients

SOURCE = "rms_norm.cu"

# More packs than this do not fit the registers of a thread.
MAX_PACKS = 16
# Blocks of this many threads fill a multiprocessor evenly.
BLOCK_THREADS = 256
MAX_THREADS = 1024


@dataclass(frozen=True)
class Shape:
    """How the threads of a block share rows; the names are the macros of `rms_norm.cu` in lower case."""

    vector: int
    threads: int
    packs: int
    rows: int

    @classmethod
    def of(cls, width: int, dtype: torch.dtype, *, aligned: bool = True) -> Shape:
        """The shape for rows of `width` elements.

        Up to a warp, one pack a thread and several rows a block; then four packs a thread, which keeps
        enough loads in flight; then more warps.

        Raises:
            ValueError: If the row does not fit the registers of one block.
        """
        vector = pack_size(width, dtype, aligned=aligned)
        num_packs = -(-width // vector)
        if num_packs <= 128:
            threads = min(_power_of_two(num_packs), 32)
        else:
            threads = min(_power_of_two(-(-num_packs // 4)), MAX_THREADS)
        packs = -(-num_packs // threads)
        if packs > MAX_PACKS:
            raise ValueError(
                f"rms_norm on CUDA: rows of {width} elements exceed {MAX_PACKS * threads * vector}"
            )
        return cls(vector, threads, packs, BLOCK_THREADS // threads if threads <= 32 else 1)

    def defines(self, dtype: torch.dtype, *, weighted: bool) -> dict[str, str | int]:
        """The macros that `rms_norm.cu` is compiled with."""
        shape = {name.upper(): value for name, value in asdict(self).items()}
        return {"ELEMENT": ELEMENTS[dtype], "WEIGHTED": int(weighted), **shape}


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (number - 1).bit_length()


def forward_into(y: Tensor, x: Tensor, weight: Tensor | None, eps: float) -> None:
    """Write RMSNorm of the rows of x (..., D) to y.

    Raises:
        ValueError: If a tensor is not contiguous, or differs from x in device or dtype.
    """
    num_rows, shape = _rows(x, weight, y)
    if num_rows:
        blocks = -(-num_rows // shape.rows)
        _launch("rms_norm_forward", shape, x, weight, blocks, (y, x, weight), num_rows, eps)


def backward_into(
    dx: Tensor, dweight: Tensor | None, dy: Tensor, x: Tensor, weight: Tensor | None, eps: float
) -> None:
    """Write the gradient of x to dx and, for a weight, the sums over rows of each block to dweight.

    Args:
        dx: (..., D) like x.
        dweight: (blocks, D) float32 for any number of blocks, such as `num_blocks(x)`; None without a weight.
        dy: (..., D) gradient of the result.
        x: (..., D), as in the forward call.
        weight: (D,) or None, as in the forward call.
        eps: As in the forward call.

    Raises:
        ValueError: If a tensor is not contiguous, or differs from x in device or dtype.
    """
    num_rows, shape = _rows(x, weight, dx, dy)
    if num_rows:
        blocks = num_blocks(x) if dweight is None else len(dweight)
        _launch("rms_norm_backward", shape, x, weight, blocks, (dx, dweight, dy, x, weight), num_rows, eps)


def num_blocks(x: Tensor) -> int:
    """Blocks of the backward kernel: enough to fill the device, not more than there are rows."""
    num_rows, shape = _rows(x, None)
    resident = torch.cuda.get_device_properties(x.device).multi_processor_count
    per_processor = max(1, MAX_THREADS // (shape.threads * shape.rows))
    return min(-(-num_rows // shape.rows), resident * per_processor)


def _rows(x: Tensor, weight: Tensor | None, *others: Tensor) -> tuple[int, Shape]:
    check("rms_norm", x, weight, *others)
    width = x.shape[-1]
    shape = _shape(width, x.dtype, is_aligned(x, weight, *others))
    return x.numel() // width if width else 0, shape


@functools.cache
def _shape(width: int, dtype: torch.dtype, aligned: bool) -> Shape:
    return Shape.of(max(width, 1), dtype, aligned=aligned)


def _launch(
    entry: str,
    shape: Shape,
    x: Tensor,
    weight: Tensor | None,
    blocks: int,
    tensors: tuple[Tensor | None, ...],
    num_rows: int,
    eps: float,
) -> None:
    nvrtc.launch(
        _kernel(entry, shape, x.dtype, weight is not None, x.device),
        *tensors,
        ctypes.c_longlong(num_rows),
        ctypes.c_int(x.shape[-1]),
        ctypes.c_float(eps),
        grid=blocks,
        block=(shape.threads, shape.rows),
        device=x.device,
    )


@functools.cache
def _kernel(entry: str, shape: Shape, dtype: torch.dtype, weighted: bool, device: torch.device) -> int:
    return nvrtc.load(SOURCE, entry, device, shape.defines(dtype, weighted=weighted))


def _forward_cuda(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    forward_into(y, x, None if weight is None else weight.contiguous(), eps)
    return y


def _backward_cuda(dy: Tensor, x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    dx = torch.empty_like(x)
    if weight is None:
        backward_into(dx, None, dy.contiguous(), x, None, eps)
        return dx, x.new_empty(0)
    sums = x.new_empty(num_blocks(x), x.shape[-1], dtype=torch.float32)
    backward_into(dx, sums, dy.contiguous(), x, weight.contiguous(), eps)
    return dx, sums.sum(0).to(weight.dtype)


def _forward_cpu(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, eps).contiguous()


def _backward_cpu(dy: Tensor, x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    dx, dweight = rms_norm_gradients(dy, x, weight, eps)
    return dx.contiguous(), x.new_empty(0) if dweight is None else dweight


def _forward_fake(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    del weight, eps
    return x.new_empty(x.shape)


def _backward_fake(dy: Tensor, x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    del dy, eps
    return x.new_empty(x.shape), x.new_empty(0) if weight is None else weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, float], output: Tensor) -> None:
    del output
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None]:
    x, weight = ctx.saved_tensors
    dx, dweight = torch.ops.tempa.rms_norm_backward(dy, x, weight, ctx.eps)
    return dx, None if weight is None else dweight, None


_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("rms_norm(Tensor x, Tensor? weight, float eps) -> Tensor")
_library.define("rms_norm_backward(Tensor dy, Tensor x, Tensor? weight, float eps) -> (Tensor, Tensor)")
_library.impl("rms_norm", _forward_cuda, "CUDA")
_library.impl("rms_norm", _forward_cpu, "CPU")
_library.impl("rms_norm_backward", _backward_cuda, "CUDA")
_library.impl("rms_norm_backward", _backward_cpu, "CPU")
torch.library.register_fake("tempa::rms_norm", _forward_fake, lib=_library)
torch.library.register_fake("tempa::rms_norm_backward", _backward_fake, lib=_library)
torch.library.register_autograd("tempa::rms_norm", _gradients, setup_context=_setup_context, lib=_library)
