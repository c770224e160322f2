"""Launches through a driver without a device: `fake_driver.c`, which writes down what it gets.

Each case is a process of its own, since a process keeps the driver that it has loaded.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tempa.ops import nvrtc

SOURCE = Path(__file__).with_name("fake_driver.c")
PRELUDE = """
import os, sys, threading
import tempa
from tempa._core import CudaKernel, TensorMap

class Tensor:
    def __init__(self, address=0x7000, shape=(4, 5, 64), strides=(2048, 64, 1), size=2):
        self.address, self.shape, self.strides, self.size = address, shape, strides, size
    data_ptr = lambda self: self.address
    stride = lambda self: self.strides
    element_size = lambda self: self.size

SIZES = {"int": 4, "unsigned": 4, "float": 4, "TensorMap": 128}

def kernel(*parameters, device=0, shared_bytes=0, entry="k"):
    cubin = " ".join(["k", *(str(SIZES.get(name, 8)) for name in parameters)]).encode()
    return CudaKernel(cubin + bytes(1), entry, parameters, device, shared_bytes)

def launch(kernel, *arguments, grid=1, block=32, shared_bytes=0, stream=0):
    kernel.launch(arguments, grid, block, shared_bytes, stream)

def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except (tempa.Error, TypeError, ValueError) as error:
        print(type(error).__name__, error, sep=": ")
    else:
        print("no error")
"""

Run = Callable[..., tuple[list[str], list[str]]]


def _compiled(folder: Path, *flags: str) -> Path:
    """The driver as a library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for a driver without a device")
    library = folder / "libcuda.so.1"
    command = [compiler, "-O1", "-shared", "-fPIC", *flags, str(SOURCE), "-ldl", "-o", str(library)]
    subprocess.run(command, check=True)
    return library


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _compiled(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def run(driver: Path, tmp_path: Path) -> Run:
    """Runs a script with the driver; gives what it printed, and the calls."""
    log = tmp_path / "calls"

    def run(script: str, **variables: str | Path) -> tuple[list[str], list[str]]:
        environment = os.environ | {"TEMPA_CUDA_DRIVER": str(driver), "FAKE_DRIVER_LOG": str(log)}
        environment |= {name: str(value) for name, value in variables.items()}
        command = [sys.executable, "-c", PRELUDE + script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), log.read_text().splitlines() if log.exists() else []

    return run


def test_arguments_arrive_as_they_are_declared(run: Run) -> None:
    _, calls = run("""
k = kernel("pointer", "int", "float", "pointer", "long long", "unsigned", "unsigned long long", "float",
           shared_bytes=100_000)
launch(k, Tensor(0x7F0123456780), -3, 1.5, None, -(2**63), 2**32 - 1, 2**64 - 1, float("nan"),
       grid=(1, 2, 3), block=(32, 4), shared_bytes=100_000, stream=0xABC0)
launch(k, None, True, 2, None, 0, 0, 0, float("-inf"), grid=7, block=(1,), stream=2)
""")
    numbers = struct.pack("<Q", 0x7F0123456780), struct.pack("<i", -3), struct.pack("<f", 1.5), bytes(8)
    wide = struct.pack("<q", -(2**63)), b"\xff" * 4, b"\xff" * 8, struct.pack("<f", float("nan"))
    small = bytes(8), struct.pack("<i", 1), struct.pack("<f", 2), bytes(8), bytes(8), bytes(4), bytes(8)
    first, second = (
        " ".join(part.hex() for part in parts)
        for parts in ((*numbers, *wide), (*small, struct.pack("<f", float("-inf"))))
    )
    assert calls == [
        "init",
        "current 1000",
        "load k in 1000",
        "shared 100000 of attribute 8",
        "current 0",
        "current 1000",
        f"launch k grid 1 2 3 block 32 4 1 shared 100000 stream abc0 in 1000: {first}",
        "current 0",
        "current 1000",
        f"launch k grid 7 1 1 block 1 1 1 shared 0 stream 2 in 1000: {second}",
        "current 0",
    ]


def test_addresses_of_torchs_tensors_are_those_of_their_elements(run: Run) -> None:
    printed, calls = run("""
import torch
x = torch.zeros(64, dtype=torch.bfloat16)
tensors = [x, x[3:], x.view(8, 8)[2:, 1:].T, torch.nn.Parameter(x[1:]), x.float().requires_grad_()[5:],
           torch.zeros(3, dtype=torch.float8_e4m3fn), torch.zeros(4, dtype=torch.bool), torch.zeros(0, 4)]
launch(kernel(*["pointer"] * len(tensors)), *tensors)
print(*(tensor.data_ptr() for tensor in tensors))
refused(launch, kernel("pointer"), torch.eye(2).to_sparse())
""")
    (call,) = [call for call in calls if call.startswith("launch")]
    passed = [struct.unpack("<Q", bytes.fromhex(part))[0] for part in call.split(": ")[1].split()]
    assert passed == [int(address) for address in printed[0].split()]
    assert printed[1].startswith("TypeError: argument 0 is declared pointer, got ")


def test_a_kernel_runs_in_its_own_context_and_leaves_the_threads_own_current(run: Run) -> None:
    _, calls = run("""
import ctypes
lib = ctypes.CDLL(os.environ["TEMPA_CUDA_DRIVER"])
first, second = kernel(device=0), kernel(device=1)
def work():
    launch(first)                              # a new thread has no context
    lib.cuCtxSetCurrent(ctypes.c_uint64(0x1001))
    launch(second)                             # nothing to switch
    launch(first)
    context = ctypes.c_uint64()
    lib.cuCtxGetCurrent(ctypes.byref(context))
    assert context.value == 0x1001
thread = threading.Thread(target=work)
thread.start()
thread.join()
""")
    launches = [call.split(":")[0].replace("launch k grid 1 1 1 block 32 1 1 shared 0 stream 0", "launch")
                for call in calls[calls.index("load k in 1001") + 2 :]]  # fmt: skip
    in_new_thread = ["current 1000", "launch in 1000", "current 0"]
    elsewhere = ["current 1000", "launch in 1000", "current 1001"]
    assert launches == [*in_new_thread, "current 1001", "launch in 1001", *elsewhere]


def test_threads_may_launch_the_same_kernel(run: Run) -> None:
    printed, _ = run(
        """
k = kernel("pointer", "int")
def work(number):
    for i in range(2000):
        launch(k, Tensor(), number * i)
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("done")
""",
        FAKE_DRIVER_LOG="/dev/null",
    )
    assert printed == ["done"]


def test_arguments_that_do_not_fit_are_refused_before_the_driver_sees_them(run: Run) -> None:
    printed, calls = run("""
k = kernel("pointer", "int", "float", shared_bytes=64)
x = Tensor()
refused(launch, k, x, 1)
refused(launch, k, x, 1, 2.0, 3)
refused(launch, k, 0x7000, 1, 2.0)
refused(launch, k, x, 1.0, 2.0)
refused(launch, k, x, 2**31, 2.0)
refused(launch, k, x, 10**30, 2.0)
refused(launch, k, x, x, 2.0)
refused(launch, k, x, 1, None)
refused(launch, k, x, 1, "2.0")
refused(launch, k, x, 1, 1e39)
refused(launch, k, x, 1, 10**400)
refused(launch, k, x, 1, 2.0, grid=-1)
refused(launch, k, x, 1, 2.0, grid=(1, 2**32))
refused(launch, k, x, 1, 2.0, grid=())
refused(launch, k, x, 1, 2.0, grid=(1, 1, 1, 1))
refused(launch, k, x, 1, 2.0, grid=1.5)
refused(launch, k, x, 1, 2.0, grid=0)
refused(launch, k, x, 1, 2.0, grid=(1, 70000))
refused(launch, k, x, 1, 2.0, block=(32, 33))
refused(launch, k, x, 1, 2.0, shared_bytes=65)
refused(launch, k, x, 1, 2.0, shared_bytes=-1)
refused(launch, kernel("TensorMap"), x)
refused(launch, kernel("unsigned long long"), -1)
refused(kernel, *["TensorMap"] * 33)
refused(CudaKernel, b"k", "k", ["double"], 0, 0)
""")
    expected = [
        "ValueError: the kernel takes 3 arguments, but 2 came",
        "ValueError: the kernel takes 3 arguments, but 4 came",
        "TypeError: argument 0 is declared pointer, got <class 'int'>",
        "TypeError: argument 1 is declared int, got <class 'float'>",
        "ValueError: argument 1 is declared int, got 2147483648",
        f"ValueError: argument 1 is declared int, got {10**30}",
        "TypeError: argument 1 is declared int, got <class '__main__.Tensor'>",
        "TypeError: argument 2 is declared float, got <class 'NoneType'>",
        "TypeError: argument 2 is declared float, got <class 'str'>",
        "ValueError: argument 2 is declared float, got 1e+39",
        f"ValueError: argument 2 is declared float, got {10**400}",
        "ValueError: grid must be 1 to 3 numbers of 32 bits, got -1",
        "ValueError: grid must be 1 to 3 numbers of 32 bits, got (1, 4294967296)",
        "ValueError: grid must be 1 to 3 numbers of 32 bits, got ()",
        "ValueError: grid must be 1 to 3 numbers of 32 bits, got (1, 1, 1, 1)",
        "ValueError: grid must be 1 to 3 numbers of 32 bits, got 1.5",
        "ValueError: a grid of [0, 1, 1] blocks cannot be launched",
        "ValueError: a grid of [1, 70000, 1] blocks cannot be launched",
        "ValueError: a block has 1 to 1024 threads, not [32, 33, 1]",
        "ValueError: 65 bytes of shared memory exceed 64, for which the kernel was loaded",
        "ValueError: shared_bytes cannot be -1",
        "TypeError: argument 0 is declared TensorMap, got <class '__main__.Tensor'>",
        "ValueError: argument 0 is declared unsigned long long, got -1",
        "ValueError: kernel k has 33 parameters of 528 words: at most 64 of 512",
        'ValueError: a kernel takes no "double": expected one of pointer, int, unsigned, long long, '
        "unsigned long long, float, TensorMap",
    ]
    assert printed == expected
    assert not any(call.startswith("launch") for call in calls)


@pytest.mark.parametrize(
    ("failure", "script", "message"),
    [
        ("cuInit 999", "refused(kernel)", "cuInit failed with 999"),
        ("", "refused(kernel, device=2)", "cuDeviceGet failed with CUDA_ERROR_INVALID_DEVICE"),
        (
            "cuDevicePrimaryCtxRetain 1",
            "refused(kernel)",
            "cuDevicePrimaryCtxRetain failed with CUDA_",
        ),
        ("cuLibraryLoadData 1", "refused(kernel)", "cuLibraryLoadData failed with CUDA_ERROR_INVALID_VALUE"),
        (
            "",
            "refused(kernel, entry='other')",
            "cuLibraryGetKernel of other failed with CUDA_ERROR_NOT",
        ),
        (
            "",
            "refused(kernel, shared_bytes=300_000)",
            "cuFuncSetAttribute for 300000 bytes of shared memory failed with CUDA_ERROR_INVALID_VALUE",
        ),
        (
            "cuLaunchKernel 700",
            "refused(launch, kernel())",
            "cuLaunchKernel failed with CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
        ),
        (
            "cuTensorMapEncodeTiled 1",
            "refused(launch, kernel('TensorMap'), TensorMap(Tensor(), (1, 4, 64)))",
            "cuTensorMapEncodeTiled failed with CUDA_ERROR_INVALID_VALUE",
        ),
    ],
)
def test_what_the_driver_refuses_is_named(run: Run, failure: str, script: str, message: str) -> None:
    printed, _ = run(script, FAKE_DRIVER_FAILURE=failure)
    assert printed[0].startswith(f"TempaError: {message}")


def test_a_machine_without_a_driver_gets_an_error(run: Run, tmp_path: Path) -> None:
    printed, _ = run("refused(kernel)", TEMPA_CUDA_DRIVER=tmp_path / "missing.so")
    (line,) = printed
    assert line.startswith("TempaError: no CUDA driver: ")
    assert "missing.so" in line
    assert "TEMPA_CUDA_DRIVER" in line


def test_an_old_driver_gets_an_error_that_names_the_function(run: Run, tmp_path: Path) -> None:
    old = _compiled(tmp_path, "-DcuKernelGetFunction=other")
    printed, calls = run("refused(kernel)", TEMPA_CUDA_DRIVER=old)
    assert printed == [
        f"TempaError: {old} has no cuKernelGetFunction: the NVIDIA driver must be of CUDA 12.0 or later"
    ]
    assert calls == []


@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_process_cannot_use_what_its_parent_used(run: Run) -> None:
    printed, calls = run("""
def child(call, *arguments, **options):
    pid = os.fork()
    if pid == 0:
        refused(call, *arguments, **options)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)

child(kernel)
k = kernel()
child(launch, k)
child(kernel)
launch(k)
""")
    refusal = "TempaError: CUDA was in use when this process was forked, so it cannot be used here"
    assert printed[0] == "no error"
    assert [line.split(":", 2)[1] for line in printed[1:]] == [refusal.split(":", 1)[1]] * 2
    assert sum(call.startswith("launch") for call in calls) == 1


def test_a_tensor_map_is_encoded_at_each_launch(run: Run) -> None:
    _, calls = run("""
maps = [TensorMap(Tensor(), (1, 4, 64), 128), TensorMap(Tensor(0x70, (6, 300), (304, 1), 1), (2, 16))]
launch(kernel("int", "TensorMap", "float", "TensorMap"), 1, maps[0], 2.0, maps[1])
""")
    (call,) = [call for call in calls if call.startswith("launch")]
    one, first, two, second = (bytes.fromhex(part) for part in call.split(": ")[1].split())
    assert (one, two) == (struct.pack("<i", 1), struct.pack("<f", 2))
    # 16-bit elements, three dimensions, a swizzle of 128 bytes, fetched by 128; then bytes, none, by 256.
    sizes = (64, 0, 64, 5, 128, 4, 4, 4096, 1)
    assert struct.unpack("<16Q", first) == (0x7000, 1 | 3 << 8 | 3 << 16 | 2 << 24, *sizes, *[0] * 5)
    assert struct.unpack("<16Q", second) == (0x70, 2 << 8 | 3 << 24, 300, 0, 16, 6, 304, 2, *[0] * 8)


def test_launch_takes_the_current_stream_of_the_kernels_device(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    kernel = SimpleNamespace(device=1, launch=lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(nvrtc, "_current_stream", lambda device: 0xABC0 + device)
    x = torch.zeros(2)
    nvrtc.launch(kernel, x, None, 3, grid=(2, 2), block=64, shared_bytes=5)  # type: ignore[arg-type]
    assert calls == [((x, None, 3), (2, 2), 64, 5, 0xABC1)]


def test_the_stream_is_found_without_the_undocumented_function_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7 + device))
    assert nvrtc._slow_current_stream(1) == 8
