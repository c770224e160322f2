"""Those commands of `tempa data` that read shards."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from tempa import config
from tempa.data.draw import Draw, Mode
from tempa.data.mixture import Mixture

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
    console = Console()
    console.print(plan.table())
    print(f"{plan.num_tokens:,} tokens in {plan.num_rows:,} rows of {plan.seq_len}")
    for stage in plan.stages[1:]:
        shares = ", ".join(f"{name} {share:.4%}" for name, share in stage.weights.items() if share)
        print(f"from {stage.from_tokens:,} tokens on: {shares}")
    return 0
