"""That the simulator runs right kernels right and finds what is wrong in wrong ones."""

from __future__ import annotations

import re
import subprocess

import pytest
import simulator
import torch
from simulator import FOLDER, TIMINGS, CompileError, SimulationError, simulate
from simulator.build import compiler

KERNELS = FOLDER / "kernels"
SEEDS = range(3)
# Three fibers that count on their own stacks.
FIBERS = """
#include <cstdio>
#include "fiber.hpp"
simulator::Fiber fibers[3];
int running;
alignas(16) char stacks[3][65536];
void count() {
    for (int i = 1;; ++i) {
        std::printf("%d:%d ", running, i);
        fibers[running].suspend();
    }
}
int main() {
    for (int i = 0; i < 3; ++i) fibers[i].start(stacks[i] + sizeof stacks[i], sizeof stacks[i], count);
    for (int round = 0; round < 3; ++round)
        for (running = 0; running < 3; ++running) fibers[running].resume();
}
"""
DEFINES = {"ELEMENT": "bf16", "BYTES": 16}
# Float32 sums of some hundred products of elements that are exact in float32.
TOLERANCE = 1e-6


def _ampere_gemm(
    bug: str, timing: str = "mixed", seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> float:
    """The relative error of one product whose sizes end inside a tile."""
    m, n, k = 100, 72, 200
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(m, k, generator=generator).to(dtype)
    b = torch.randn(k, n, generator=generator).to(dtype)
    c = torch.full((m, n), torch.nan)
    simulate(
        KERNELS / "gemm_ampere.cu",
        "gemm",
        *(c, a, b),
        *(m, n, k),
        grid=(-(-n // 64), -(-m // 64)),
        block=128,
        shared_bytes=3 * (64 * 40 + 32 * 72) * 2,
        defines={"ELEMENT": "bf16" if dtype == torch.bfloat16 else "fp16", "BUG": bug},
        seed=seed,
        timing=timing,
    )
    expected = a.double() @ b.double()
    return float((c - expected).norm() / expected.norm())


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_product_by_copies_and_warp_matrices_is_right_in_any_order(timing, seed, dtype) -> None:
    assert _ampere_gemm("NONE", timing, seed, dtype) < TOLERANCE


@pytest.mark.parametrize("bug", ["NO_COPY_WAIT", "NO_BARRIER", "FILLED_TOO_SOON"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_missing_wait_or_barrier_gives_a_wrong_product(bug, seed) -> None:
    assert not _ampere_gemm(bug, seed=seed) < 1e-2


@pytest.mark.parametrize(
    ("bug", "report"),
    [
        ("OUT_OF_RANGE", r"block \(\d, \d, 0\), thread \(\d+, 0, 0\): index 3 is outside its array at gemm_"),
        (
            "PAST_THE_END",
            r"copy_async of 16 bytes is outside global memory: .* argument 2, which has 28800 bytes",
        ),
        ("MISALIGNED", r"copy_async to shared memory is not aligned to 16 bytes: .* at gemm_ampere.cu:\d+"),
        (
            "BARRIER_APART",
            r"deadlock: .*\n  threads 0-31 wait in barrier_sync\(1, 128\) at gemm_ampere.cu:\d+"
            r"\n  threads 32-127 wait in __syncthreads at .*\n  barrier 0: 96 of 128 threads came",
        ),
    ],
)
def test_a_mistake_in_a_product_is_reported_with_its_place(bug, report) -> None:
    with pytest.raises(SimulationError, match=report):
        _ampere_gemm(bug)


MISTAKES = re.search(r"enum Mistake \{([^}]*)\}", (KERNELS / "mistakes.cu").read_text())[1].split()


def _mistake(name: str, x: torch.Tensor | None = None) -> None:
    x = torch.zeros(64) if x is None else x
    simulate(
        KERNELS / "mistakes.cu",
        "wrong",
        x,
        *(x.numel(), MISTAKES.index(f"{name},")),
        grid=1,
        block=32,
        shared_bytes=256,
    )


@pytest.mark.parametrize(
    ("name", "report"),
    [
        ("READ_PAST_THE_END", r"reads byte 384 of argument 0, which has 256 bytes at mistakes.cu:\d+"),
        ("WRITE_BEFORE_THE_START", r"writes byte -\d+ of argument 0, which has 256 bytes at mistakes.cu:\d+"),
        ("NULL_POINTER", r"writes address .*, which is no memory of the kernel"),
        ("SHARED_PAST_THE_END", r"writes byte \d+ of dynamic shared memory, which has 256 bytes"),
        ("SHARED_TOO_SMALL", r"dynamic_shared needs 4000 bytes, but the launch gave 256 at mistakes.cu:\d+"),
        ("STATIC_SHARED_TOO_LARGE", r"static_shared: 80000 bytes more than the 49152 there are"),
        ("INDEX", r"index \d+ is outside its array at mistakes.cu:\d+"),
        (
            "MISALIGNED",
            r"an access that needs a multiple of 16 bytes is misaligned: it is at byte \d+ of argument 0",
        ),
        (
            "UNEVEN_BARRIERS",
            r"thread 3 waits in __shfl_sync of lanes 0xffffffff at .*\n  threads 4-15 wait in __sync",
        ),
        (
            "LANE_LEFT_OUT",
            r"__syncwarp with mask 0x0000ffff leaves out the lane that calls it at mistakes.cu:\d+",
        ),
        ("LANE_MISSING", r"threads 0-6 wait in __syncwarp .*\n  thread 7 waits in __syncthreads"),
        ("DIVIDE_BY_ZERO", r"divides an integer by zero at mistakes.cu:\d+"),
        ("DEEP_STACK", r"no memory of the kernel|stack"),
        ("BARRIER_COUNT", r"barrier 1 for 33 threads: not a multiple of 32"),
    ],
)
def test_a_mistake_is_reported(name, report) -> None:
    with pytest.raises(SimulationError, match=report):
        _mistake(name)


def test_a_write_just_past_the_end_is_reported() -> None:
    with pytest.raises(SimulationError, match=r"something wrote byte 40 of argument 0, which has 40 bytes"):
        _mistake("WRITE_NEAR_THE_END", torch.zeros(10))


def test_a_write_between_the_elements_of_a_tensor_is_reported() -> None:
    with pytest.raises(
        SimulationError, match=r"something was written between the elements of the tensor of shape \(32,\)"
    ):
        _mistake("WRITE_BETWEEN_ELEMENTS", torch.zeros(32, 2)[:, 0])


def test_an_endless_loop_is_reported(monkeypatch) -> None:
    monkeypatch.setattr(simulator, "LIMIT_S", 1)
    with pytest.raises(SimulationError, match="still running after 1 s of processor time"):
        _mistake("ENDLESS_LOOP")


def test_shared_memory_starts_as_nan() -> None:
    x = torch.zeros(64)
    _mistake("POISON", x)
    assert x[:32].isnan().all()


def test_arguments_are_checked_against_the_declaration() -> None:
    x = torch.zeros(64)
    with pytest.raises(SimulationError, match="the kernel takes 2 arguments, but 1 came"):
        simulate(KERNELS / "scale.cu", "scale", x, grid=1, block=32)
    for entry, arguments, report in (
        ("scale", (2, 2.0), "argument 0 is declared pointer, got 2"),
        ("scale", (x, x), "argument 1 is declared float, got tensor"),
        ("scale", (x, None), "argument 1 is declared float, got None"),
        ("scale_strided", (x, 2.0, 2), "argument 1 is declared int, got 2.0"),
        ("scale_strided", (x, 2**31, 2), "argument 1 is declared int, got 2147483648"),
    ):
        with pytest.raises(SimulationError, match=report):
            simulate(KERNELS / "scale.cu", entry, *arguments, grid=1, block=32)
    with pytest.raises(SimulationError, match="the source has no entry point of this name"):
        simulate(KERNELS / "scale.cu", "shrink", x, grid=1, block=32)


@pytest.mark.parametrize(
    ("size", "report"),
    [
        ({"grid": 0, "block": 32}, r"a grid of \(0, 1, 1\) blocks cannot be launched"),
        ({"grid": 1, "block": (32, 33)}, "a block has 1 to 1024 threads, not 1056"),
        ({"grid": 1, "block": 32, "shared_bytes": 300000}, "300000 bytes of shared memory exceed 232448"),
    ],
)
def test_what_no_device_can_launch_is_rejected(size, report) -> None:
    with pytest.raises(SimulationError, match=report):
        simulate(KERNELS / "scale.cu", "scale", torch.zeros(1), 1, **size)


def test_tensors_of_any_layout_and_address_are_changed_in_place() -> None:
    storage = torch.arange(257.0)
    expected = storage.clone()
    expected[1::4] *= 3
    # Threads see the gaps too, as NaN.
    view = storage[1::4]
    simulate(KERNELS / "scale.cu", "scale_strided", view, 4, 3, grid=2, block=32)
    assert torch.equal(storage, expected)


def test_an_argument_given_twice_is_one_buffer() -> None:
    x = torch.arange(128.0).view(32, 4)
    y = x.clone()
    simulate(KERNELS / "primitives.cu", "vectors", x, x, grid=1, block=32, defines=DEFINES)
    assert torch.equal(x, y)


def test_fibers_switch_without_assembly_too(tmp_path) -> None:
    (tmp_path / "main.cpp").write_text(FIBERS)
    sources = [tmp_path / "main.cpp", FOLDER / "fiber.cpp"]
    for portable in ([], ["-DPORTABLE_FIBERS"]):
        subprocess.run(
            [compiler(), "-std=c++20", *portable, "-I", FOLDER, *sources, "-o", tmp_path / "main"], check=True
        )
        done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
        assert done.stdout == "0:1 1:1 2:1 0:2 1:2 2:2 0:3 1:3 2:3 "


def test_a_source_that_does_not_compile_gives_the_compilers_message(tmp_path) -> None:
    (tmp_path / "broken.cu").write_text('extern "C" __global__ void broken(float* x) { y[0] = 1; }')
    with pytest.raises(
        CompileError, match=r"broken.o does not compile for the CPU:[\s\S]*broken.cu:1:\d+: error"
    ):
        simulate(tmp_path / "broken.cu", "broken", torch.zeros(1), grid=1, block=1)
