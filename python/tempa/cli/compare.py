"""`tempa tokenizer compare` and `export`: several tokenizers on one file, one tokenizer in some format."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tempa import config
from tempa.cli.places import AnyTokenizer, read_tokenizer
from tempa.data.documents import read_documents
from tempa.tokenizer import PackageTokenizer

# Passes over the file; the middle rate is shown.
_NUM_PASSES = 3


@dataclass(frozen=True)
class CompareConfig:
    """What to compare, and on what."""

    file: Annotated[Path, tyro.conf.Positional]
    """.txt, .jsonl or .parquet file, or a directory of them."""
    tokenizers: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TOKENIZER ...")]
    """Directories with a tokenizer.json, such files, sentencepiece .model files, or rank files whose name
    ends in .tiktoken and starts with their pattern, such as cl100k_base.tiktoken."""
    field: str = "text"
    """Key or column that holds the text in .jsonl and .parquet files."""
    num_threads: int = 1
    """Threads that encode."""


@dataclass(frozen=True)
class Measured:
    """One tokenizer on one file."""

    name: str
    vocab_size: int
    num_tokens: int
    bytes_per_token: float
    mb_per_s: float


def compare(argv: list[str]) -> int:
    """Run `tempa tokenizer compare`."""
    settings = config.parse(
        CompareConfig,
        argv,
        prog="tempa tokenizer compare",
        description="Tokens, bytes per token and speed of several tokenizers on the same documents. "
        "More bytes per token means shorter sequences; speed is the middle of three passes over the file, in "
        "megabytes of text a second.",
    )
    if not settings.tokenizers:
        raise ValueError("no tokenizer given: name at least one after the file")
    texts = [document.text for document in read_documents(settings.file, field=settings.field)]
    if not any(texts):
        raise ValueError(f"{settings.file}: there is no text in it")
    fits = [
        measure(str(place), read_tokenizer(place), texts, settings.num_threads)
        for place in settings.tokenizers
    ]
    width = max(len(fit.name) for fit in fits)
    print(f"{'tokenizer':<{width}}  {'ids':>9}  {'tokens':>13}  {'bytes per token':>15}  {'MB/s':>8}")
    for fit in sorted(fits, key=lambda fit: -fit.bytes_per_token):
        counts = f"{fit.vocab_size:>9,}  {fit.num_tokens:>13,}"
        print(f"{fit.name:<{width}}  {counts}  {fit.bytes_per_token:>15.3f}  {fit.mb_per_s:>8.1f}")
    return 0


def measure(name: str, tokenizer: AnyTokenizer, texts: Sequence[str], num_threads: int = 1) -> Measured:
    """Encode the texts a few times."""
    num_bytes = sum(len(text.encode()) for text in texts)
    times = []
    for _ in range(_NUM_PASSES):
        start = time.perf_counter()
        ids, _ = tokenizer.encode_batch(texts, num_threads)
        times.append(time.perf_counter() - start)
    rate = num_bytes / max(statistics.median(times), 1e-9) / 1e6
    return Measured(name, tokenizer.vocab_size, len(ids), num_bytes / max(len(ids), 1), rate)


@dataclass(frozen=True)
class ExportConfig:
    """What to write, and where."""

    tokenizer: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TOKENIZER")]
    """Directory with a tokenizer.json, such a file, a sentencepiece .model or a rank file of tiktoken."""
    out: Path
    """hf: a directory or a .json file. tiktoken: the rank file. gpt2: a directory."""
    format: Literal["hf", "tiktoken", "gpt2"] = "hf"
    """hf: tokenizer.json of `tokenizers` and `transformers`. tiktoken: a rank file, without pattern and
    special tokens. gpt2: vocab.json and merges.txt."""


def export(argv: list[str]) -> int:
    """Run `tempa tokenizer export`."""
    settings = config.parse(
        ExportConfig,
        argv,
        prog="tempa tokenizer export",
        description="Write a tokenizer in the format of another package, or refuse with the reason if that "
        "format cannot say what this tokenizer does.",
    )
    tokenizer = read_tokenizer(settings.tokenizer)
    out = settings.out
    if settings.format == "hf":
        tokenizer.save(out)
    elif isinstance(tokenizer, PackageTokenizer):
        raise ValueError(f"{settings.tokenizer}: only BPE has the format {settings.format}")
    elif settings.format == "tiktoken":
        tokenizer.save_tiktoken(out)
    else:
        out.mkdir(parents=True, exist_ok=True)
        tokenizer.save_gpt2(out / "merges.txt", out / "vocab.json")
    print(f"{out}: {tokenizer!r}")
    return 0
