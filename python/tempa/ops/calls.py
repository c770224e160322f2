"""One launch of a kernel as data, made on any machine for any device: tests simulate what would run."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from tempa.ops import nvrtc

# Shared memory that a block can have: on every device since sm_80, and on those with more.
SMALLEST_SHARED_BYTES = 99 << 10
SHARED_BYTES = {"80": 163 << 10, "87": 163 << 10, "90": 227 << 10, "100": 227 << 10, "103": 227 << 10}


@dataclass(frozen=True)
class Target:
    """The device that a problem is for.

    Attributes:
        arch: Its architecture, such as sm_90a.
        num_multiprocessors: How many it has.
    """

    arch: str
    num_multiprocessors: int = 1

    @classmethod
    @functools.cache
    def of(cls, device: torch.device) -> Target:
        """A CUDA device."""
        properties = torch.cuda.get_device_properties(device)
        return cls(nvrtc.device_arch(device), properties.multi_processor_count)

    @property
    def shared_limit(self) -> int:
        """Shared memory that a block can have."""
        return SHARED_BYTES.get(self.arch.removeprefix("sm_").rstrip("af"), SMALLEST_SHARED_BYTES)


# What is made for it fits every other device too.
SMALLEST = Target("sm_86")


@dataclass(frozen=True)
class Call:
    """One launch of a kernel."""

    source: str
    entry: str
    arguments: tuple[Any, ...]
    grid: tuple[int, int, int]
    num_threads: int
    shared_bytes: int
    defines: tuple[tuple[str, str | int], ...]

    def launch(self, device: torch.device) -> None:
        """Start it on torch's current stream."""
        nvrtc.launch(
            _loaded(self.source, self.entry, device, self.defines, self.shared_bytes),
            *self.arguments,
            grid=self.grid,
            block=self.num_threads,
            shared_bytes=self.shared_bytes,
        )


@functools.cache
def _loaded(
    source: str,
    entry: str,
    device: torch.device,
    macros: tuple[tuple[str, str | int], ...],
    shared_bytes: int,
) -> nvrtc.Kernel:
    return nvrtc.load(source, entry, device, dict(macros), shared_bytes=shared_bytes)
