"""Tiny Shakespeare: CPU seconds and steps to a validation loss, on one thread.

Characters are tokens, the last tenth is held out, a step reads 12 rows of 64 tokens, models have 0.8M
parameters. The loss is the mean over the whole held-out text in rows of 64, the same for every row of the
table; time counts updates, not evaluations. `python benches/bench_train.py` prints the table without pytest.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tempa.bench.machine import describe, machine
from tempa.bench.results import OURS
from tempa.train.pretrain import PretrainConfig, pretrain

# What nanoGPT's CPU configuration reaches in 2000 steps.
TARGET = 1.886
NANOGPT_STEPS = 2000
PLAIN = "plain torch loop"
ROUNDS, STEPS_A_ROUND = 5, 100
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """What one way to train came to."""

    side: str
    steps: int
    val_loss: float
    cpu_s: float
    wall_s: float


class Block(nn.Module):
    """GPT-2's block, as nanoGPT writes it: pre-norm, no biases, exact GELU."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        qkv = self.qkv(self.norm1(x)).split(C, dim=2)
        q, k, v = (y.view(B, T, self.num_heads, C // self.num_heads).transpose(1, 2) for y in qkv)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGpt(nn.Module):
    """GPT-2 with a tied head."""

    def __init__(
        self, vocab_size: int, depth: int = 4, width: int = 128, heads: int = 4, length: int = 64
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if into_residual else 0.02)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        logits = F.linear(self.norm(h), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))


def plain_loop(text: str, steps: int) -> Row:
    """nanoGPT's loop in plain torch: random windows, AdamW, warm-up and cosine, clipping."""
    torch.manual_seed(1337)
    characters = sorted(set(text))
    ids = torch.tensor([characters.index(c) for c in text])
    split = int(0.9 * len(ids))
    train, held_out = ids[:split], ids[split:]
    model = PlainGpt(len(characters))
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.99),
        fused=True,  # nanoGPT fuses on GPUs alone; here it would only be slower without
    )
    cpu, wall = time.process_time(), time.perf_counter()
    for step in range(steps):
        starts = torch.randint(len(train) - 64, (12,))
        x = torch.stack([train[i : i + 64] for i in starts])
        y = torch.stack([train[i + 1 : i + 65] for i in starts])
        done = (step - 100) / (NANOGPT_STEPS - 100)
        lr = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + 4.5e-4 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = lr
        model(x, y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    rows = (len(held_out) - 1) // 64
    x, y = held_out[: rows * 64].view(rows, 64), held_out[1 : rows * 64 + 1].view(rows, 64)
    with torch.no_grad():
        val_loss = (
            sum(float(model(a, b)) * len(a) for a, b in zip(x.split(64), y.split(64), strict=True)) / rows
        )
    return Row(PLAIN, steps, val_loss, cpu, wall)


def tempa_run(side: str, config: PretrainConfig) -> Row:
    result = pretrain(config)
    return Row(side, result.steps, result.metrics["loss"], result.train_cpu_s, result.train_s)


def nanogpt_config(data: Path, out: Path) -> PretrainConfig:
    """nanoGPT's CPU configuration."""
    return PretrainConfig(
        data=data,
        out=out,
        tokenizer="characters",
        model="nanogpt",
        mode="windows",
        seq_len=64,
        batch_size=12,
        steps=NANOGPT_STEPS,
        optimizer="adamw",
        lr=1e-3,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        warmup_steps=100,
        schedule="cosine",
        min_lr_ratio=0.1,
        clip_norm=1.0,
        eval_every=0,
        eval_tokens=0,
        save_every=0,
        precision="fp32",
        device="cpu",
    )


def modern_config(data: Path, out: Path, optimizer: str, seed: int = 0) -> PretrainConfig:
    """Rotary positions, normalised queries and keys, SwiGLU, outputs from zero; tuned rates."""
    tuned = {"muon": {"steps": 280, "lr": 0.02, "muon_lr": 0.03}, "adamw": {"steps": 600, "lr": 0.003}}
    return dataclasses.replace(
        nanogpt_config(data, out),
        model="1m",
        shape=("num_heads=2", "tied=false", "mlp=swiglu", "mlp_width=336"),
        seed=seed,
        optimizer=optimizer,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        clip_norm=0.0,
        warmup_steps=10,
        schedule="wsd",
        decay_fraction=0.8,
        min_lr_ratio=0.0,
        **tuned[optimizer],
    )


def step_times(data: Path, folder: Path) -> dict[str, list[float]]:
    """CPU seconds per step of the two ways to run nanoGPT's recipe, in turns for one state of the machine."""
    text = data.read_text()
    times: dict[str, list[float]] = {OURS: [], PLAIN: []}
    for turn in range(ROUNDS):
        config = dataclasses.replace(nanogpt_config(data, folder / f"turn{turn}"), steps=STEPS_A_ROUND)
        config = dataclasses.replace(config, eval_tokens=64)
        times[OURS].append(tempa_run(OURS, config).cpu_s / STEPS_A_ROUND)
        times[PLAIN].append(plain_loop(text, STEPS_A_ROUND).cpu_s / STEPS_A_ROUND)
    return times


def table(data: Path, folder: Path) -> list[Row]:
    """Train all four ways, the last with several seeds because it is nearest to the target."""
    return [
        plain_loop(data.read_text(), NANOGPT_STEPS),
        tempa_run("tempa, nanoGPT's recipe", nanogpt_config(data, folder / "nanogpt")),
        tempa_run("tempa, modern, AdamW", modern_config(data, folder / "adamw", "adamw")),
        *(
            tempa_run("tempa, modern, Muon", modern_config(data, folder / f"muon{seed}", "muon", seed))
            for seed in SEEDS
        ),
    ]


def find_data() -> Path | None:
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / "tinyshakespeare.txt"
    return path if path.exists() else None


@pytest.fixture
def data() -> Iterator[Path]:
    path = find_data()
    if path is None:
        pytest.skip("needs ../shared/data/tinyshakespeare.txt")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield path
    torch.set_num_threads(threads)


@pytest.mark.benchmark(group="CPU time of a step, nanoGPT's recipe")
def test_step(record: Callable[..., None], data: Path, tmp_path: Path) -> None:
    for side, times in step_times(data, tmp_path).items():
        record(times, unit="s", side=side, name="0.8M parameters, 768 tokens")


def test_time_to_loss(record: Callable[..., None], data: Path, tmp_path: Path) -> None:
    rows = table(data, tmp_path)
    plain, nanogpt, adamw, *muon = rows
    for side, runs in ((PLAIN, [plain]), (nanogpt.side, [nanogpt]), (adamw.side, [adamw]), (OURS, muon)):
        for group, unit, values in (
            ("CPU time of the updates", "s", [run.cpu_s for run in runs]),
            ("wall time of the updates", "s", [run.wall_s for run in runs]),
            ("validation loss", "nats/character", [run.val_loss for run in runs]),
            ("updates", "steps", [run.steps for run in runs]),
        ):
            record(values, unit=unit, side=side, group=group, name=f"Tiny Shakespeare to about {TARGET}")
    assert nanogpt.val_loss <= 1.89
    assert abs(nanogpt.val_loss - plain.val_loss) < 0.02
    assert max(run.val_loss for run in muon) <= TARGET
    assert max(run.cpu_s for run in muon) <= nanogpt.cpu_s / 4


def main() -> int:
    data = find_data()
    if data is None:
        print("needs ../shared/data/tinyshakespeare.txt", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    print(f"{describe(machine())}; torch {torch.__version__}; 1 thread")
    print(f"{'':<26}{'steps':>6}{'val loss':>10}{'CPU s':>8}{'wall s':>8}")
    with TemporaryDirectory() as folder:
        for row in table(data, Path(folder)):
            print(f"{row.side:<26}{row.steps:>6}{row.val_loss:>10.4f}{row.cpu_s:>8.1f}{row.wall_s:>8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
