"""What the tests of the GPU bench share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from operators import held, run_simulated
from pretended import PROPERTIES, PretendedRig

from tempa.ops import nvrtc, sample_cuda


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> PretendedRig:
    """The CPU in place of a GPU."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: PROPERTIES)
    return PretendedRig()


@pytest.fixture
def simulated_draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The one operator that has nothing for the CPU, by the simulator."""
    monkeypatch.setattr(nvrtc, "load", held)
    monkeypatch.setattr(nvrtc, "launch", run_simulated)
    monkeypatch.setattr(nvrtc, "device_arch", lambda device: "sm_90a")
    library = torch.library.Library("tempa", "IMPL")
    library.impl("sample", sample_cuda._sample_cuda, "CPU")
    yield
    library._destroy()
