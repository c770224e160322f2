"""The clocks of the GPU bench with a stand-in for the device: every line has run before there is one."""

from __future__ import annotations

import contextlib
import subprocess
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from gpu import ceilings, rig, worker

CPU = torch.device("cpu")
PROPERTIES = SimpleNamespace(
    name="NVIDIA H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 << 30,
    L2_cache_size=50 << 20,
)


class _Stream:
    def wait_stream(self, other: object) -> None:
        pass


class _Graph:
    def __init__(self) -> None:
        self.num_replays = 0

    def replay(self) -> None:
        self.num_replays += 1


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """A device whose calls are counted, and on which a round takes 2 ms."""
    calls: Counter[str] = Counter()

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            calls["record"] += 1

        def elapsed_time(self, end: object) -> float:
            return 2.0

    def counted(name: str, result: object = None):
        def call(*_: object, **__: object) -> object:
            calls[name] += 1
            return result

        return call

    stubs = {
        "Event": Event,
        "Stream": _Stream,
        "CUDAGraph": _Graph,
        "current_device": lambda: 0,
        "current_stream": _Stream,
        "get_device_properties": lambda device: PROPERTIES,
        "synchronize": counted("synchronize"),
        "_sleep": counted("sleep"),
        "stream": lambda stream: contextlib.nullcontext(),
        "graph": lambda graph: contextlib.nullcontext(),
        "reset_peak_memory_stats": counted("reset"),
        "memory_allocated": lambda: 100,
        "max_memory_allocated": lambda: 350,
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(torch.cuda, name, stub)
    monkeypatch.setattr(torch, "device", lambda *_: CPU)
    return calls


@pytest.fixture
def clock(device: Counter[str]) -> rig.GpuRig:
    return rig.GpuRig()


@pytest.mark.parametrize("pace", ["cold", "warm", "whole", "host"])
def test_a_round_is_one_call_after_a_warm_up(pace, clock: rig.GpuRig, device: Counter[str]) -> None:
    runs: Counter[str] = Counter()
    times = clock.times(lambda: runs.update(["run"]), pace, 30)
    assert len(times) >= 30
    assert all(time > 0 for time in times) or pace in ("whole", "host")
    calls = len(times) * (rig.HOST_CALLS if pace == "host" else 1)
    assert runs["run"] == calls + rig.WARM_UP + (pace != "host")
    if pace in ("cold", "warm"):
        assert times == [0.002] * len(times)
        assert device["record"] == 2 * len(times)
    assert device["sleep"] == (len(times) if pace in ("cold", "warm") else 0)
    assert device["synchronize"] > 0


def test_short_calls_are_timed_more_often(clock: rig.GpuRig) -> None:
    assert len(clock.times(lambda: None, "warm", 30)) == rig.MAX_ROUNDS


def test_memory_is_what_a_call_takes_beside_what_was_there(clock: rig.GpuRig) -> None:
    assert clock.peak_bytes(lambda: None) == 250


def test_a_captured_call_is_replayed_and_gives_what_it_made(clock: rig.GpuRig) -> None:
    made = torch.ones(2)
    assert clock.captured(lambda: made)() is made


def test_the_device_is_described_with_and_without_its_tool(device: Counter[str], monkeypatch) -> None:
    def answer(command, **_: object) -> SimpleNamespace:
        assert command[0] == "nvidia-smi"
        return SimpleNamespace(stdout="580.1, 1980 MHz, 2619 MHz, 1980 MHz, 700.00 W\n")

    monkeypatch.setattr(subprocess, "run", answer)
    found = ceilings.describe()
    assert (found["name"], found["driver"], found["sm_clock"]) == ("NVIDIA H100", "580.1", "1980 MHz")
    assert (found["capability"], found["memory_gib"], found["l2_mib"]) == ("9.0", 80, 50)

    def missing(command, **_: object) -> SimpleNamespace:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(subprocess, "run", missing)
    assert "driver" not in ceilings.describe()


def test_a_device_that_answers_no_more_is_noticed(clock: rig.GpuRig, monkeypatch) -> None:
    assert worker.is_usable(clock)

    def broken(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch, "ones", broken)
    assert not worker.is_usable(clock)
