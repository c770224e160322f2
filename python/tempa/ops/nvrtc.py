"""CUDA kernels compiled at run time by NVRTC, kept on disk, launched on torch's current stream.

Compiling needs neither a GPU nor its driver, so ordinary tests compile every kernel for every architecture. A
cached binary is keyed by all that decides it: source, shared headers, options, architecture, NVRTC's version.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tempa._core import CudaKernel, TempaError, TensorMap
from tempa.ops.kernel_cache import Binary, kept
from tempa.ops.signature import signatures

SOURCES = Path(__file__).parents[1] / "cuda"

Kernel = CudaKernel


class KernelCompileError(TempaError):
    """A kernel did not compile: names the file, the architecture and the options, then NVRTC's log."""


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
    return kept(
        f"{Path(source).stem}-{arch}-{digest.hexdigest()[:32]}",
        lambda: Binary(source, arch, macros, *_compile(source, text, headers, arch, options)),
    )


def _version() -> str:
    return "NVRTC {}.{}".format(*_checked(_nvrtc().nvrtcVersion()))


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
    (program,) = _checked(
        nvrtc.nvrtcCreateProgram(text, source.encode(), len(headers), list(headers.values()), names)
    )
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = bytes(_checked(nvrtc.nvrtcGetProgramLogSize(program))[0])
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        # Without the time, so that the same input gives the same entry.
        message = re.sub(
            r"\n?ptxas info *: Compile time.*", "", log.rstrip(b"\0 \n").decode(errors="replace")
        )
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise KernelCompileError(f"cuda/{source} does not compile for {arch} with {options}:\n{message}")
        cubin = bytes(_checked(nvrtc.nvrtcGetCUBINSize(program))[0])
        _checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return message, cubin


def _checked(results: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of a call into CUDA without its status, which must be success."""
    status, *values = results
    if int(status):
        raise TempaError(f"CUDA call failed: {status.name}")
    return tuple(values)


def device_arch(device: torch.device) -> str:
    """The architecture to compile for: with the `a` features from Hopper on.

    Raises:
        TempaError: If torch sees no CUDA device.
    """
    if not torch.cuda.is_available():
        raise TempaError("no CUDA device: name an architecture, for example sm_90a")
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}{'a' if major >= 9 else ''}"


def load(
    source: str, entry: str, device: torch.device, defines: Mapping[str, str | int], *, shared_bytes: int = 0
) -> Kernel:
    """An entry point on a device, compiled if need be; good for the life of the process.

    Args:
        source: File name in `cuda/`.
        entry: Name of the `extern "C" __global__` function.
        device: Where it will run.
        defines: Macros: element type and launch shape.
        shared_bytes: The most dynamic shared memory that a launch will ask for.

    Raises:
        TempaError: If there is no driver, or it refuses to load the kernel.
    """
    binary = compile_source(source, arch=device_arch(device), defines=defines)
    parameters = signatures((SOURCES / source).read_text())[entry]
    index = torch.cuda.current_device() if device.index is None else device.index
    return Kernel(binary.cubin, entry, parameters, index, shared_bytes)


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
        TypeError: If an argument is not what the kernel declares.
        ValueError: If there are more or fewer of them, a number does not fit its type, or no device launches
            such sizes.
        TempaError: If the driver refuses.
    """
    kernel.launch(arguments, grid, block, shared_bytes, _current_stream(kernel.device))


def _slow_current_stream(device: int) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream)


# Without the object that torch makes of a stream, where torch has this function: it is not documented.
_current_stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", _slow_current_stream)
