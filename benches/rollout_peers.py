"""Rollouts of reinforcement learning, beside transformers and beside prompts that are not shared

    python benches/rollout_peers.py [--prompts 64] [--samples 8] [--new 256]

A Llama shape of 14M parameters with random weights, samples of each prompt at temperature 1, all processors,
seconds by the clock. First greedy tokens are compared: those of transformers with the same weights must be
the same. In the rows of bfloat16, ours has matrices and cached keys in it, transformers the whole model. "not
shared" is the same engine where every sample computes its own prompt of 512 tokens.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tempa.bench.machine import machine, versions
from tempa.bench.results import Result, merge, summary
from tempa.engine import Engine, Sampling
from tempa.model import ModelConfig, Transformer

OUT = Path(__file__).with_name("results") / "rollout_peers.json"
SHAPE = ModelConfig(
    vocab_size=8192, depth=6, width=384, num_heads=6, mlp="swiglu", mlp_width=1024, qk_norm=False,
    embedding_norm=False, norm_eps=1e-6, max_positions=1024,
)  # fmt: skip


def random_model() -> Transformer:
    model = Transformer(SHAPE)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.05, generator=generator)
    return model


def as_transformers(model: Transformer) -> Any:
    """The same weights; the bench of the engine knows how."""
    spec = importlib.util.spec_from_file_location("bench_engine", Path(__file__).with_name("bench_engine.py"))
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    return bench.as_transformers(model)


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def keep(group: str, name: str, side: str, rates: list[float]) -> None:
    median, iqr = summary(rates)
    row = Result(
        title=(__doc__ or "").splitlines()[0], group=group, name=name, side=side, unit="tokens/s",
        median=median, iqr=iqr, rounds=len(rates), ratio=None, machine=machine(),
        versions=versions("torch", "transformers"),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        command="python benches/rollout_peers.py",
    )  # fmt: skip
    merge(OUT, [row])
    print(f"{group}: {name}: {side} {median:.4g} tokens/s", flush=True)


def beside_transformers(model: Transformer, prompts: int, samples: int, new: int, rounds: int) -> None:
    ids = np.random.default_rng(0).integers(0, SHAPE.vocab_size, (prompts, 32))
    engine, theirs = Engine(model), as_transformers(model)
    some = torch.from_numpy(ids[:4])
    with torch.inference_mode():
        greedy = theirs.generate(
            some, attention_mask=torch.ones_like(some), do_sample=False, max_new_tokens=32
        )
    own = engine.generate(list(ids[:4]), Sampling(max_new_tokens=32, temperature=0))
    np.testing.assert_array_equal(greedy[:, 32:].numpy(), np.stack([one.ids for (one,) in own]))

    def peer(theirs: Any) -> None:
        tokens = torch.from_numpy(ids)
        with torch.inference_mode():
            theirs.generate(
                tokens, attention_mask=torch.ones_like(tokens), do_sample=True, top_k=0, top_p=1.0,
                num_return_sequences=samples, max_new_tokens=new, min_new_tokens=new,
            )  # fmt: skip

    brief, theirs_brief = Engine(model, weights="bfloat16"), copy.deepcopy(theirs).bfloat16()
    case = f"{prompts} prompts x {samples} samples x {new} tokens"
    sides = {
        (case, "ours"): lambda: rollout(engine, ids, samples, new),
        (case, "transformers"): lambda: peer(theirs),
        (f"{case}, bfloat16", "ours"): lambda: rollout(brief, ids, samples, new),
        (f"{case}, bfloat16", "transformers"): lambda: peer(theirs_brief),
    }
    rates: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, run in sides.items():
            rates[side].append(prompts * samples * new / seconds(run))
    for (name, side), values in rates.items():
        keep("rollouts, 14M parameters", name, side, values)


def rollout(engine: Engine, ids: np.ndarray, samples: int, new: int) -> None:
    samplings = [Sampling(max_new_tokens=new, n=samples, seed=i * samples) for i in range(len(ids))]
    engine.generate(list(ids), samplings)


def beside_not_shared(model: Transformer, prompts: int, samples: int, new: int, rounds: int) -> None:
    ids = np.random.default_rng(1).integers(0, SHAPE.vocab_size, (prompts, 512))
    shared, alone = Engine(model), Engine(model, reuses_prefixes=False)

    def apart() -> None:
        every = [one for one in ids for _ in range(samples)]
        alone.generate(every, [Sampling(max_new_tokens=new, seed=i) for i in range(len(every))])

    case = f"{prompts} prompts of 512 tokens x {samples} samples x {new} tokens"
    sides = {"ours": lambda: rollout(shared, ids, samples, new), "not shared": apart}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, run in sides.items():
            shared._scheduler = None  # nothing is left of the round before
            rates[side].append(prompts * samples * new / seconds(run))
    for side, values in rates.items():
        keep("samples that share their prompt", case, side, values)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    sizes = options.prompts, options.samples, options.new, options.rounds
    model = random_model()
    beside_transformers(model, *sizes)
    few = max(1, options.prompts // 8)
    for new in (32, options.new):
        beside_not_shared(model, few, options.samples, new, options.rounds)
    print(f"wrote {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
