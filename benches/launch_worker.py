"""Times launches where the driver is the one without a device; prints seconds of processor time as JSON.

What is timed is what a call site does on each call, from tensors and Python numbers on. torch's own share,
which needs a GPU, is left out of the other side; of ours, a function of C stands for finding the stream.
"""

from __future__ import annotations

import ctypes
import json
import operator
import sys
import time
from collections.abc import Callable

import torch
from cuda.bindings import driver

from tempa._core import CudaKernel
from tempa.ops import nvrtc
from tempa.ops.signature import NUMBERS

CALLS = 5000
POINTERS = ("pointer",) * 10
INTEGERS = ("long long", "long long", "int", "int", "int", "int", "unsigned")
PARAMETERS = (*POINTERS, *INTEGERS, "float", "float", "float")
NUMBERS_PASSED = (1 << 33, 4096, 128, 8, 2**31 - 1, 0, 77, 0.125, 0.0, 1e-5)
KINDS = {
    "int": ctypes.c_int,
    "unsigned": ctypes.c_uint,
    "long long": ctypes.c_longlong,
    "float": ctypes.c_float,
}


def main() -> None:
    nvrtc._current_stream = operator.neg
    tensors = [torch.zeros(16) for _ in range(9)]
    sizes = [ctypes.sizeof(KINDS[name]) if name in NUMBERS else 8 for name in PARAMETERS]
    cubin = " ".join(["attend", *map(str, sizes)]).encode() + b"\0"
    kernel = CudaKernel(cubin, "attend", PARAMETERS, 0, 0)

    def ours() -> None:
        nvrtc.launch(kernel, *tensors, None, *NUMBERS_PASSED, grid=(264, 1, 1), block=128)

    handle = _handle(cubin)
    kinds = [KINDS[name] for name in PARAMETERS[len(POINTERS) :]]

    def theirs() -> None:
        arguments = [
            *tensors,
            None,
            *(kind(number) for kind, number in zip(kinds, NUMBERS_PASSED, strict=True)),
        ]
        values = [_argument(argument) for argument in arguments]
        parameters = tuple(value for value, _ in values), tuple(kind for _, kind in values)
        if driver.cuCtxGetCurrent()[0]:
            raise RuntimeError("no context")
        if driver.cuLaunchKernel(handle, 264, 1, 1, 128, 1, 1, 0, 0, parameters, 0)[0]:
            raise RuntimeError("not launched")

    times: dict[str, list[float]] = {"ours": [], "cuda-python": []}
    for _ in range(int(sys.argv[1])):
        times["ours"].append(_seconds(ours))
        times["cuda-python"].append(_seconds(theirs))
    print(json.dumps(times))


def _seconds(call: Callable[[], None]) -> float:
    started = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - started) / CALLS


def _handle(cubin: bytes) -> int:
    """The same kernel, loaded by cuda-python, with its context current."""
    driver.cuInit(0)
    _, device = driver.cuDeviceGet(0)
    _, context = driver.cuDevicePrimaryCtxRetain(device)
    driver.cuCtxSetCurrent(context)
    _, library = driver.cuLibraryLoadData(cubin, [], [], 0, [], [], 0)
    _, handle = driver.cuLibraryGetKernel(library, b"attend")
    return int(handle)


def _argument(argument: object) -> tuple[object, object]:
    if argument is None:
        return 0, ctypes.c_void_p
    if isinstance(argument, ctypes._SimpleCData):
        return argument.value, type(argument)
    return argument.data_ptr(), ctypes.c_void_p  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
