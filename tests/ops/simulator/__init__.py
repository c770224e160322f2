"""CUDA kernels on the CPU: the sources of `cuda/`, compiled by g++ and run thread by thread.

`simulate` is all that a test needs. What a run checks and what it leaves out is said in `cuda/README.md`.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from simulator.build import FOLDER, CompileError, library, line_of
from tempa.ops import nvrtc
from tempa.ops.signature import NUMBERS, POINTER, TENSOR_MAP, signatures
from tempa.ops.tensor_map import TensorMap

__all__ = [
    "FOLDER",
    "TIMINGS",
    "Argument",
    "CompileError",
    "SimulationError",
    "TensorMap",
    "Timing",
    "simulate",
]

TIMINGS = ("early", "late", "mixed")
# Processor time after which a kernel is taken to be in an endless loop.
LIMIT_S = 120
REPORT_BYTES = 8192
# Kinds of arguments, as in launch.cpp.
VALUE, BUFFER, MAP = range(3)
# What is passed for what is not declared as a number.
ACCEPTED = {POINTER: Tensor | None, TENSOR_MAP: TensorMap}
# NaN in all floating types, as in memory.hpp, and what it is as integers.
POISON = 0xFF
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Timing = Literal["early", "late", "mixed"]


class SimulationError(Exception):
    """What a kernel did wrong: says in which block and thread, and where in the source if that is known."""


Argument = Tensor | TensorMap | int | float | None


class _BoxMap(ctypes.Structure):
    """The same in hopper.hpp."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_uint),
        ("element_bytes", ctypes.c_uint),
        ("swizzle_bytes", ctypes.c_uint),
        ("sizes", ctypes.c_uint * 4),
        ("box", ctypes.c_uint * 4),
        ("strides", ctypes.c_uint64 * 4),
    )

    @classmethod
    def of(cls, described: TensorMap) -> _BoxMap:
        return cls(
            rank=len(described.box),
            element_bytes=described.tensor.element_size(),
            swizzle_bytes=described.swizzle_bytes,
            sizes=described.sizes,
            box=described.sides,
            strides=described.stride_bytes,
        )


class _Launch(ctypes.Structure):
    """The same in schedule.hpp."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("timing", ctypes.c_int),
        ("seed", ctypes.c_uint64),
    )


class _Argument(ctypes.Structure):
    """The same in launch.cpp."""

    _fields_ = (
        ("bytes", ctypes.c_void_p),
        ("num_bytes", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
        ("map", ctypes.POINTER(_BoxMap)),
    )


def simulate(
    source: str | Path,
    entry: str,
    *arguments: Argument,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    shared_bytes: int = 0,
    defines: Mapping[str, str | int] | None = None,
    seed: int = 0,
    timing: Timing = "mixed",
) -> None:
    """Run a kernel on CPU tensors, as `nvrtc.launch` would on a GPU, and raise what it does wrong.

    The kernel works on copies between forbidden pages; what it changed is then copied back. The first run of
    a source with these macros compiles it, in about a second; the result is kept in pytest's cache.

    Args:
        source: File name in `cuda/`, or the path of a kernel elsewhere.
        entry: Name of the `extern "C" __global__` function.
        arguments: CPU tensors of any dtype and layout, None for a missing one, and numbers. The address of a
            copy has the same remainder by 16 as the tensor's. Gaps of a tensor that is not contiguous read as
            NaN and must not be written. Two arguments share memory only if they are the same tensor. A
            `TensorMap` stands for its tensor.
        grid: Blocks: x, or (x, y), or (x, y, z).
        block: Threads of a block, in the same way.
        shared_bytes: Dynamic shared memory of a block.
        defines: Macros the source is compiled with.
        seed: Order of threads and blocks, and of what `timing` leaves to chance.
        timing: When asynchronous work is done: "early" as it is issued, "late" only when somebody waits for
            it, or "mixed", by chance one or the other, which finds missing waits as well as buffers that are
            filled too soon.

    Raises:
        SimulationError: If the kernel reads or writes outside its memory, misaligned or past an array, waits
            for ever, or breaks a rule of an instruction.
        CompileError: If g++ rejects the source.

    >>> x = torch.arange(64.0)
    >>> simulate(FOLDER / "kernels" / "scale.cu", "scale", x, 2.0, grid=2, block=32)
    >>> x[-1]
    tensor(126.)
    """
    path = nvrtc.SOURCES / source
    kernels = library(path, tuple(sorted((defines or {}).items())))
    launch = _Launch(_three(grid), _three(block), shared_bytes, TIMINGS.index(timing), seed)
    kinds = signatures(path.read_text()).get(entry)
    if kinds is None:
        raise SimulationError(f"{path.name}: {entry}: the source has no entry point of this name")
    if len(kinds) != len(arguments):
        raise SimulationError(f"{entry}: the kernel takes {len(kinds)} arguments, but {len(arguments)} came")
    buffers: dict[object, _Buffer] = {}
    values, alive = [], []
    for i, (argument, kind) in enumerate(zip(arguments, kinds, strict=True)):
        if not isinstance(argument, ACCEPTED.get(kind, int | float)):
            raise SimulationError(f"{entry}: argument {i} is declared {kind}, got {argument}")
        if isinstance(argument, Tensor | TensorMap):
            tensor = argument if isinstance(argument, Tensor) else argument.tensor
            buffer = _Buffer(tensor)
            buffer = buffers.setdefault(buffer.key, buffer)
            value = _Argument(buffer.bytes.data_ptr(), buffer.num_bytes, BUFFER, tensor.data_ptr() % 16)
            if isinstance(argument, TensorMap):
                value.kind, value.map = MAP, ctypes.pointer(_BoxMap.of(argument))
        else:
            try:
                number = struct.pack(NUMBERS.get(kind, "P"), argument or 0)
            except (struct.error, OverflowError) as error:
                raise SimulationError(
                    f"{entry}: argument {i} is declared {kind}, got {argument}: {error}"
                ) from error
            held = ctypes.create_string_buffer(number, len(number))
            value = _Argument(ctypes.addressof(held), len(number), VALUE)
            alive.append(held)
        values.append(value)
    report = ctypes.create_string_buffer(REPORT_BYTES)
    instruction = kernels.simulate(
        entry.encode(),
        ctypes.byref(launch),
        (_Argument * len(values))(*values),
        ctypes.c_size_t(len(values)),
        ctypes.c_int(LIMIT_S),
        report,
        ctypes.c_size_t(REPORT_BYTES),
    )
    if report.value:
        where = line_of(kernels, instruction) if instruction else ""
        raise SimulationError(f"{path.name}: {entry}: {report.value.decode()}{where and f' at {where}'}")
    for buffer in buffers.values():
        buffer.write_back()


class _Buffer:
    """The bytes from a tensor's first element to its last; what is between elements is NaN."""

    def __init__(self, tensor: Tensor) -> None:
        if tensor.device.type != "cpu":
            raise ValueError(f"simulate takes CPU tensors, got one on {tensor.device}")
        self.tensor = tensor.detach()
        self.key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        extent = sum((n - 1) * stride for n, stride in steps) + 1 if tensor.numel() else 0
        self.num_bytes = extent * tensor.element_size()
        self.bytes = torch.full((self.num_bytes,), POISON, dtype=torch.uint8)
        self.elements = self.bytes.view(tensor.dtype).as_strided(tensor.shape, tensor.stride())
        self.elements.copy_(self.tensor)

    def write_back(self) -> None:
        """Copy the elements to the tensor; there must be nothing new between them."""
        self.tensor.copy_(self.elements)
        self.elements.view(BITS[self.tensor.element_size()]).fill_(-1)
        if (self.bytes != POISON).any():
            shape = tuple(self.tensor.shape)
            raise SimulationError(
                f"something was written between the elements of the tensor of shape {shape}"
            )


def _three(size: int | Sequence[int]) -> ctypes.Array[ctypes.c_uint]:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    return (ctypes.c_uint * 3)(*sizes, *(1,) * (3 - len(sizes)))
