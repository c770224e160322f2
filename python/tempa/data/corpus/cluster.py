"""Builds on a Ray cluster: the same work as on one machine, by tasks that read and write the work directory.

Near duplicates are found in three exchanges. Each partition is signed where it is read. A task for each band
sorts that band of all signatures and gives back the groups that agree. What the groups connect is decided in
parts that do not depend on one another. The shards are those of one machine, byte for byte.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.data.corpus import work as tasks
from tempa.data.corpus.plan import Plan
from tempa.data.corpus.runs import Run, emission_runs, emit_run
from tempa.data.corpus.work import Places
from tempa.tokenizer import Tokenizer

Progress = Callable[[str, int, int, str], object]
# Parts in which groups are decided, for each processor of the cluster.
_PARTS = 2
_TOKENIZER = "tokenizer"


def run_on_ray(
    plan: Plan, places: Places, tokenizer: Tokenizer, address: str, progress: Progress | None
) -> tuple[tasks.Settled, list[dict[str, Any]], dict[str, float]]:
    """Do a build's work on a cluster.

    Args:
        plan: What is done.
        places: The work directory, on a file system that all machines share.
        tokenizer: Makes the ids.
        address: Of the cluster, or `local` to start one on this machine.
        progress: Called with (work, done, total, unit).

    Returns:
        Which documents are kept, what each partition's shards hold, and seconds of each kind of work.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise ModuleNotFoundError("builds on a cluster need Ray: pip install 'tempa[ray]'") from None
    is_own = not ray.is_initialized()
    if is_own:
        ray.init(None if address == "local" else address, include_dashboard=None, log_to_driver=False)
    try:
        tokenizer.save(places.directory / _TOKENIZER)
        return _run(ray, plan, places, progress or (lambda _what, _done, _total, _unit: None))
    finally:
        if is_own:
            ray.shutdown()


def _run(
    ray: Any, plan: Plan, places: Places, show: Progress
) -> tuple[tasks.Settled, list[dict[str, Any]], dict[str, float]]:
    shared_plan = ray.put(plan)
    count = len(plan.partitions)
    jobs = {
        ray.remote(_stage).remote(shared_plan, index, places): plan.partitions[index].num_bytes
        for index in range(count)
    }
    _gather(ray, jobs, "read", show)
    began = time.perf_counter()
    paths = [places.staged(index) for index in range(count)]
    kept = _settle(ray, plan, paths)
    settled = time.perf_counter()
    splits = tasks.splits(kept, plan.steps)
    sizes = np.diff(kept.documents.starts)
    masks = ray.put(kept.is_kept)
    starts = kept.documents.starts
    emitting = {}
    for run in emission_runs(plan):
        arguments = [
            (paths[index], int(starts[index]), int(starts[index + 1]), splits[index]) for index in run[0]
        ]
        job = ray.remote(_emit).remote(run, arguments, masks, places)
        emitting[job] = int(sum(sizes[index] for index in run[0]))
    made = dict(pair for pairs in _gather(ray, emitting, "tokenize", show) for pair in pairs)
    seconds = {"dedup": settled - began, "tokenize": time.perf_counter() - settled}
    return kept, [made[index] for index in range(count)], seconds


def _gather(ray: Any, jobs: dict[Any, int], what: str, show: Progress) -> list[Any]:
    """The results of all tasks, in their order; the first error or Ctrl-C stops the others."""
    pending, done, total = list(jobs), 0, sum(jobs.values())
    unit = "bytes" if what == "read" else "documents"
    try:
        while pending:
            ready, pending = ray.wait(pending, timeout=1.0)
            for job in ready:
                ray.get(job)
                done += jobs[job]
            show(what, done, total, unit)
    except BaseException:
        for job in pending:
            ray.cancel(job)
        raise
    results: list[Any] = ray.get(list(jobs))
    return results


def _stage(plan: Plan, index: int, places: Places) -> None:
    stager = tasks.stager_of(plan, plan.partitions[index].source)
    tasks.stage(plan, index, places, stager, _core.Work())


def _settle(ray: Any, plan: Plan, paths: list[Path]) -> tasks.Settled:
    """What `work.settle` does on one machine, with near duplicates found by tasks."""
    duplicates = plan.steps.duplicates
    if not duplicates.near:
        return tasks.settle(plan.steps, paths, _core.Work())
    documents, reasons, by = tasks.settle_all_but_near(plan.steps, paths, _core.Work())
    similar, keep = duplicates.options(), duplicates.keep
    among = np.flatnonzero(reasons == 0).astype(np.uint32)
    same, distinct = documents.distinct(among, similar, keep)
    shared_distinct = ray.put(distinct)
    bands, _ = duplicates.layout()
    groups = ray.put(
        ray.get([ray.remote(_groups).remote(paths, band, shared_distinct, similar) for band in range(bands)])
    )
    num_parts = max(1, int(ray.cluster_resources().get("CPU", 1)) * _PARTS)
    decided = ray.get(
        [
            ray.remote(_decide).remote(paths, groups, (part, num_parts), similar, keep)
            for part in range(num_parts)
        ]
    )
    stands = np.arange(len(documents), dtype=np.int64)
    for found in decided:
        stands[found[:, 0]] = found[:, 1]
    stands = stands[same]
    is_near = stands != np.arange(len(documents))
    reasons[is_near] = tasks.REASONS.index("near") + 1
    by[is_near] = stands[is_near]
    return tasks.count_settled(documents, reasons, by)


def _groups(
    paths: Sequence[Path], band: int, distinct: NDArray[np.uint32], similar: Any
) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    return _core.StagedDocuments(paths).band_groups(band, distinct, similar)


def _decide(
    paths: Sequence[Path], groups: Any, part: tuple[int, int], similar: Any, keep: str
) -> NDArray[np.uint32]:
    return _core.StagedDocuments(paths).decide(groups, part, similar, keep, _core.Work())


# The file of a partition, its first document among all and the one behind its last, what is held out of it.
Argument = tuple[Path, int, int, tasks.SplitOf]


def _emit(
    run: Run, arguments: list[Argument], is_kept: NDArray[np.bool_], places: Places
) -> list[tuple[int, dict[str, Any]]]:
    tokenizer = _tokenizer(places.directory / _TOKENIZER)

    def emit_one(index: int, left: int) -> dict[str, Any]:
        path, start, stop, split = arguments[run[0].index(index)]
        documents = _core.StagedDocuments([path])
        return tasks.emit(
            index, documents, 0, is_kept[start:stop], split, places, tokenizer, left, _core.Work()
        )

    return list(emit_run(run, emit_one))


@lru_cache(maxsize=1)
def _tokenizer(path: Path) -> Tokenizer:
    """Read once by each process."""
    return Tokenizer.load(path)
