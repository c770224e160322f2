"""Where cases run: sizes, random tensors, clocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch._functorch import config as functorch_config

# "cold": the L2 cache holds nothing of the inputs; "warm": it holds what the call before has left. In both
# the host is ahead of the device, so its part does not count. "whole": it counts. "host": it alone.
Pace = Literal["cold", "warm", "whole", "host"]

WARM_UP = 3
# A side is timed about so long, with at least as many rounds as its case asks for and at most so many.
SIDE_S = 0.2
MAX_ROUNDS = 200
# The device idles this long before a round: more than the host needs to launch a few dozen kernels.
AHEAD_S = 300e-6
# Launches in a row whose host time is divided by their number.
HOST_CALLS = 50


class Rig(Protocol):
    """What a case needs of the machine. Tests have one on the CPU, with small sizes and without clocks."""

    device: torch.device
    is_tiny: bool

    def times(self, run: Callable[[], object], pace: Pace, rounds: int) -> list[float]:
        """Seconds of each of at least so many rounds."""

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Memory that a call takes beside what is there before it."""

    def compiled(self, function: Callable[..., Any], *, repeats_backward: bool = False) -> Callable[..., Any]:
        """`torch.compile`, for these shapes alone; its backward may be called again only if asked for."""

    def captured(self, run: Callable[[], object]) -> Callable[[], object]:
        """A CUDA graph of the call."""


class GpuRig:
    """The current CUDA device."""

    is_tiny = False

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        properties = torch.cuda.get_device_properties(self.device)
        self._spoil = torch.ones(max(4 * properties.L2_cache_size, 256 << 20) // 4, device=self.device)
        self._ahead_cycles = int(AHEAD_S * 1.5e9)

    def times(self, run: Callable[[], object], pace: Pace, rounds: int) -> list[float]:
        """Seconds of each round, after a warm-up."""
        for _ in range(WARM_UP):
            run()
        torch.cuda.synchronize()
        if pace == "host":
            return [self._host_time(run) for _ in range(rounds)]
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        estimate = max(time.perf_counter() - start, 1e-6)
        rounds = max(rounds, min(MAX_ROUNDS, int(SIDE_S / estimate)))
        if pace == "whole":
            return [self._whole_time(run) for _ in range(rounds)]
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
        for begin, end in events:
            torch.cuda._sleep(self._ahead_cycles)
            if pace == "cold":
                # Read, not written: lines to write back would be counted to the next call.
                self._spoil.sum()
            begin.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in events]

    def _whole_time(self, run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    def _host_time(self, run: Callable[[], object]) -> float:
        start = time.perf_counter()
        for _ in range(HOST_CALLS):
            run()
        seconds = (time.perf_counter() - start) / HOST_CALLS
        torch.cuda.synchronize()
        return seconds

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """Memory that a call takes beside what is there before it."""
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def compiled(self, function: Callable[..., Any], *, repeats_backward: bool = False) -> Callable[..., Any]:
        """`torch.compile`, for these shapes alone."""
        return compiled(function, repeats_backward=repeats_backward)

    def captured(self, run: Callable[[], object]) -> Callable[[], object]:
        """A CUDA graph of the call, which keeps the tensors that the call has made."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = run()

        def replay() -> object:
            graph.replay()
            return made

        return replay


def compiled(function: Callable[..., Any], *, repeats_backward: bool) -> Callable[..., Any]:
    """`torch.compile`, for these shapes alone.

    A compiled backward reuses the memory of what was kept for it, so it cannot run again unless told before.
    """
    fast: Callable[..., Any] = torch.compile(function, dynamic=False)
    if not repeats_backward:
        return fast

    def run(*inputs: Any, **options: Any) -> Any:
        with functorch_config.patch(donated_buffer=False):
            return fast(*inputs, **options)

    return run


def size(rig: Rig, real: int, tiny: int) -> int:
    """A size of the case, or a small one of the same kind."""
    return tiny if rig.is_tiny else real


def normal(rig: Rig, *shape: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensor:
    """Random numbers, the same for the same shape: zeros would hide mistakes, and run faster."""
    generator = torch.Generator(rig.device).manual_seed(sum(shape))
    drawn = torch.empty(shape, dtype=torch.float32 if dtype.itemsize < 4 else dtype, device=rig.device)
    return drawn.normal_(0, scale, generator=generator).to(dtype)


def spread(times: list[float]) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile.

    >>> spread([float(i) for i in range(1, 12)])
    (6.0, 2.0, 10.0)
    """
    if len(times) < 2:
        return times[0], times[0], times[0]
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return statistics.median(times), tenths[0], tenths[8]
