"""A rig without a GPU: every case runs on the CPU with small tensors, and no clock is asked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

# As an H100 says of itself.
PROPERTIES = SimpleNamespace(
    multi_processor_count=132,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
)


class PretendedRig:
    """Calls what it is to time, and says that it took a microsecond."""

    device = torch.device("cpu")
    is_tiny = True

    def __init__(self) -> None:
        self.num_timed = 0

    def times(self, run: Callable[[], object], pace: str, rounds: int) -> list[float]:
        run()
        self.num_timed += 1
        return [1e-6 * (1 + i / rounds) for i in range(rounds)]

    def peak_bytes(self, run: Callable[[], object]) -> int:
        run()
        return 1 << 20

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def captured(self, run: Callable[[], object]) -> Callable[[], object]:
        return run


def pretend_modules(monkeypatch: pytest.MonkeyPatch, modules: dict[str, dict[str, Any]]) -> None:
    """Peers that are not installed here, with functions that do what theirs do."""
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
