"""What it costs the host to start a kernel, and the device to run one that does next to nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu.comparison import OURS, Case, Comparison, Run
from gpu.rig import Pace, Rig, normal
from tempa import ops

EPS = 1e-5
# bfloat16, rounded once.
TOLERANCE = 1e-2


def cases() -> list[Case]:
    """RMSNorm of a single row: by the operator, by the function that models call, and in a CUDA graph."""
    return [
        Case("the host starts RMSNorm of one row", lambda rig: _norm(rig, "host"), is_quick=True),
        Case("the device runs RMSNorm of one row", lambda rig: _norm(rig, "warm")),
        Case("RMSNorm of one row in a CUDA graph", _captured),
    ]


def _norm(rig: Rig, pace: Pace) -> Comparison:
    x, weight = normal(rig, 1, 64), normal(rig, 64)

    def operator() -> Tensor:
        out: Tensor = torch.ops.tempa.norm(x, weight, None, EPS, False)
        return out

    sides = {
        OURS: lambda: _run(operator),
        "torch": lambda: _run(lambda: F.rms_norm(x, x.shape[-1:], weight, EPS)),
        "ops.rms_norm": lambda: _run(lambda: ops.rms_norm(x, weight, EPS)),
    }
    return Comparison(sides, TOLERANCE, 0.0, ceiling=None, pace=pace)


def _captured(rig: Rig) -> Comparison:
    x, weight = normal(rig, 1, 64), normal(rig, 64)

    def ours() -> Tensor:
        out: Tensor = torch.ops.tempa.norm(x, weight, None, EPS, False)
        return out

    sides = {
        OURS: lambda: rig.captured(_run(ours)),
        "torch": lambda: rig.captured(_run(lambda: F.rms_norm(x, x.shape[-1:], weight, EPS))),
    }
    return Comparison(sides, TOLERANCE, 0.0, ceiling=None, pace="warm")


def _run(function: Run) -> Run:
    @torch.no_grad()
    def run() -> object:
        return function()

    return run
