"""What the device is, and how fast it copies, reads and multiplies: measured in the same run as all else."""

from __future__ import annotations

import subprocess
from typing import Any

import torch

from gpu.rig import Rig, normal, size, spread
from tempa.bench.machine import versions

NOTED = (
    "torch",
    "triton",
    "transformers",
    "flashinfer-python",
    "flash-attn-3",
    "flash-attn-4",
    "liger-kernel",
)
ROUNDS = 30


def describe() -> dict[str, Any]:
    """Name, clocks, driver and versions, as far as the machine tells."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30),
        "l2_mib": round(properties.L2_cache_size / 2**20),
        "cuda": torch.version.cuda,
        "versions": versions(*NOTED),
        **_nvidia_smi(),
    }


def _nvidia_smi() -> dict[str, str]:
    """Driver, and clocks as they are now: what they were during a case may differ."""
    fields = {
        "driver": "driver_version",
        "sm_clock": "clocks.sm",
        "memory_clock": "clocks.mem",
        "max_sm_clock": "clocks.max.sm",
        "power_limit": "power.limit",
    }
    command = ["nvidia-smi", f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in lines.splitlines()[0].split(",")] if lines.strip() else []
    return dict(zip(fields, values, strict=False))


def measure(rig: Rig) -> dict[str, float]:
    """Bytes a second of a copy, read and written, and of a read; operations a second of a product."""
    count = size(rig, 1 << 29, 1 << 10)  # 2 GiB of float32: no cache holds a part worth counting
    source = normal(rig, count, dtype=torch.float32)
    target = torch.empty_like(source)
    side = size(rig, 8192, 16)
    a, b = normal(rig, side, side), normal(rig, side, side + 1)[:, :side].contiguous()
    out = torch.empty_like(a)
    work = {
        "copy": (2 * source.nbytes, lambda: target.copy_(source)),
        "read": (source.nbytes, lambda: source.sum()),
        "gemm": (2 * side**3, lambda: torch.mm(a, b, out=out)),
    }
    return {name: amount / spread(rig.times(run, "warm", ROUNDS))[0] for name, (amount, run) in work.items()}
