"""Compiled kernels on disk, shared by all processes of a user.

Of processes that start together, one compiles and the others wait for it. A file is written beside its final
name and renamed, so nobody reads half of one; each starts with a checksum of the rest, and a damaged one is
made again. A folder that cannot be written costs the time to compile at each start and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".kernel"
# Files that are gone again when an entry is written, unless its process was killed.
LOCK_SUFFIX, PART_SUFFIX = ".lock", ".part"

# While another process compiles: how often to look, when to say so, and when to stop waiting for it, which is
# long after any kernel is done.
POLL_S = 0.02
PATIENCE_S = 5.0
LIMIT_S = 120.0


@dataclass(frozen=True)
class Resources:
    """Registers and spilled bytes of a thread, and static shared memory of a block."""

    registers: int
    spilled_bytes: int
    shared_bytes: int

    @classmethod
    def read(cls, text: str) -> Resources:
        """The numbers in the assembler's report on one entry point."""
        found = [
            re.search(rf"(\d+) {what}", text) for what in ("registers", "bytes spill stores", "bytes smem")
        ]
        return cls(*(int(number[1]) if number else 0 for number in found))


@dataclass(frozen=True)
class Binary:
    """One compiled source file.

    Attributes:
        source: File name in `cuda/`.
        arch: Real architecture, such as sm_90a.
        defines: Macros it was compiled with.
        log: What the compiler said, register counts included.
        cubin: The machine code.
    """

    source: str
    arch: str
    defines: dict[str, str]
    log: str
    cubin: bytes

    def resources(self) -> dict[str, Resources]:
        """What each entry point needs, from the compiler's log."""
        _, *parts = re.split(r"Compiling entry function '(\w+)'", self.log)
        return {name: Resources.read(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def cache_folder() -> Path:
    """Where compiled kernels are kept: `tempa/kernels` in the user's cache folder (XDG_CACHE_HOME)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tempa" / "kernels"


def kept(name: str, make: Callable[[], Binary]) -> Binary:
    """The entry of this name; if it is missing or damaged, what `make` returns, which is then kept."""
    path = cache_folder() / f"{name}{SUFFIX}"
    found = _read(path)
    if found is not None:
        return found
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(path))
        # Another process may have made it meanwhile.
        found = _read(path)
        if found is None:
            found = make()
            with suppress(OSError):
                _write(path, found)
    return found


def cached() -> Iterator[tuple[Path, Binary]]:
    """The readable entries of the cache, by name."""
    for path in sorted(cache_folder().glob(f"*{SUFFIX}")):
        found = _read(path)
        if found is not None:
            yield path, found


def clear_cache() -> int:
    """Delete the cache and return how many entries it had; a process that is writing one goes on unharmed."""
    paths = list(cache_folder().glob(f"*{SUFFIX}"))
    left = [path for suffix in (LOCK_SUFFIX, PART_SUFFIX) for path in cache_folder().glob(f"*{suffix}")]
    for path in (*paths, *left):
        path.unlink(missing_ok=True)
    return len(paths)


# A file is a line with the checksum of the rest, a line of JSON, and the machine code.
def _read(path: Path) -> Binary | None:
    with suppress(OSError, ValueError, TypeError):
        digest, _, rest = path.read_bytes().partition(b"\n")
        if digest.decode() == hashlib.sha256(rest).hexdigest():
            head, _, cubin = rest.partition(b"\n")
            return Binary(**json.loads(head), cubin=cubin)
    return None


def _write(path: Path, binary: Binary) -> None:
    fields = {name: getattr(binary, name) for name in ("source", "arch", "defines", "log")}
    rest = json.dumps(fields).encode() + b"\n" + binary.cubin
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=path.stem, suffix=PART_SUFFIX, delete=False
    ) as file:
        part = Path(file.name)
        try:
            file.write(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
            file.close()
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes and threads from making the same entry; the lock of one that died is free.

    Raises:
        OSError: If the folder or its file system has no locks.
    """
    import fcntl

    lock = path.with_suffix(LOCK_SUFFIX)
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        started, is_patient = time.monotonic(), True
        while not _is_taken(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            waited_s = time.monotonic() - started
            if waited_s > LIMIT_S:
                break
            if is_patient and waited_s > PATIENCE_S:
                is_patient = False
                print(f"tempa: waiting for another process that compiles {path.name}", file=sys.stderr)
            time.sleep(POLL_S)
        try:
            yield
        finally:
            # Whoever waits has the file open and finds the entry; whoever comes later needs no lock.
            lock.unlink(missing_ok=True)
            fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


def _is_taken(file: int, operation: int) -> bool:
    import fcntl

    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    return True
