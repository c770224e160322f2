"""What the tests of the GPU bench share."""

from __future__ import annotations

import pytest
import torch
from pretended import PROPERTIES, PretendedRig


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> PretendedRig:
    """The CPU in place of a GPU."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: PROPERTIES)
    return PretendedRig()
