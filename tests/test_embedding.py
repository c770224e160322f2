"""The scheduler of docs/embedding.md: without torch, and with the samples of a loop that has no cache."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempa.sample import Sampler

PAGE = Path(__file__).resolve().parents[1] / "docs" / "embedding.md"


@pytest.fixture(scope="module")
def code() -> str:
    (block,) = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return str(block)


def test_a_foreign_scheduler_has_sixty_lines(code: str) -> None:
    assert code.count("\n") <= 60


def test_a_foreign_scheduler_needs_no_torch(code: str) -> None:
    check = "\nimport sys\nassert 'torch' not in sys.modules\nkv.check()\nprint('done')\n"
    run = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("done\n")


def test_a_foreign_scheduler_draws_what_a_plain_loop_draws(code: str) -> None:
    world: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, str(PAGE), "exec"), world)
    kv, embedding = world["kv"], world["embedding"]
    assert kv.stats()["num_hit"] > 200
    assert kv.num_available == [64]
    for row in world["rows"]:
        sampler = Sampler(world["tokenizer"].vocab_size)
        draw = sampler.add(row.settings, prompt=row.ids, seed=len(row.ids))
        ids = row.ids.tolist()
        for _ in range(row.room):
            logits = (embedding @ embedding[ids].mean(0)).astype(np.float32)
            ids.append(int(sampler.step([draw], logits[None]).ids[0]))
        assert row.out == ids[len(row.ids) :]
