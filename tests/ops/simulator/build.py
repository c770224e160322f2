"""Libraries of simulated kernels, compiled by g++ and kept in pytest's cache by the hash of what went in."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tempa.ops import nvrtc
from tempa.ops.signature import signatures

FOLDER = Path(__file__).parent
# Where `pytest --cache-clear` looks.
CACHE = FOLDER.parents[2] / ".pytest_cache" / "d" / "simulator"
COMMON_FLAGS = ["-std=c++20", "-fPIC", "-fno-strict-aliasing", "-I", str(nvrtc.SOURCES), "-I", str(FOLDER)]
# Nothing of one library is seen by another: each has kernels and state of its own.
COMMON_FLAGS += ["-fvisibility=hidden", "-fno-gnu-unique"]
OWN_FLAGS = [*COMMON_FLAGS, "-O3"]
# Line numbers for reports, and a check of every index and aligned access. Warnings are NVRTC's business.
KERNEL_FLAGS = [*COMMON_FLAGS, "-O2", "-w", "-Wno-psabi", "-g1", "-gdwarf-4"]
KERNEL_FLAGS += ["-fno-delete-null-pointer-checks", "-fsanitize=bounds,alignment"]
# Comes before the macros of a kernel, whose names it therefore need not avoid; parsed once.
PREFIX = FOLDER / "launch.hpp"
KERNEL = """
{macros}
#include "{source}"
const simulator::Kernel simulator::kernels[] = {{{entries}, {{}}}};
"""
# Blocks of a cluster, and the entry point.
CLUSTERED = re.compile(
    r"\bIN_CLUSTERS_OF\((\w+)\) __global__ void\s+(?:__launch_bounds__\([^()]*\)\s+)?(\w+)\("
)


class CompileError(Exception):
    """What g++ said about a source."""


@functools.cache
def library(source: Path, defines: tuple[tuple[str, str | int], ...]) -> ctypes.CDLL:
    """The kernels of a source, compiled with these macros, and the simulator that runs them."""
    prefix, *objects = _own_parts()
    macros = "\n".join(f"#define {name} {value}" for name, value in defines)
    code = source.read_text()
    sizes = {entry: size for size, entry in CLUSTERED.findall(code)}
    entries = ", ".join(f"ENTRY_POINT({entry}, {sizes.get(entry, 1)})" for entry in signatures(code))
    text = KERNEL.format(source=source, macros=macros, entries=entries)
    flags = [*KERNEL_FLAGS, "-include", str(prefix.with_suffix("")), "-c", "-x", "c++", "-"]
    kernel = _built(f"{source.stem}.o", flags, [source, prefix, *_headers()], text)
    linked = _built(f"{source.stem}.so", ["-shared", *map(str, [kernel, *objects])], [])
    loaded = ctypes.CDLL(str(linked))
    loaded.simulate.restype = ctypes.c_size_t
    return loaded


def line_of(library: ctypes.CDLL, instruction: int) -> str:
    """The place in the source, as far as binutils can tell: "name.cu:12", or nothing."""
    tool = shutil.which("addr2line")
    if tool is None:
        return ""
    command = [tool, "-e", library._name, hex(instruction)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return "" if not found or found[0].startswith("?") else Path(found[0]).name


@functools.cache
def _own_parts() -> list[Path]:
    """The precompiled prefix, then the objects of the simulator itself."""
    headers = _headers()
    commands = [(f"{PREFIX.name}.gch", [*KERNEL_FLAGS, "-x", "c++-header", str(PREFIX)], headers)]
    for source in sorted(FOLDER.glob("*.cpp")):
        commands.append((f"{source.stem}.o", [*OWN_FLAGS, "-c", str(source)], [source, *headers]))
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda command: _built(*command), commands))


@functools.cache
def _headers() -> list[Path]:
    return [*sorted(nvrtc.SOURCES.glob("*.cuh")), *sorted(FOLDER.glob("*.hpp"))]


@functools.cache
def compiler() -> str:
    """The C++ compiler; without one the test is skipped."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("g++ is not installed, so kernels cannot be run on the CPU")
    return found


@functools.cache
def _version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def _hash(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _built(name: str, arguments: Sequence[str], inputs: Sequence[Path], text: str = "") -> Path:
    """What g++ makes of these arguments and of the text as its standard input; it reads `inputs` besides."""
    key = repr((_version(), arguments, [_hash(path) for path in inputs], text))
    target = CACHE / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}-{name}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder) / name
        command = [compiler(), *arguments, "-o", str(made)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileError(f"{name} does not compile for the CPU:\n{done.stderr}")
        made.replace(target)
    return target
