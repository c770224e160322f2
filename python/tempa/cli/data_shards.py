"""Those commands of `tempa data` that read what others have made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from tempa import config
from tempa.cli.tokens import print_tokens
from tempa.data.documents import read_documents
from tempa.data.draw import Draw, Mode
from tempa.data.merge import merge_shards
from tempa.data.mixture import MANIFEST, Mixture
from tempa.data.shards import Ids, Shards
from tempa.data.survey import (
    PERCENTILES,
    Figures,
    find_tokenizer,
    measure_documents,
    measure_shards,
    sample_documents,
    sample_shards,
    shard_directories,
)
from tempa.tokenizer import Tokenizer

# A table is as wide as its columns: numbers are not cut where the terminal is narrow or there is none.
_WIDE = 1000

_Paths = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH ...")]
_Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Settings of `tempa data mixture`."""

    directory: _Directory
    """A shard directory, one with a mixture.json, or one of shard directories."""
    tokens: int
    """Predictions in the run: steps x rows x their length."""
    seq_len: int = 256
    """Predictions in a row."""
    mode: Mode = "packed"
    """"packed" fills rows with whole documents, "windows" cuts rows anywhere in the text."""
    json: bool = False
    """Print JSON, with the shares of each stage."""


def mixture(argv: list[str]) -> int:
    """What a run reads of each source, and what packing leaves unused."""
    settings = config.parse(
        MixtureConfig,
        argv,
        prog="tempa data mixture",
        description="Print what a run reads of each source, how often, and what packing leaves unused.",
    )
    found = Mixture.load(settings.directory)
    draw = Draw(
        found,
        found.open(verify=False),
        seq_len=settings.seq_len,
        mode=settings.mode,
        num_tokens=settings.tokens,
    )
    plan = draw.plan(settings.tokens)
    if settings.json:
        print(json.dumps(asdict(plan), indent=1))
        return 0
    Console(width=_WIDE).print(plan.table())
    print(f"{plan.num_tokens:,} tokens in {plan.num_rows:,} rows of {plan.seq_len}")
    for stage in plan.stages[1:]:
        shares = ", ".join(f"{name} {share:.3%}" for name, share in stage.weights.items() if share)
        print(f"from {stage.from_tokens:,} tokens on: {shares}")
    return 0


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Settings of `tempa data inspect`."""

    directory: _Directory
    """A corpus, a mixture or a shard directory."""
    document: tuple[int, ...] = (0,)
    """Numbers of the documents to print, from 0."""
    source: str | None = None
    """The only shards to look at, such as train/web."""
    tokens: bool = False
    """Print tokens instead of texts."""


def inspect(argv: list[str]) -> int:
    """Print what shards hold, compare their checksums, and decode documents; 1 if any are damaged."""
    settings = config.parse(
        InspectConfig,
        argv,
        prog="tempa data inspect",
        description="Print what shards hold, compare their checksums, and print documents.",
    )
    status = 0
    for name, directory in _chosen(settings.directory, settings.source).items():
        try:
            shards = Shards(directory)
        except (ValueError, OSError) as error:
            print(f"{name}: {error}")
            status = 1
            continue
        tokenizer = find_tokenizer(shards)
        files = json.loads((directory / MANIFEST).read_text("utf-8"))["shards"]
        num_bytes = sum((directory / file["file"]).stat().st_size for file in files)
        print(
            f"{name}: {shards.num_documents:,} documents, {shards.num_tokens:,} tokens, "
            f"{num_bytes:,} bytes in {len(files)} files, checksums right\n"
            f"  vocabulary of {shards.vocab_size:,}, tokenizer {shards.fingerprint[:12]} "
            f"{'found' if tokenizer else 'not found beside them'}"
        )
        offsets = shards.offsets()
        for index in settings.document:
            ids = shards.document(index)
            print(f"--- {name}, document {index}: tokens {offsets[index]:,} to {offsets[index + 1]:,}")
            if tokenizer and settings.tokens:
                print_tokens(tokenizer, ids.tolist())
            else:
                print(_text(tokenizer, ids))
    return status


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Settings of `tempa data sample`."""

    paths: _Paths
    """A corpus, a mixture or a shard directory, or document files and directories of them."""
    count: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 5
    """Documents to print."""
    seed: int = 0
    """Chooses them."""
    source: str | None = None
    """Shards such as train/web, or a part of the sources of documents: the only ones to draw from."""
    field: str = "text"
    """Key or column that holds the text in .jsonl and .parquet files."""


def sample(argv: list[str]) -> int:
    """Print documents at random."""
    settings = config.parse(
        SampleConfig, argv, prog="tempa data sample", description="Print random documents of shards or files."
    )
    directory = settings.paths[0]
    if _has_shards(directory):
        found = _chosen(directory, settings.source)
        parts = {name: Shards(path, verify=False) for name, path in found.items()}
        tokenizers = {name: find_tokenizer(shards) for name, shards in parts.items()}
        for name, index in sample_shards(parts, settings.count, seed=settings.seed):
            ids = parts[name].document(index)
            print(f"--- {name}, document {index}, {len(ids):,} tokens\n{_text(tokenizers[name], ids)}")
        return 0
    documents = read_documents(settings.paths, field=settings.field)
    wanted = (page for page in documents if (settings.source or "") in page.source)
    for document in sample_documents(wanted, settings.count, seed=settings.seed):
        print(f"--- {document.source}, {len(document.text):,} characters\n{document.text}")
    return 0


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """Settings of `tempa data stats`."""

    paths: _Paths
    """Corpora, mixtures or shard directories, or document files and directories of them."""
    field: str = "text"
    """Key or column that holds the text in .jsonl and .parquet files."""
    json: bool = False
    """Print JSON."""


def stats(argv: list[str]) -> int:
    """Print how much shards or files hold, and how long documents are."""
    settings = config.parse(
        StatsConfig,
        argv,
        prog="tempa data stats",
        description="Print documents, tokens, bytes, lengths and domains of shards or files.",
    )
    found = {name: figures for path in settings.paths for name, figures in _measured(path, settings.field)}
    if settings.json:
        print(json.dumps({name: asdict(figures) for name, figures in found.items()}, indent=1))
        return 0
    console = Console(width=_WIDE)
    names = [
        "documents",
        "tokens",
        "MB",
        "bytes/token",
        "mean",
        *(f"{p}%" for p in PERCENTILES),
        "longest",
        "unit",
    ]
    table = _table("source", *names)
    for name, figures in found.items():
        table.add_row(
            name,
            f"{figures.num_documents:,}",
            "" if figures.num_tokens is None else f"{figures.num_tokens:,}",
            "" if figures.num_bytes is None else f"{figures.num_bytes / 1e6:,.3f}",
            "" if figures.bytes_per_token is None else f"{figures.bytes_per_token:.3f}",
            f"{figures.mean:,.1f}",
            *(f"{length:,}" for length in figures.percentiles),
            f"{figures.longest:,}",
            figures.unit,
        )
    console.print(table)
    console.print(_histogram(found))
    for name, figures in found.items():
        if figures.domains:
            print(f"{name}: " + ", ".join(f"{domain} {count:,}" for domain, count in figures.domains))
    return 0


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """Settings of `tempa data merge`."""

    paths: _Paths
    """Shard directories of one tokenizer, in the order of their documents."""
    out: Path
    """The directory that gets the shards."""
    overwrite: bool = False
    """Replace earlier shards."""


def merge(argv: list[str]) -> int:
    """Join shard directories."""
    settings = config.parse(
        MergeConfig,
        argv,
        prog="tempa data merge",
        description="Join shard directories of one tokenizer; files are linked where that is possible.",
    )
    shards = merge_shards(settings.paths, settings.out, overwrite=settings.overwrite)
    print(f"{settings.out}: {shards.num_documents:,} documents, {shards.num_tokens:,} tokens")
    return 0


def _chosen(directory: Path, source: str | None) -> dict[str, Path]:
    found = shard_directories(directory)
    if source is None:
        return found
    if source not in found:
        raise ValueError(f"{directory}: no shards {source!r}; there are {', '.join(found)}")
    return {source: found[source]}


def _has_shards(path: Path) -> bool:
    try:
        return bool(shard_directories(path))
    except FileNotFoundError:
        return False


def _measured(path: Path, field: str) -> Iterator[tuple[str, Figures]]:
    if not _has_shards(path):
        yield str(path), measure_documents(read_documents(path, field=field))
        return
    for directory in shard_directories(path).values():
        shards = Shards(directory, verify=False)
        yield str(directory), measure_shards(shards, find_tokenizer(shards))


def _text(tokenizer: Tokenizer | None, ids: Ids) -> str:
    """What ids stand for, or the ids."""
    return tokenizer.decode(ids) if tokenizer else " ".join(map(str, ids.tolist()))


def _histogram(found: dict[str, Figures]) -> Table:
    """A line for each power of two."""
    table = _table("length", *found)
    for place in range(max(len(figures.histogram) for figures in found.values())):
        low, high = (1 << place) >> 1, (1 << place) - 1
        counts = (
            figures.histogram[place] if place < len(figures.histogram) else 0 for figures in found.values()
        )
        table.add_row(
            f"{low:,}" + (f" to {high:,}" if high > low else ""), *(f"{count:,}" for count in counts)
        )
    return table


def _table(first: str, *names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table
