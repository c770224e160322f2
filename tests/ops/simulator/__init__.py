"""CUDA kernels on the CPU: the sources of `cuda/`, compiled by g++ and run thread by thread.

`simulate` is all that a test needs. What a run checks and what it leaves out is said in `cuda/README.md`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from tempa.ops import nvrtc

FOLDER = Path(__file__).parent
# Where pytest's own cache lies, so that `pytest --cache-clear` empties it.
CACHE = FOLDER.parents[2] / ".pytest_cache" / "d" / "simulator"
# Lines for reports, and a check of every index and every aligned access. Warnings are NVRTC's business.
FLAGS = ["-std=c++20", "-O2", "-g1", "-gdwarf-4", "-fPIC", "-w", "-fno-strict-aliasing"]
FLAGS += ["-fno-delete-null-pointer-checks", "-fsanitize=bounds,alignment"]
OWN_FLAGS = ["-std=c++20", "-O3", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing"]
WRAPPER = """
#include "ptx.cuh"
{macros}
#include "{source}"
#include "launch.hpp"
const simulator::Kernel simulator::kernels[] = {{{entries}, {{}}}};
"""
ENTRY = re.compile(r"\b__global__ void\s+(?:__launch_bounds__\(.*?\)\s+)?(\w+)\(", re.DOTALL)
TIMINGS = ("early", "late", "mixed")
# Processor time after which a kernel is taken to be in an endless loop.
LIMIT_S = 120
REPORT_BYTES = 8192

Timing = Literal["early", "late", "mixed"]
Argument = Tensor | ctypes._SimpleCData | None


class SimulationError(Exception):
    """What a kernel did wrong: says in which block and thread, and where in the source if that is known."""


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
        ("is_buffer", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
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
        arguments: CPU tensors of any dtype and layout, None for a missing one, and ctypes numbers of the
            declared width. The address of a copy has the same remainder by 16 as the tensor's. Gaps of a
            tensor that is not contiguous read as NaN and must not be written. Two arguments share memory only
            if they are the same tensor.
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
            for ever, or breaks a rule of an instruction; or if it does not compile.

    >>> x = torch.arange(64.0)
    >>> simulate(FOLDER / "kernels" / "scale.cu", "scale", x, ctypes.c_float(2), grid=2, block=32)
    >>> x[-1]
    tensor(126.)
    """
    path = nvrtc.SOURCES / source
    library = _library(path, tuple(sorted((defines or {}).items())))
    launch = _Launch(_three(grid), _three(block), shared_bytes, TIMINGS.index(timing), seed)
    buffers: dict[object, _Buffer] = {}
    values = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            buffer = _Buffer(argument)
            buffer = buffers.setdefault(buffer.key, buffer)
            values.append(_Argument(buffer.start, buffer.num_bytes, True, argument.data_ptr() % 16))
        else:
            value = ctypes.c_void_p() if argument is None else argument
            values.append(_Argument(ctypes.addressof(value), ctypes.sizeof(value), False, 0))
    report = ctypes.create_string_buffer(REPORT_BYTES)
    instruction = library.simulate(
        entry.encode(),
        ctypes.byref(launch),
        (_Argument * len(values))(*values),
        ctypes.c_size_t(len(values)),
        ctypes.c_int(LIMIT_S),
        report,
        ctypes.c_size_t(REPORT_BYTES),
    )
    if report.value:
        where = _line(library._name, instruction) if instruction else ""
        raise SimulationError(f"{path.name}: {entry}: {report.value.decode()}{where}")
    for number, buffer in enumerate(buffers.values()):
        buffer.write_back(number)


class _Buffer:
    """The bytes from a tensor's first element to its last; what is between elements is NaN."""

    def __init__(self, tensor: Tensor) -> None:
        if tensor.device.type != "cpu":
            raise ValueError(f"simulate takes CPU tensors, got one on {tensor.device}")
        self.tensor = tensor.detach()
        size = tensor.element_size()
        extent = (
            sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
            if tensor.numel()
            else 0
        )
        self.num_bytes = extent * size
        self.key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        self.bytes = torch.full((max(self.num_bytes, 1),), 0xFF, dtype=torch.uint8)
        self.start = self.bytes.data_ptr()
        self.elements = torch.as_strided(
            self.bytes[: self.num_bytes].view(tensor.dtype), tensor.shape, tensor.stride()
        )
        self.elements.copy_(self.tensor)

    def write_back(self, number: int) -> None:
        """Copy the elements to the tensor; there must be nothing new between them."""
        elements = self.elements.clone()
        self.elements.view(_BITS[self.tensor.element_size()]).fill_(-1)
        if not bool((self.bytes[: self.num_bytes] == 0xFF).all()):
            raise SimulationError(f"tensor {number}: something was written between its elements")
        self.tensor.copy_(elements)


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _three(size: int | Sequence[int]) -> ctypes.Array[ctypes.c_uint]:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    return (ctypes.c_uint * 3)(*sizes, *(1,) * (3 - len(sizes)))


@functools.cache
def _compiler() -> tuple[str, str]:
    """The C++ compiler and its version."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed, so kernels cannot be run on the CPU")
    return compiler, subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True
    ).stdout


@functools.cache
def _library(path: Path, defines: tuple[tuple[str, str | int], ...]) -> ctypes.CDLL:
    headers = [*sorted(nvrtc.SOURCES.glob("*.cuh")), *sorted(FOLDER.glob("*.hpp"))]
    include = ["-I", str(nvrtc.SOURCES), "-I", str(FOLDER)]
    objects = [
        _built(f"{own.stem}.o", [own, *headers], [*OWN_FLAGS, *include, "-c", str(own)])
        for own in sorted(FOLDER.glob("*.cpp"))
    ]
    # The simulator's headers come before the macros, whose names they need not avoid.
    macros = "\n".join(f"#define {name} {value}" for name, value in defines)
    entries = ", ".join(f"ENTRY_POINT({entry})" for entry in ENTRY.findall(path.read_text()))
    wrapper = WRAPPER.format(source=path, macros=macros, entries=entries)
    flags = [*FLAGS, *include, "-c", "-x", "c++", "-"]
    kernel = _built(f"{path.stem}.o", [path, *headers], flags, wrapper)
    linked = _built(f"{path.stem}.so", [kernel, *objects], ["-shared", *map(str, [kernel, *objects])])
    library = ctypes.CDLL(str(linked))
    library.simulate.restype = ctypes.c_size_t
    return library


def _built(name: str, inputs: Sequence[Path], arguments: Sequence[str], text: str = "") -> Path:
    """What g++ makes of these arguments and, as standard input, the text; from the cache if it is there."""
    compiler, version = _compiler()
    digest = hashlib.sha256(repr((version, arguments, text)).encode())
    for path in inputs:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    target = CACHE / f"{digest.hexdigest()[:32]}-{name}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder) / name
        command = [compiler, *arguments, "-o", str(made)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SimulationError(f"{name} does not compile for the CPU:\n{done.stderr}")
        made.replace(target)
    return target


def _line(library: str, instruction: int) -> str:
    """The place in the source, as far as binutils can tell."""
    tool = shutil.which("addr2line")
    if tool is None:
        return ""
    command = [tool, "-e", library, hex(instruction)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return "" if not found or found[0].startswith("?") else f" at {Path(found[0]).name}"
