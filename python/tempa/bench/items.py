"""The micro-benchmarks of `tempa bench`: one operation each, and the work that a call does.

Two items measure the machine instead: `copy` moves memory and `gemm` multiplies matrices as fast as torch
can. The other items say how much of that they reach, for the bytes or operations that their formula needs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tempa import ops
from tempa.data.packed import Packed
from tempa.engine import Engine, Sampling
from tempa.model import ModelConfig, Transformer
from tempa.sample import Sampler, Settings
from tempa.tokenizer import Tokenizer
from tempa.train.optim import Optimizer, clip_gradients
from tempa.train.settings import TrainConfig


@dataclass(frozen=True)
class Work:
    """What to time, and what one call does.

    Attributes:
        run: The call.
        amount: Units of work in one call.
        unit: Of the amount.
        needs: Bytes moved or operations done at the least, for the comparison with the ceiling.
        ceiling: "copy", "gemm", or None where neither is the limit.
        case: Sizes, for the table.
    """

    run: Callable[[], object]
    amount: float
    unit: str
    case: str
    needs: float = 0.0
    ceiling: str | None = None


def copy() -> Work:
    """Memory from one place to another, read and written bytes."""
    source, target = torch.ones(2, 64 << 20).unbind()
    num_bytes = 2 * source.nbytes
    return Work(lambda: target.copy_(source), num_bytes, "B", "256 MiB", num_bytes, "copy")


def gemm() -> Work:
    """The product of two float32 matrices."""
    size = 1536
    a, b, out = (torch.randn(size, size) for _ in range(3))
    flops = 2 * size**3
    return Work(lambda: torch.mm(a, b, out=out), flops, "FLOP", f"{size} x {size} float32", flops, "gemm")


def encode() -> Work:
    """Text to token ids, with a vocabulary trained on that text."""
    texts = _python_sources(4 << 20)
    tokenizer = Tokenizer.train(texts, vocab_size=8192)
    num_bytes = sum(len(text.encode()) for text in texts)
    return Work(lambda: tokenizer.encode_batch(texts), num_bytes, "B", f"{len(texts)} source files")


def train_tokenizer() -> Work:
    """Learning 8192 tokens from text."""
    texts = _python_sources(4 << 20)
    num_bytes = sum(len(text.encode()) for text in texts)
    return Work(lambda: Tokenizer.train(texts, vocab_size=8192), num_bytes, "B", f"{len(texts)} source files")


def rms_norm() -> Work:
    """RMSNorm of many rows, forward."""
    x, weight = torch.randn(8192, 1024), torch.ones(1024)
    num_bytes = 2 * x.nbytes

    @torch.no_grad()
    def run() -> object:
        return ops.rms_norm(x, weight)

    return Work(run, num_bytes, "B", "8192 x 1024 float32", num_bytes, "copy")


def attention() -> Work:
    """Causal attention over packed sequences, forward."""
    lengths, num_heads, head_dim = [512, 384, 256, 128], 8, 64
    spec = ops.AttentionSpec.packed(torch.tensor([0, *np.cumsum(lengths)]))
    q, k, v = torch.randn(3, sum(lengths), num_heads, head_dim).unbind()
    # Half of the pairs are causal; each takes a product with a key and one with a value.
    flops = 4 * num_heads * head_dim * sum(length * (length + 1) / 2 for length in lengths)

    @torch.no_grad()
    def run() -> object:
        return ops.attention(q, k, v, spec)

    return Work(run, sum(lengths), "tokens", "512 + 384 + 256 + 128, 8 heads of 64", flops, "gemm")


def sample() -> Work:
    """Drawing tokens from rows of logits, temperature 0.8, top-k 50, top-p 0.95."""
    num_rows, vocab_size = 16, 50304
    logits = np.random.default_rng(0).standard_normal((num_rows, vocab_size), np.float32) * 3
    sampler = Sampler(vocab_size)
    settings = Settings(temperature=0.8, top_k=50, top_p=0.95)
    handles = np.array([sampler.add(settings, seed=i) for i in range(num_rows)])
    case = f"{num_rows} rows of {vocab_size} logits"
    return Work(lambda: sampler.step(handles, logits), num_rows, "tokens", case, logits.nbytes, "copy")


def generate() -> Work:
    """Samples of one prompt by the 3m preset: one prefill, then one token for each row at a time."""
    num_rows, num_tokens = 32, 64
    engine = Engine(Transformer(ModelConfig.preset("3m", vocab_size=8192)))
    prompt, sampling = list(range(64)), Sampling(max_new_tokens=num_tokens, n=num_rows)
    case = f"{num_rows} samples of {num_tokens} after 64, vocabulary 8192"
    return Work(lambda: engine.generate([prompt], sampling), num_rows * num_tokens, "tokens", case)


def step() -> Work:
    """One training step of the 1m preset: forward, backward, Muon and AdamW."""
    config = ModelConfig.preset("1m", vocab_size=8192)
    model = Transformer(config)
    optimizer = Optimizer([("", model)], TrainConfig())
    rows = np.random.default_rng(0).integers(0, config.vocab_size, (16, 129))
    batch = Packed.from_rows(list(rows))

    def run() -> None:
        total, count = model.loss(batch)
        torch.autograd.backward(total / count)
        clip_gradients(optimizer.parameters.values(), 1.0)
        optimizer.step(1e-3)

    # Two operations a parameter forward and four backward; the tied embedding works once, as the head.
    flops = 6.0 * config.num_params * batch.num_tokens
    return Work(run, batch.num_tokens, "tokens", "16 rows of 128, vocabulary 8192", flops, "gemm")


# In the order of the table: the ceilings first.
ITEMS: dict[str, Callable[[], Work]] = {
    item.__name__: item
    for item in (copy, gemm, train_tokenizer, encode, rms_norm, attention, sample, generate, step)
}
CEILINGS = ("copy", "gemm")


def _python_sources(max_bytes: int) -> list[str]:
    """Source files of the standard library, in order of their names: text that every machine has."""
    folder = Path(inspect.getfile(inspect)).parent
    texts, size = [], 0
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        size += len(text)
        if size > max_bytes:
            break
        texts.append(text)
    if not texts:
        raise ValueError(f"{folder} holds no source of the standard library of {sys.executable}")
    return texts
