"""`tempa::activation`, the operator behind `swiglu`, `geglu` and `relu2` on CUDA; kernels in `cuda/glu.cu`.

Registered for CUDA, CPU, fake tensors and autograd. Only the input is kept: the backward computes the
activation again.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tempa.ops import nvrtc
from tempa.ops.cuda_tensors import ELEMENTS, check, is_aligned, pack_size

SOURCE = "glu.cu"
FUNCTIONS = ("silu", "gelu", "relu2")

THREADS = 256
# Two or three loads a pack: with two packs a thread keeps enough of them in flight.
PACKS = 2
# The kernels count packs in 32 bits, and a grid may end half a block later.
MAX_PACKS = 1 << 31


def defines(dtype: torch.dtype, vector: int, function: str, *, gated: bool) -> dict[str, str | int]:
    """The macros that `glu.cu` is compiled with."""
    shape = {"VECTOR": vector, "THREADS": THREADS, "PACKS": PACKS}
    return {"ELEMENT": ELEMENTS[dtype], "ACTIVATION": function, "GATED": int(gated), **shape}


def forward_into(y: Tensor, x: Tensor, function: str, *, gated: bool) -> None:
    """Write `f(gate) * up`, or f(x), to y.

    Args:
        y: (..., D).
        x: (..., 2 D) if gated, else (..., D).
        function: One of `FUNCTIONS`.
        gated: Whether rows of x are a gate, then what it multiplies.

    Raises:
        ValueError: If a shape, dtype, layout or device does not fit, or the function is unknown.
    """
    _launch("activation_forward", y, (y, x), function, gated)


def backward_into(dx: Tensor, dy: Tensor, x: Tensor, function: str, *, gated: bool) -> None:
    """Write the gradient of x to dx, of the same shape; the rest is as in `forward_into`.

    Raises:
        ValueError: As `forward_into`.
    """
    if dx.shape != x.shape:
        raise ValueError(f"activation on CUDA: dx has shape {tuple(dx.shape)}, but x has {tuple(x.shape)}")
    _launch("activation_backward", dy, (dx, dy, x), function, gated)


def _launch(entry: str, y: Tensor, tensors: tuple[Tensor, ...], function: str, gated: bool) -> None:
    x = tensors[-1]
    _check_function(function)
    check("activation", x, *tensors[:-1])
    if y.shape != _output_shape(x, gated):
        raise ValueError(
            f"activation on CUDA: expected a result of shape {_output_shape(x, gated)}, got {tuple(y.shape)}"
        )
    width = y.shape[-1] if gated else y.numel()
    vector = pack_size(width, x.dtype, aligned=is_aligned(*tensors))
    num_packs = y.numel() // vector
    if num_packs > MAX_PACKS:
        raise ValueError(f"activation on CUDA: {num_packs} packs of {vector} elements exceed {MAX_PACKS}")
    if not num_packs:
        return
    nvrtc.launch(
        _kernel(entry, x.dtype, vector, function, gated, x.device),
        *tensors,
        num_packs,
        # Ungated, all of it is one row, which is never asked for.
        width // vector if gated else 1,
        grid=-(-num_packs // (THREADS * PACKS)),
        block=THREADS,
    )


@functools.cache
def _kernel(
    entry: str, dtype: torch.dtype, vector: int, function: str, gated: bool, device: torch.device
) -> nvrtc.Kernel:
    return nvrtc.load(SOURCE, entry, device, defines(dtype, vector, function, gated=gated))


def _check_function(function: str) -> None:
    if function not in FUNCTIONS:
        raise ValueError(f"unknown activation {function!r}; choose from {', '.join(FUNCTIONS)}")


def _output_shape(x: Tensor, gated: bool) -> tuple[int, ...]:
    if gated and x.shape[-1] % 2:
        raise ValueError(f"a gated activation needs rows of even width, got {x.shape[-1]}")
    return (*x.shape[:-1], x.shape[-1] // 2) if gated else tuple(x.shape)


def _forward_cuda(x: Tensor, function: str, gated: bool) -> Tensor:
    x = x.contiguous()
    y = x.new_empty(_output_shape(x, gated))
    forward_into(y, x, function, gated=gated)
    return y


def _backward_cuda(dy: Tensor, x: Tensor, function: str, gated: bool) -> Tensor:
    x = x.contiguous()
    dx = torch.empty_like(x)
    backward_into(dx, dy.contiguous(), x, function, gated=gated)
    return dx


def _forward_cpu(x: Tensor, function: str, gated: bool) -> Tensor:
    gate, up = x.chunk(2, dim=-1) if gated else (x, None)
    value = _value(gate, function)
    return value.contiguous() if up is None else value * up


def _backward_cpu(dy: Tensor, x: Tensor, function: str, gated: bool) -> Tensor:
    gate, up = x.chunk(2, dim=-1) if gated else (x, None)
    upstream = dy if up is None else dy * up
    if function == "silu":
        slope = torch.ops.aten.silu_backward(upstream, gate)
    elif function == "gelu":
        slope = torch.ops.aten.gelu_backward(upstream, gate)
    else:
        slope = 2 * upstream * F.relu(gate)
    dx: Tensor = slope if up is None else torch.cat([slope, dy * _value(gate, function)], dim=-1)
    return dx.contiguous()


def _value(x: Tensor, function: str) -> Tensor:
    if function == "relu2":
        return F.relu(x).square()
    return F.silu(x) if function == "silu" else F.gelu(x)


def _forward_fake(x: Tensor, function: str, gated: bool) -> Tensor:
    _check_function(function)
    return x.new_empty(_output_shape(x, gated))


def _backward_fake(dy: Tensor, x: Tensor, function: str, gated: bool) -> Tensor:
    del dy, function, gated
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, str, bool], output: Tensor) -> None:
    del output
    x, ctx.function, ctx.gated = inputs
    ctx.save_for_backward(x)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
    (x,) = ctx.saved_tensors
    return torch.ops.tempa.activation_backward(dy, x, ctx.function, ctx.gated), None, None


_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("activation(Tensor x, str function, bool gated) -> Tensor")
_library.define("activation_backward(Tensor dy, Tensor x, str function, bool gated) -> Tensor")
_library.impl("activation", _forward_cuda, "CUDA")
_library.impl("activation", _forward_cpu, "CPU")
_library.impl("activation_backward", _backward_cuda, "CUDA")
_library.impl("activation_backward", _backward_cpu, "CPU")
torch.library.register_fake("tempa::activation", _forward_fake, lib=_library)
torch.library.register_fake("tempa::activation_backward", _backward_fake, lib=_library)
torch.library.register_autograd("tempa::activation", _gradients, setup_context=_setup_context, lib=_library)
