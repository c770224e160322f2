"""Runs on the device what tests elsewhere give to the simulator."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from simulator import Argument, TensorMap
from torch import Tensor

from tempa.ops import nvrtc


@pytest.fixture(autouse=True)
def _usable_device() -> Iterator[None]:
    """Ends the process when a test has left the device unusable: every later test would fail with it."""
    yield
    if not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        if "PYTEST_XDIST_WORKER" in os.environ:
            os._exit(3)  # another worker takes its place
        pytest.exit(f"the device is unusable after this test: {error}", returncode=3)


@pytest.fixture(scope="session", autouse=True)
def _entries() -> Iterator[dict[int, tuple[nvrtc.Kernel, str]]]:
    """The entry points of kernels: what loads them keeps them for the life of the process."""
    entries: dict[int, tuple[nvrtc.Kernel, str]] = {}
    load = nvrtc.load

    def noted(source: str, entry: str, *arguments: Any, **options: Any) -> nvrtc.Kernel:
        kernel = load(source, entry, *arguments, **options)
        entries[id(kernel)] = kernel, entry
        return kernel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvrtc, "load", noted)
        yield entries


@pytest.fixture
def launches(_entries: dict[int, tuple[nvrtc.Kernel, str]], monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a test has launched each kernel so far."""
    counts: Counter[str] = Counter()
    launch = nvrtc.launch

    def counted(kernel: nvrtc.Kernel, *arguments: Any, **sizes: Any) -> None:
        counts[_entries[id(kernel)][1]] += 1
        launch(kernel, *arguments, **sizes)

    monkeypatch.setattr(nvrtc, "launch", counted)
    return counts


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], None]:
    """Makes a module of tests run its kernels on the current device."""
    return lambda module: monkeypatch.setattr(module, "simulate", _run)


def _run(
    source: str | Path,
    entry: str,
    *arguments: Argument,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    shared_bytes: int = 0,
    defines: Mapping[str, str | int] | None = None,
    seed: int = 0,
    timing: str = "mixed",
) -> None:
    """Like `simulate`, on copies of the tensors; order and time are the device's own."""
    device = torch.device("cuda", torch.cuda.current_device())
    kernel = nvrtc.load(str(source), entry, device, defines or {}, shared_bytes=shared_bytes)
    with _copies() as copy:
        values = [_copied(argument, copy) for argument in arguments]
        nvrtc.launch(kernel, *values, grid=grid, block=block, shared_bytes=shared_bytes)


@contextmanager
def _copies() -> Iterator[Callable[[Tensor], Tensor]]:
    """A function that copies a tensor to the device, once; what is there in the end is copied back."""
    copies: dict[int, tuple[Tensor, Tensor]] = {}
    yield lambda tensor: copies.setdefault(id(tensor), (tensor, tensor.cuda()))[1]
    torch.cuda.synchronize()
    for tensor, copied in copies.values():
        tensor.copy_(copied)


def _copied(argument: Argument, copy: Callable[[Tensor], Tensor]) -> Argument:
    if isinstance(argument, TensorMap):
        return TensorMap(copy(argument.tensor), argument.box, argument.swizzle_bytes)
    return copy(argument) if isinstance(argument, Tensor) else argument
