"""The end of a build: shards, reports and manifest go into one directory, which appears complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempa import _core
from tempa.data.corpus.plan import Plan
from tempa.data.corpus.work import SIDES, Places, Settled
from tempa.data.funnel import Dropped, FunnelReport, Stage
from tempa.data.mixture import Mixture
from tempa.data.staging import save_json, staged_directory
from tempa.report.funnel import write_funnel_report
from tempa.tokenizer import Tokenizer

CORPUS = "corpus.json"
FUNNEL = "funnel.json"
FUNNEL_PAGE = "funnel.html"


@dataclass(frozen=True)
class Corpus:
    """A finished corpus.

    Attributes:
        directory: Where it is.
        report: What was kept and dropped.
        sha256: Names its shards: equal for equal shards, whatever made them.
        num_problems: Documents and files that could not be read; the report has the first.
    """

    directory: Path
    report: FunnelReport
    sha256: str
    num_problems: int


def make_report(
    plan: Plan, kept: Settled, emitted: list[dict[str, Any]], seconds: dict[str, float]
) -> FunnelReport:
    """Add up the reports of all partitions, and count what token budgets left out.

    Raises:
        ValueError: If no document is left, or none for one side of the split.
    """
    report = FunnelReport()
    for partition in range(len(plan.partitions)):
        report.merge(json.loads(kept.documents.report(partition)))
    report.stages.append(kept.stage)
    for what, spent in seconds.items():
        report.details.seconds[what] = report.details.seconds.get(what, 0.0) + spent
    for side in SIDES:
        found = [partition[side] for partition in emitted if partition[side]]
        units = ("documents", "bytes", "tokens")
        report.splits[side] = {unit: sum(one[unit] for one in found) for unit in units}
    if any(source.max_tokens for source in plan.sources):
        report.stages.append(_budget(kept.stage, report.splits))
    _check_sides(plan, emitted, report)
    return report


def finish(
    plan: Plan,
    directory: Path,
    places: Places,
    emitted: list[dict[str, Any]],
    report: FunnelReport,
    tokenizer: Tokenizer,
    *,
    mixture: Callable[[Path], Mixture | None] = lambda _directory: None,
    overwrite: bool,
) -> Corpus:
    """Put the corpus under its name; `mixture` says how sources below a directory are mixed.

    Raises:
        OSError: If the disk refuses; what was there before stays.
    """
    with staged_directory(directory, marker=FUNNEL, overwrite=overwrite) as staging:
        names = [source.name for source in plan.sources]
        manifests = []
        for side in SIDES:
            for number, name in enumerate(names):
                target = staging / side / name if len(names) > 1 else staging / side
                if _collect(plan, number, side, emitted, places, target, tokenizer):
                    manifests.append(target / "manifest.json")
        if mixed := mixture(staging / SIDES[0]):
            mixed.save(staging / SIDES[0])
        tokenizer.save(staging)
        sha256 = hashlib.sha256(b"".join(path.read_bytes() for path in manifests)).hexdigest()
        save_json(
            staging / CORPUS,
            {
                "sha256": sha256,
                "plan": plan.sha256(),
                "tokenizer": tokenizer.sha256,
                "sources": [name for name in names if name],
                "splits": report.splits,
                "num_problems": report.details.num_problems,
            },
        )
        report.save(staging / FUNNEL)
        write_funnel_report(staging / FUNNEL_PAGE, report.to_dict(), title=f"Funnel of {directory.name}")
    return Corpus(directory, report, sha256, report.details.num_problems)


def _collect(
    plan: Plan,
    source: int,
    side: str,
    emitted: list[dict[str, Any]],
    places: Places,
    target: Path,
    tokenizer: Tokenizer,
) -> bool:
    """Gather the files of one side of a source into a shard directory, if there are any."""
    files = [
        places.shards(partition)[SIDES.index(side)]
        for partition, made in enumerate(emitted)
        if made[side] and plan.partitions[partition].source == source
    ]
    if files:
        target.mkdir(parents=True)
    for number, file in enumerate(files):
        _link(file, target / f"shard-{number:05}.bin")
    if files:
        _core.write_shard_manifest(target, tokenizer.sha256, tokenizer.vocab_size)
    return bool(files)


def _link(file: Path, target: Path) -> None:
    """Another name for a file, or a copy where there are none."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _budget(before: Stage, splits: dict[str, dict[str, int]]) -> Stage:
    """What token budgets left out."""
    stage = Stage("budget", input=before.output)
    for split in splits.values():
        stage.output.documents += split["documents"]
        stage.output.bytes += split["bytes"]
    left = Dropped(before.output.documents - stage.output.documents, before.output.bytes - stage.output.bytes)
    if left.documents:
        stage.dropped["max_tokens"] = left
    return stage


def _check_sides(plan: Plan, emitted: list[dict[str, Any]], report: FunnelReport) -> None:
    names = ", ".join(str(file) for source in plan.sources for file in source.files[:3])
    report.raise_if_nothing_left(names or "the corpus")
    for number, source in enumerate(plan.sources):
        parts = [part for part, made in zip(plan.partitions, emitted, strict=True) if made[SIDES[0]]]
        if len(plan.sources) > 1 and all(part.source != number for part in parts):
            raise ValueError(f"source {source.name!r}: no document is left to train on; leave the source out")
    for side, what in zip(SIDES, ("training", "validation"), strict=True):
        if not report.splits[side]["documents"]:
            steps, num_documents = plan.steps, report.stages[-1].output.documents
            other = "" if steps.split == "tail" else " or split='tail'"
            raise ValueError(
                f"val_fraction {steps.val_fraction} leaves no document of {num_documents} for {what}; "
                f"choose another fraction{other}"
            )
