"""A run that is killed again and again, by a process that forks so that torch is imported once."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tempa.train.run import RunDir

NUM_KILLS = 10


def child(data: Path, out: Path) -> int:
    """Fork a process that runs or resumes the training."""
    from tempa.train.pretrain import PretrainConfig, pretrain

    pid = os.fork()
    if pid:
        return pid
    config = PretrainConfig(
        data=data,
        out=out,
        tokenizer="characters",
        shape=("depth=2", "width=32", "num_heads=2"),
        seq_len=32,
        batch_size=4,
        steps=300,
        eval_every=25,
        save_every=10,
        log_every=1,
        device="cpu",
    )
    pretrain(config)
    os._exit(0)


def main(root: Path) -> None:
    """Train once without and once with kills; print how far the run was at each."""
    import torch
    import torch._dynamo  # what an optimizer imports at first; here it is inherited

    torch.set_num_threads(1)
    data = root / "text.txt"
    data.write_text("".join(f"{a} times {b} is {a * b}\n" for a in range(20) for b in range(20)))
    began = time.monotonic()
    assert os.waitpid(child(data, root / "straight"), 0)[1] == 0
    duration = time.monotonic() - began
    rng = random.Random(0)
    for _ in range(NUM_KILLS):
        pid = child(data, root / "killed")
        # Short enough that the run is never finished before the last kill.
        time.sleep(rng.uniform(0, 1.5 * duration / NUM_KILLS))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "the run ended before it was killed"
        metrics = root / "killed" / "metrics.jsonl"
        rows = metrics.read_text().count("\n") if metrics.exists() else 0
        print(f"killed after {rows} rows", flush=True)
    assert os.waitpid(child(data, root / "killed"), 0)[1] == 0


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    # Traps C1-C4.
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True)
    straight, killed = RunDir(tmp_path / "straight"), RunDir(tmp_path / "killed")
    rows = [
        [{key: value for key, value in row.items() if key != "time"} for row in run.rows()]
        for run in (straight, killed)
    ]
    assert rows[0] == rows[1]
    digests = []
    for run in (straight, killed):
        checkpoint = run.latest_checkpoint()
        assert checkpoint is not None
        assert checkpoint.name == "step-000300"
        names = ("model.safetensors", "optimizer.safetensors")
        digests.append([hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in names])
        assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-000290", "step-000300"]
    assert digests[0] == digests[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
