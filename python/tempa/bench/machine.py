"""What a number was measured on."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

# Instruction sets that change which kernels run.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "sve", "bf16")


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory, instruction sets and, if torch is loaded, the GPU.

    >>> sorted(machine())
    ['cores', 'cpu', 'flags', 'gpu', 'memory_gib', 'system']
    """
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return {
        "cpu": name[1].strip() if name else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _gpu() -> str | None:
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_available() else None


def versions(*names: str) -> dict[str, str]:
    """Versions of Python, tempa and the named distributions that are installed."""
    found = {"python": platform.python_version()}
    for name in ("tempa", *names):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe(machine: dict[str, Any]) -> str:
    """One line for a person.

    >>> describe({"cpu": "EPYC", "cores": 2, "memory_gib": 24, "flags": [], "gpu": None, "system": "Linux"})
    'EPYC, 2 cores, 24 GiB, Linux'
    """
    flags = f" ({' '.join(machine['flags'])})" if machine["flags"] else ""
    cores = f"{machine['cores']} cores{flags}"
    parts = (machine["cpu"], cores, f"{machine['memory_gib']} GiB", machine["gpu"], machine["system"])
    return ", ".join(part for part in parts if part)
