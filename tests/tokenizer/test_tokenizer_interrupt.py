"""Ctrl-C while a call is at work: it is raised, once, and nothing panics."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A signal of the process's own clock stands for Ctrl-C: it comes while the call below is at work.
PROGRAM = """
import random, signal, sys
from tempa import Tokenizer

def stop(*_):
    raise KeyboardInterrupt

tokenizer = Tokenizer.train(["low lower lowest " * 9], vocab_size=270)
text = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=1 << 19)) * 32
texts = [text[: 1 << 20]] * 16
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 0.02)
try:
    {call}
    print("finished")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no interval timers")
@pytest.mark.parametrize(
    "call",
    [
        "tokenizer.encode(text)",
        "tokenizer.encode_with_offsets(text)",
        "tokenizer.encode_batch([text])",
        "tokenizer.encode_batch(texts, 2)",
        "tokenizer.encode_lists(texts)",
        "tokenizer.count(text)",
        "Tokenizer.train(texts, vocab_size=5000)",
    ],
)
def test_an_interrupt_is_raised_by_the_call_that_it_came_in(call: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(call=call)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "interrupted\n", done.stderr
    assert done.stderr == ""
