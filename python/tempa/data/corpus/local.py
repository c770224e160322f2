"""Builds on one machine: partitions on threads, and a directory from which an interrupted build goes on."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tempa import _core
from tempa.data.corpus import work as tasks
from tempa.data.corpus.config import BuildConfig, Source, Split, Steps, check_split
from tempa.data.corpus.finish import FUNNEL, Corpus, finish, make_report
from tempa.data.corpus.plan import WHOLE, Partition, Plan, make_plan
from tempa.data.corpus.runs import Run, emission_runs, emit_run
from tempa.data.corpus.work import Places
from tempa.data.documents import Document, in_batches
from tempa.data.duplicates import Duplicates
from tempa.data.funnel import FunnelReport
from tempa.data.rules import Rules
from tempa.data.staging import check_free_directory, save_json
from tempa.tokenizer import Tokenizer

# What is done, how much of it, of how much, in which unit.
Progress = Callable[[str, int, int, str], object]
# How often progress is shown.
_POLL_S = 0.1


def build_corpus(settings: BuildConfig, tokenizer: Tokenizer, *, progress: Progress | None = None) -> Corpus:
    """Build a corpus from files; see `BuildConfig`.

    What is done is kept in `.NAME.work` beside the corpus until it is finished. A build that was interrupted
    goes on from there when it is started again with the same settings and files, and gives the same shards.

    Args:
        settings: Sources, steps and places.
        tokenizer: Makes the ids.
        progress: Called with (work, done, total, unit).

    Raises:
        FileNotFoundError: If a file does not exist when the build begins.
        FileExistsError: If the directory exists and may not be replaced.
        ValueError: If no document is left, or the work directory is of a build with other settings or files.
        OSError: If the disk refuses; what is done stays for the next start.
    """
    plan = make_plan(settings, tokenizer.sha256)
    check_free_directory(settings.out, marker=FUNNEL, overwrite=settings.overwrite)
    with _work_directory(settings.out, plan) as places:
        if settings.ray:
            from tempa.data.corpus.cluster import run_on_ray

            kept, emitted, seconds = run_on_ray(plan, places, tokenizer, settings.ray, progress)
        else:
            pool = _Pool(settings.num_threads, progress)
            stagers = [tasks.stager_of(plan, number) for number in range(len(plan.sources))]
            staging = [
                partial(tasks.stage, plan, index, places, stagers[partition.source])
                for index, partition in enumerate(plan.partitions)
            ]
            pool.run("read", staging, plan.num_bytes)
            kept, emitted, seconds = _settle_and_emit(plan, places, tokenizer, pool)
        report = make_report(plan, kept, emitted, seconds)
        return finish(
            plan,
            settings.out,
            places,
            emitted,
            report,
            tokenizer,
            mixture=settings.mixture,
            overwrite=settings.overwrite,
        )


def build(
    documents: Iterable[Document],
    directory: str | Path,
    tokenizer: Tokenizer,
    *,
    rules: Rules | None = None,
    duplicates: Duplicates | None = None,
    val_fraction: float = 0.01,
    split: Split = "hash",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FunnelReport:
    """Clean documents, drop duplicates, and write a corpus.

    For files, `build_corpus` reads on all processors and goes on after an interruption; this is for documents
    that a program makes.

    Args:
        documents: What to train on; read once, and kept on disk while it is cleaned.
        directory: Where the corpus goes.
        tokenizer: Makes the ids.
        rules: Quality rules, the published ones when None; see `Rules.none`.
        duplicates: What counts as a duplicate.
        val_fraction: Share of the documents that are held out.
        split: How they are chosen: `hash` by the hash of their text, so that a document stays on its side
            when others are added or the order changes; `tail` the last `val_fraction` of the bytes, where
            the document at the cut is divided; for corpora of few long documents.
        overwrite: Replace an earlier corpus of this name.
        progress: Called with (work, done, total, unit).

    Returns:
        What was kept and dropped; also in `funnel.json`.

    Raises:
        ValueError: If no document is left, or none for one side of the split.
        FileExistsError: If the directory exists and may not be replaced.
    """
    check_split(val_fraction, split)
    steps = Steps(
        rules=Rules() if rules is None else rules,
        duplicates=Duplicates() if duplicates is None else duplicates,
        val_fraction=val_fraction,
        split=split,
    )
    out = Path(directory)
    check_free_directory(out, marker=FUNNEL, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    pool = _Pool(None, progress)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
        places = Places(Path(name))
        batches = map(_batch, in_batches(documents))
        tasks.make_stager(steps).stage_texts(batches, "", places.staged(0), _core.Work())
        sources, partitions = (Source(files=()),), (Partition(0, (("", 0, WHOLE),), 0),)
        plan = Plan(sources, steps, tokenizer.sha256, 0, partitions)
        kept, emitted, seconds = _settle_and_emit(plan, places, tokenizer, pool)
        report = make_report(plan, kept, emitted, seconds)
        return finish(plan, out, places, emitted, report, tokenizer, overwrite=overwrite).report


def _batch(documents: list[Document]) -> tasks.Batch:
    """Documents as the core takes them; those that a program made are named by their source alone."""
    texts, names = [document.text for document in documents], [document.source for document in documents]
    return texts, names, [0] * len(documents), []


def _settle_and_emit(
    plan: Plan, places: Places, tokenizer: Tokenizer, pool: _Pool
) -> tuple[tasks.Settled, list[dict[str, Any]], dict[str, float]]:
    paths = [places.staged(index) for index in range(len(plan.partitions))]
    began = time.perf_counter()
    found: list[tasks.Settled] = []
    pool.run("dedup", [lambda work: found.append(tasks.settle(plan.steps, paths, work))], 0)
    (kept,) = found
    settled = time.perf_counter()
    splits = tasks.splits(kept, plan.steps)
    emitted: dict[int, dict[str, Any]] = {}

    def emit(run: Run, work: _core.Work) -> None:
        def emit_one(index: int, left: int) -> dict[str, Any]:
            mask = kept.of(index)
            return tasks.emit(
                index, kept.documents, index, mask, splits[index], places, tokenizer, left, work
            )

        emitted.update(emit_run(run, emit_one))

    jobs = [partial(emit, run) for run in emission_runs(plan)]
    pool.run("tokenize", jobs, kept.stage.output.bytes)
    seconds = {"dedup": settled - began, "tokenize": time.perf_counter() - settled}
    return kept, [emitted[index] for index in range(len(plan.partitions))], seconds


@contextmanager
def _work_directory(out: Path, plan: Plan) -> Iterator[Places]:
    """Where a build keeps what is done; goes when the corpus is finished."""
    places = Places(out.with_name(f".{out.name}.work"))
    file = places.directory / "plan.json"
    with ExitStack() as stack:
        places.directory.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_locked(places.directory / "lock", out))
        if file.exists() and json.loads(file.read_text("utf-8")) != json.loads(json.dumps(plan.to_dict())):
            raise ValueError(
                f"{places.directory}: an earlier build with other settings, files or versions did not end; "
                f"finish it with those, or remove this directory to begin anew"
            )
        if not file.exists():
            save_json(file, plan.to_dict())
        yield places
        shutil.rmtree(places.directory)


@contextmanager
def _locked(path: Path, out: Path) -> Iterator[None]:
    """One process builds a corpus at a time; the lock of one that was killed is free."""
    try:
        import fcntl
    except ImportError:  # Windows: the lock is a convenience
        yield
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FileExistsError(f"{out}: another process is building this corpus") from None
        yield


class _Pool:
    """Threads that do tasks whose long calls leave the interpreter, and show how far they are."""

    def __init__(self, num_threads: int | None, progress: Progress | None) -> None:
        self._num_threads = num_threads or _core.num_processors()
        self._show = progress or (lambda _what, _done, _total, _unit: None)

    def run(self, what: str, jobs: Sequence[Callable[[_core.Work], object]], num_bytes: int) -> None:
        """Do all jobs, in order as far as threads are free; the first error or Ctrl-C stops the others."""
        work = _core.Work()
        with ThreadPoolExecutor(self._num_threads) as executor:
            pending: set[Future[object]] = {executor.submit(job, work) for job in jobs}
            try:
                while pending:
                    done, pending = wait(pending, _POLL_S, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    if num_bytes:
                        self._show(what, min(work.done, num_bytes), num_bytes, "bytes")
            except BaseException:
                work.cancel()
                executor.shutdown(wait=False, cancel_futures=True)
                raise
