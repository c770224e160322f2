"""CUDA kernels compiled at run time by NVRTC, kept on disk, launched on torch's current stream.

Compiling needs neither a GPU nor its driver, so ordinary tests compile every kernel for every architecture. A
cached binary is keyed by all that decides it: source, shared headers, options, architecture, NVRTC's version.
Files are written beside their final name and renamed, so processes that start together never read half of
one; a damaged file is compiled again.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempa._core import TempaError
from tempa.ops.signature import NUMBERS, POINTER, TENSOR_MAP, signatures
from tempa.ops.tensor_map import TensorMap

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SOURCES = Path(__file__).parents[1] / "cuda"


class KernelCompileError(TempaError):
    """A kernel did not compile: names the file, the architecture and the options, then NVRTC's log."""


@dataclass(frozen=True)
class Binary:
    """One compiled source file.

    Attributes:
        source: File name in `cuda/`.
        arch: Real architecture, such as sm_90a.
        defines: Macros it was compiled with.
        log: What the compiler said, register counts included.
        cubin: The machine code.
    """

    source: str
    arch: str
    defines: dict[str, str]
    log: str
    cubin: bytes

    def resources(self) -> dict[str, Resources]:
        """What each entry point needs, from the compiler's log."""
        _, *parts = re.split(r"Compiling entry function '(\w+)'", self.log)
        return {name: Resources.read(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


@dataclass(frozen=True)
class Resources:
    """Registers and spilled bytes of a thread, and static shared memory of a block."""

    registers: int
    spilled_bytes: int
    shared_bytes: int

    @classmethod
    def read(cls, text: str) -> Resources:
        """The numbers in the assembler's report on one entry point."""
        found = [
            re.search(rf"(\d+) {what}", text) for what in ("registers", "bytes spill stores", "bytes smem")
        ]
        return cls(*(int(number[1]) if number else 0 for number in found))


def compile_source(source: str, *, arch: str, defines: Mapping[str, str | int]) -> Binary:
    """Compile one file of `cuda/`, or take the result from the cache.

    Args:
        source: File name in `cuda/`.
        arch: Real architecture: sm_80, sm_90a, sm_100a.
        defines: Macros: element type and launch shape.

    Raises:
        KernelCompileError: If NVRTC rejects the source.
        TempaError: If NVRTC is not installed.
    """
    macros = {name: str(value) for name, value in sorted(defines.items())}
    text = (SOURCES / source).read_bytes()
    headers = {path.name: path.read_bytes() for path in sorted(SOURCES.glob("*.cuh"))}
    options = ["--std=c++17", "--ptxas-options=-v", f"--gpu-architecture={arch}"]
    options += [f"-D{name}={value}" for name, value in macros.items()]
    digest = hashlib.sha256()
    for part in (text, *(part for header in headers.items() for part in header), *options, _version()):
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    path = cache_folder() / f"{Path(source).stem}-{arch}-{digest.hexdigest()[:32]}.kernel"
    with suppress(OSError, ValueError, KeyError):
        return _read(path)
    binary = Binary(source, arch, macros, *_compile(source, text, headers, arch, options))
    # A cache that cannot be written, as on a read-only home, costs half a second at each start and no more.
    with suppress(OSError):
        _write(path, binary)
    return binary


def _version() -> str:
    return "NVRTC {}.{}".format(*checked(_nvrtc().nvrtcVersion()))


@functools.cache
def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise TempaError(
            "NVRTC is missing: CUDA builds of torch bring it; else install nvidia-cuda-nvrtc and cuda-python"
        ) from error
    return nvrtc


def _compile(
    source: str, text: bytes, headers: Mapping[str, bytes], arch: str, options: Sequence[str]
) -> tuple[str, bytes]:
    nvrtc = _nvrtc()
    names = [name.encode() for name in headers]
    (program,) = checked(
        nvrtc.nvrtcCreateProgram(text, source.encode(), len(headers), list(headers.values()), names)
    )
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = bytes(checked(nvrtc.nvrtcGetProgramLogSize(program))[0])
        checked(nvrtc.nvrtcGetProgramLog(program, log))
        # Without the time, so that the same input gives the same entry.
        message = re.sub(
            r"\n?ptxas info *: Compile time.*", "", log.rstrip(b"\0 \n").decode(errors="replace")
        )
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise KernelCompileError(f"cuda/{source} does not compile for {arch} with {options}:\n{message}")
        cubin = bytes(checked(nvrtc.nvrtcGetCUBINSize(program))[0])
        checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return message, cubin


def checked(results: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of a call into CUDA without its status, which must be success."""
    status, *values = results
    if int(status):
        raise TempaError(f"CUDA call failed: {status.name}")
    return tuple(values)


def cache_folder() -> Path:
    """Where compiled kernels are kept: `tempa/kernels` in the user's cache folder (XDG_CACHE_HOME)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tempa" / "kernels"


def cached() -> Iterator[tuple[Path, Binary]]:
    """The readable entries of the cache, by name."""
    for path in sorted(cache_folder().glob("*.kernel")):
        with suppress(OSError, ValueError, KeyError):
            yield path, _read(path)


def clear_cache() -> int:
    """Delete the cache and return how many files it had."""
    paths = list(cache_folder().glob("*.kernel"))
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


# A cache file is one line of JSON, then the machine code.
def _read(path: Path) -> Binary:
    head, _, cubin = path.read_bytes().partition(b"\n")
    fields = json.loads(head)
    if fields.pop("sha256") != hashlib.sha256(cubin).hexdigest():
        raise ValueError(f"{path}: damaged")
    return Binary(**fields, cubin=cubin)


def _write(path: Path, binary: Binary) -> None:
    fields = {name: getattr(binary, name) for name in ("source", "arch", "defines", "log")}
    head = json.dumps(fields | {"sha256": hashlib.sha256(binary.cubin).hexdigest()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(head.encode() + b"\n" + binary.cubin)
    Path(file.name).replace(path)


def device_arch(device: torch.device) -> str:
    """The architecture to compile for: with the `a` features from Hopper on.

    Raises:
        TempaError: If torch sees no CUDA device.
    """
    import torch

    if not torch.cuda.is_available():
        raise TempaError("no CUDA device: name an architecture, for example sm_90a")
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}{'a' if major >= 9 else ''}"


@dataclass(frozen=True)
class Kernel:
    """An entry point on a device; good for the life of the process.

    Attributes:
        handle: What the driver calls it.
        kinds: Types of its parameters, as in `signatures`.
        device: The only device it runs on.
    """

    handle: int
    kinds: tuple[str, ...]
    device: torch.device


def load(
    source: str, entry: str, device: torch.device, defines: Mapping[str, str | int], *, shared_bytes: int = 0
) -> Kernel:
    """An entry point on a device, compiled if need be.

    Args:
        source: File name in `cuda/`.
        entry: Name of the `extern "C" __global__` function.
        device: Where it will run.
        defines: Macros: element type and launch shape.
        shared_bytes: The most dynamic shared memory that a launch will ask for.
    """
    from cuda.bindings import driver

    binary = compile_source(source, arch=device_arch(device), defines=defines)
    (library,) = checked(driver.cuLibraryLoadData(binary.cubin, [], [], 0, [], [], 0))
    (handle,) = checked(driver.cuLibraryGetKernel(library, entry.encode()))
    if shared_bytes:
        limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        (number,) = checked(driver.cuDeviceGet(device.index or 0))
        checked(driver.cuKernelSetAttribute(limit, shared_bytes, handle, number))
    return Kernel(int(handle), signatures((SOURCES / source).read_text())[entry], device)


def launch(
    kernel: Kernel,
    *arguments: Tensor | TensorMap | float | None,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    shared_bytes: int = 0,
) -> None:
    """Start a kernel on torch's current stream of its device.

    Args:
        kernel: From `load`.
        arguments: As declared: tensors on the device, None for a missing one, numbers, and `TensorMap`s.
        grid: Blocks: x, or (x, y), or (x, y, z).
        block: Threads of a block, in the same way.
        shared_bytes: Dynamic shared memory of a block.

    Raises:
        ValueError: If there are more or fewer arguments than declared, or a number does not fit its type.
    """
    import torch
    from cuda.bindings import driver

    if len(arguments) != len(kernel.kinds):
        raise ValueError(f"the kernel takes {len(kernel.kinds)} arguments, but {len(arguments)} came")
    values = [_value(argument, kind) for argument, kind in zip(arguments, kernel.kinds, strict=True)]
    pointers = (ctypes.c_void_p * len(values))(*(address for address, _ in values))
    with torch.cuda.device(kernel.device):
        stream = torch.cuda.current_stream(kernel.device).cuda_stream
        if not int(checked(driver.cuCtxGetCurrent())[0]):
            # A new thread, such as autograd's, has no context until the runtime is first used in it.
            torch.cuda.synchronize(kernel.device)
        sizes = (*_three(grid), *_three(block), shared_bytes)
        checked(driver.cuLaunchKernel(kernel.handle, *sizes, stream, ctypes.addressof(pointers), 0))


def _value(argument: Any, kind: str) -> tuple[int, Any]:
    """The address of what a kernel gets, and what keeps it alive."""
    if kind == TENSOR_MAP:
        encoded = argument.encoded()
        return encoded.getPtr(), encoded
    if kind == POINTER:
        argument = 0 if argument is None else argument.data_ptr()
    try:
        packed = struct.pack(NUMBERS.get(kind, "P"), argument)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{argument} is no {kind}: {error}") from error
    held = ctypes.create_string_buffer(packed, len(packed))
    return ctypes.addressof(held), held


def _three(size: int | tuple[int, ...]) -> tuple[int, ...]:
    sizes = (size,) if isinstance(size, int) else size
    return (*sizes, 1, 1)[:3]
