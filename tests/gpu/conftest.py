"""Runs on the device what tests elsewhere give to the simulator."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from simulator import Argument, TensorMap
from torch import Tensor

from tempa.ops import nvrtc


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], None]:
    """Makes a module of tests run its kernels on the current device."""
    return lambda module: monkeypatch.setattr(module, "simulate", _run)


def _run(
    source: str | Path,
    entry: str,
    *arguments: Argument,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    shared_bytes: int = 0,
    defines: Mapping[str, str | int] | None = None,
    seed: int = 0,
    timing: str = "mixed",
) -> None:
    """Like `simulate`, on copies of the tensors; order and time are the device's own."""
    from cuda.bindings import driver

    device = torch.device("cuda", torch.cuda.current_device())
    handle = nvrtc.load(str(source), entry, device, defines or {}, shared_bytes=shared_bytes)
    with _copies() as copy:
        values = [_value(argument, copy) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(address for address, _ in values))
        stream = torch.cuda.current_stream(device).cuda_stream
        sizes = (*_three(grid), *_three(block), shared_bytes, stream, ctypes.addressof(pointers), 0)
        nvrtc.checked(driver.cuLaunchKernel(handle, *sizes))


@contextmanager
def _copies() -> Iterator[Callable[[Tensor], Tensor]]:
    """A function that copies a tensor to the device, once; what is there in the end is copied back."""
    copies: dict[int, tuple[Tensor, Tensor]] = {}
    yield lambda tensor: copies.setdefault(id(tensor), (tensor, tensor.cuda()))[1]
    torch.cuda.synchronize()
    for tensor, copied in copies.values():
        tensor.copy_(copied)


def _value(argument: Argument, copy: Callable[[Tensor], Tensor]) -> tuple[int, object]:
    """The address of a kernel's argument, and what keeps it alive."""
    if isinstance(argument, TensorMap):
        encoded = replace(argument, tensor=copy(argument.tensor)).encoded()
        return encoded.getPtr(), encoded
    if argument is None or isinstance(argument, Tensor):
        argument = ctypes.c_void_p(None if argument is None else copy(argument).data_ptr())
    return ctypes.addressof(argument), argument


def _three(size: int | Sequence[int]) -> tuple[int, ...]:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    return (*sizes, 1, 1)[:3]
