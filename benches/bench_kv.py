"""KV manager: instructions of its calls in Rust, as callgrind counts them.

They are the same on a busy machine, so they show a change of the code that times would hide. The cases are
those of `rust/core/benches/kv.rs`, built as the wheel is.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CASES = {
    "admit 8,192 new tokens and free them, pool full": "cold",
    "admit 8,192 known tokens": "hot",
    "a token for each of 256 sequences": "step",
    "evict 64 tokens below 20,000 leaves": "evict",
}


@pytest.fixture(scope="module")
def program() -> str:
    for tool in ("cargo", "valgrind"):
        if shutil.which(tool) is None:
            pytest.skip(f"instructions are not counted: {tool} is not installed")
    command = "cargo bench --locked --package tempa-core --bench kv --no-run --message-format json"
    built = subprocess.run(command.split(), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    return str(next(message["executable"] for message in messages if message.get("executable")))


@pytest.mark.benchmark(group="KV manager, blocks of 16 tokens, one call in Rust")
@pytest.mark.parametrize("what", CASES)
def test_instructions(record, program: str, what: str, tmp_path: Path) -> None:
    command = [
        "valgrind", "--tool=callgrind", "--toggle-collect=*counted*",
        f"--callgrind-out-file={tmp_path / 'calls'}", program, CASES[what],
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    counted = re.search(r"Collected : (\d+)", done.stderr)
    calls = re.search(r"median of (\d+) calls", done.stdout)
    assert counted, done.stderr
    assert calls, done.stdout
    record(int(counted[1]) / int(calls[1]), unit="instructions")
