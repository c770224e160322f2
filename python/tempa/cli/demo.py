"""`tempa demo`: the whole story on this machine, ending in report.html."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tempa import config

_DESCRIPTION = """Raw text to a reasoning chat model: makes a small world, trains five models, compares them.

  tempa demo
  tempa demo --quick --out /tmp/demo

The world is invented and mixed with documentation that every Python installation has; --corpus PATH reads
your text in its place. What is told about the world is read in any case, because the later stages ask for it.
Ctrl-C saves and stops; the same command goes on from there. Exit code 1 if a stage did not learn."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of `tempa demo`.

    Attributes:
        out: The directory of all runs and of report.html.
        corpus: Text to pretrain on in place of the standard library's: a file or directory of documents.
        seed: Of the world, the models and the order of training.
        quick: A smaller world and model, in about a minute and a half.
        with_ppo: Also train a reward model and PPO.
        overwrite: Delete the demo that is in `out` and start anew.
        device: "cpu", "cuda", or "auto" for a GPU if there is one.
    """

    out: Path = Path("runs/demo")
    corpus: Path | None = None
    seed: int = 0
    quick: bool = False
    with_ppo: bool = False
    overwrite: bool = False
    device: str = "auto"


def main(name: str, argv: list[str]) -> int:
    """Run the demo; 1 if a stage did not learn."""
    options = config.parse(DemoConfig, argv, prog=f"tempa {name}", description=_DESCRIPTION)
    # Threads that wait for each other by spinning take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tempa.recipes import four_stages

    story = four_stages.demo(
        options.out,
        four_stages.QUICK if options.quick else four_stages.FULL,
        seed=options.seed,
        corpus=options.corpus,
        with_ppo=options.with_ppo,
        device=options.device,
        overwrite=options.overwrite,
    )
    for measure, cells in [("", story.models), *story.scores.items()]:
        print(f"{measure:<34}", *(f"{cell:<20}" for cell in cells))
    for claim in story.failures:
        print(f"tempa {name}: not shown: {claim}", file=sys.stderr)
    print(options.out / "report.html")
    return 1 if story.failures else 0
