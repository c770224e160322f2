"""`tempa bench`: how fast this machine runs each part, beside what the machine can do at most."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Annotated

import tyro

from tempa import config
from tempa.bench.results import quantity, summary


@dataclass(frozen=True)
class BenchConfig:
    """What to measure.

    Attributes:
        names: Items to measure; all when none is named.
        seconds: Time spent on each item.
        threads: Threads of torch; 0 leaves its own choice.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    seconds: float = 1.0
    threads: int = 0

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"seconds must be positive, got {self.seconds}")
        if self.threads < 0:
            raise ValueError(f"threads must not be negative, got {self.threads}")


def main(name: str, argv: list[str]) -> int:
    """Measure the named items and print a table."""
    options = config.parse(BenchConfig, argv, prog=f"tempa {name}", description=__doc__ or "")
    import torch
    from rich.console import Console
    from rich.table import Table

    from tempa.bench.items import CEILINGS, ITEMS
    from tempa.bench.machine import describe, machine
    from tempa.bench.timing import measure

    unknown = [item for item in options.names if item not in ITEMS]
    if unknown:
        raise ValueError(f"unknown item {unknown[0]!r}; choose from {', '.join(ITEMS)}")
    if options.threads:
        torch.set_num_threads(options.threads)

    table = Table(
        "item", "case", "rate", "spread", "of the ceiling", box=None, pad_edge=False, header_style="bold"
    )
    ceilings: dict[str, float] = {}
    chosen = options.names or tuple(ITEMS)
    console = Console()
    with console.status("") as status:
        for item in dict.fromkeys((*CEILINGS, *chosen)):
            status.update(item)
            work = ITEMS[item]()
            times = measure(work.run, budget_s=options.seconds)
            rate, spread = summary([work.amount / time for time in times])
            if item in CEILINGS:
                ceilings[item] = rate
            share = ""
            if work.ceiling is not None and item not in CEILINGS:
                reached = work.needs / statistics.median(times) / ceilings[work.ceiling]
                share = f"{reached:.0%} of {work.ceiling}"
            unit = f"{work.unit}/s"
            table.add_row(item, work.case, quantity(rate, unit), quantity(spread, unit), share)
    console.print(f"{describe(machine())}; {torch.get_num_threads()} threads; medians", highlight=False)
    console.print(table)
    return 0
