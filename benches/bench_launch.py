"""Launching on CUDA, without a device: what a launch and the plan of a batch cost the processor.

A launch goes to the driver of `tests/ops/fake_driver.c`, which returns at once, so that the time is the
caller's own: 20 arguments, from tensors and Python numbers on. `cuda-python` gets ctypes numbers and calls
cuLaunchKernel. The plan cuts the keys of a batch for the device, once an engine step; `NumPy` is the
reference that the tests compare with.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import plan_reference
import pytest

from tempa.ops import paged_plan

ROUNDS = 30
WORKER = Path(__file__).with_name("launch_worker.py")
DRIVER = Path(__file__).parents[1] / "tests" / "ops" / "fake_driver.c"
DEVICE = {"group": 4, "num_kv_heads": 8, "resident": 264}
BATCHES = {"256 sequences to 8,000 tokens": (256, 8000), "8 sequences to 128,000 tokens": (8, 128_000)}


def test_launch(record, tmp_path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for a driver without a device")
    library = tmp_path / "libcuda.so.1"
    command = [compiler, "-O2", "-shared", "-fPIC", str(DRIVER), "-ldl", "-o", str(library)]
    subprocess.run(command, check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    command = [sys.executable, str(WORKER), str(ROUNDS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for side, seconds in json.loads(done.stdout).items():
        record(seconds, unit="s", side=side, group="a launch, a driver without a device", name="20 arguments")


@pytest.mark.benchmark(group="plan of paged attention, one new token a sequence", timer=time.process_time)
@pytest.mark.parametrize("side", ["ours", "NumPy"])
@pytest.mark.parametrize("batch", BATCHES)
def test_plan(benchmark, batch, side) -> None:
    num_sequences, longest = BATCHES[batch]
    lengths = np.random.default_rng(0).integers(100, longest, num_sequences)
    starts = np.arange(num_sequences + 1)
    ours, slow = (module.plan(lengths, starts, **DEVICE) for module in (paged_plan, plan_reference))
    np.testing.assert_array_equal(ours.items, slow.items)
    plan = paged_plan.plan if side == "ours" else plan_reference.plan
    benchmark.pedantic(plan, (lengths, starts), DEVICE, rounds=ROUNDS, iterations=20, warmup_rounds=3)
