"""Starting up: importing the package and showing the command's help, each in a new process.

The side `python` starts the interpreter and nothing else: what no package can be faster than.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = {
    "import tempa": "import tempa",
    "tempa --help": "import sys; from tempa import cli; sys.exit(cli.run(['--help']))",
}


@pytest.mark.benchmark(group="start a process")
@pytest.mark.parametrize("side", ["ours", "python"])
@pytest.mark.parametrize("what", CODE)
def test_start(benchmark, what, side) -> None:
    command = [sys.executable, "-c", CODE[what] if side == "ours" else "pass"]
    options = {"check": True, "stdout": subprocess.DEVNULL}
    benchmark.pedantic(subprocess.run, (command,), options, rounds=15, warmup_rounds=2)
