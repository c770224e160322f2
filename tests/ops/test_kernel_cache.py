"""The cache of compiled kernels, with real processes for what only they can do to each other."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tempa.ops import kernel_cache as cache_module
from tempa.ops.kernel_cache import Binary, cached, clear_cache, kept

LOG = """ptxas info : Compiling entry function 'scale' for 'sm_80'
    0 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
ptxas info : Used 12 registers, 256 bytes smem"""
BINARY = Binary("scale.cu", "sm_80", {"FACTOR": "2"}, LOG, bytes(range(256)) * 40)
# Says when it makes the entry, and takes its time.
SCRIPT = """
import sys, time
from tempa.ops.kernel_cache import Binary, kept

def make():
    print("making", flush=True)
    time.sleep(float(sys.argv[1]))
    return Binary("scale.cu", "sm_80", {}, "", b"code")

assert kept("k", make).cubin == b"code"
"""
Start = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.usefixtures("kernel_cache")


@pytest.fixture
def start(kernel_cache: Path) -> Start:
    """Starts a process that asks for the entry `k`."""

    def start(seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(seconds)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=dict(os.environ), **pipes)

    return start


def _never() -> Binary:
    raise AssertionError("made again")


def test_what_was_made_is_found_again(kernel_cache: Path) -> None:
    assert kept("k", lambda: BINARY) == BINARY
    assert kept("k", _never) == BINARY
    assert list(cached()) == [(kernel_cache / "k.kernel", BINARY)]
    assert [path.name for path in kernel_cache.iterdir()] == ["k.kernel"]
    needs = BINARY.resources()["scale"]
    assert (needs.registers, needs.spilled_bytes, needs.shared_bytes) == (12, 8, 256)


@pytest.mark.parametrize("place", [0, 70, 80, -1])
def test_an_entry_with_a_changed_byte_is_made_again(kernel_cache: Path, place: int) -> None:
    kept("k", lambda: BINARY)
    path = kernel_cache / "k.kernel"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert list(cached()) == []
    assert kept("k", lambda: BINARY) == BINARY
    assert kept("k", _never) == BINARY


def test_an_entry_cut_at_any_place_is_made_again(kernel_cache: Path) -> None:
    kept("k", lambda: BINARY)
    path = kernel_cache / "k.kernel"
    data = path.read_bytes()
    for length in (0, 1, 64, 65, 66, 200, len(data) - 1):
        path.write_bytes(data[:length])
        assert kept("k", lambda: BINARY) == BINARY
        assert path.read_bytes() == data


def test_of_processes_that_start_together_one_makes_the_entry(start: Start) -> None:
    processes = [start(0.5) for _ in range(4)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert sorted(output for output, _ in outputs) == ["", "", "", "making\n"]


def test_of_threads_that_start_together_one_makes_the_entry() -> None:
    made = []

    def make() -> Binary:
        made.append(threading.get_ident())
        time.sleep(0.2)
        return BINARY

    threads = [threading.Thread(target=kept, args=("k", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_process_that_was_killed_while_it_made_the_entry_blocks_nobody(
    start: Start, kernel_cache: Path
) -> None:
    first = start(60)
    assert first.stdout is not None
    assert first.stdout.readline() == "making\n"
    second = start(0)
    first.send_signal(signal.SIGKILL)
    assert second.communicate(timeout=300) == ("making\n", "")
    first.communicate()
    assert [path.name for path in kernel_cache.iterdir()] == ["k.kernel"]


def test_who_waits_long_says_for_what_and_at_last_goes_on_alone(
    kernel_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(cache_module, "PATIENCE_S", 0.05)
    monkeypatch.setattr(cache_module, "LIMIT_S", 0.2)
    kernel_cache.mkdir(parents=True)
    with (kernel_cache / "k.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert kept("k", lambda: BINARY) == BINARY
    said = capsys.readouterr().err
    assert said == "tempa: waiting for another process that compiles k.kernel\n"


def test_a_folder_that_cannot_be_made_or_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept("k", lambda: BINARY) == BINARY

    def refuse(*arguments: object, **options: object) -> int:
        raise PermissionError("read-only")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "open", refuse)
    assert kept("k", lambda: BINARY) == BINARY


def test_entries_of_a_folder_that_cannot_be_written_are_found(
    kernel_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept("k", lambda: BINARY)
    monkeypatch.setattr(os, "open", None)
    assert kept("k", _never) == BINARY


def test_a_write_that_fails_leaves_nothing(kernel_cache: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        assert kept("k", lambda: BINARY) == BINARY
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(kernel_cache.iterdir()) == []


def test_a_full_disk_leaves_nothing(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    large = Binary("scale.cu", "sm_80", {}, "", bytes(2 << 20))
    assert kept("k", lambda: large) == large
    assert list((small_disk / "tempa" / "kernels").iterdir()) == []


def test_an_error_of_the_compiler_is_passed_on_and_the_lock_is_free(kernel_cache: Path) -> None:
    with pytest.raises(AssertionError, match="made again"):
        kept("k", _never)
    assert list(kernel_cache.iterdir()) == []
    assert kept("k", lambda: BINARY) == BINARY


def test_clearing_deletes_every_entry_and_what_killed_processes_left(kernel_cache: Path) -> None:
    kept("k", lambda: BINARY)
    (kernel_cache / "k.lock").touch()
    (kernel_cache / "kabc.part").touch()
    assert clear_cache() == 1
    assert clear_cache() == 0
    assert list(kernel_cache.iterdir()) == []


def test_clearing_while_an_entry_is_made_harms_neither() -> None:
    def make() -> Binary:
        clear_cache()
        return BINARY

    assert kept("k", make) == BINARY
    assert kept("k", _never) == BINARY
