"""Building a corpus: one .jsonl file to shards beside datatrove's steps, each in a fresh process

    python benches/build_peers.py --tokenizer DIR FILE ...

A file has a document in each line, with "text". Ours is `build_corpus` with its defaults: normalise, quality
rules, exact and near duplicates of 128 hashes, which are compared exactly, ids, shards. datatrove has its
filters of Gopher, C4 and FineWeb, near duplicates of 128 hashes, which are not compared, ids of the same
tokenizer, from the first documents of the file (`--sample-bytes`). Its rules are not ours, so the numbers of
documents that both keep are told side by side. On one thread CPU time counts, on two the clock; a rate is of
bytes of text. When the time begins, the file is in the page cache, and a side has loaded what it needs.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tempa.bench.machine import machine, versions
from tempa.bench.results import Result, merge, summary
from tempa.data.corpus import BuildConfig, build_corpus
from tempa.tokenizer import END_OF_TEXT, Tokenizer

OUT = Path(__file__).with_name("results") / "build_peers.json"
CHEAP = "datatrove, words between spaces"
PEERS = ("datatrove", CHEAP)
ONE_THREAD = "one .jsonl file to shards, 1 thread"
MEMORY = "memory above that at the start, 1 thread, whole file"
# Small enough for two threads to share one file.
PARTITION_BYTES = 8 << 20


def cpu_seconds() -> float:
    """Of this process and those that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def run_ours(cell: dict[str, Any], directory: Path) -> dict[str, Any]:
    tokenizer = Tokenizer.load(cell["tokenizer"])
    settings = BuildConfig(
        files=(Path(cell["file"]),), out=directory / "corpus", tokenizer=Path(cell["tokenizer"]),
        partition_bytes=PARTITION_BYTES, num_threads=cell["threads"],
    )  # fmt: skip
    start = cpu_seconds(), time.perf_counter(), peak_bytes()
    report = build_corpus(settings, tokenizer).report
    stages = {stage.name: stage for stage in report.stages}
    return {
        **spent(*start),
        "bytes": stages["read"].input.bytes,
        "documents": stages["read"].input.documents,
        "good": stages["clean"].output.documents,
        "left": stages["dedup"].output.documents,
        "steps": report.details.seconds,
    }


def run_datatrove(cell: dict[str, Any], directory: Path) -> dict[str, Any]:
    import datatrove_steps

    file = Path(cell["file"])
    with file.open(encoding="utf-8") as lines:
        sizes = [len(json.loads(line)["text"].encode()) for line in lines]
    tokenizer = Path(cell["tokenizer"]) / "tokenizer.json"
    first = directory / "first"
    first.mkdir()
    # It imports and loads when the first documents come.
    datatrove_steps.build(cut(file, 200_000, first), first, tokenizer, END_OF_TEXT, cell["side"] == CHEAP)
    start = cpu_seconds(), time.perf_counter(), peak_bytes()
    good, left = datatrove_steps.build(file, directory, tokenizer, END_OF_TEXT, cell["side"] == CHEAP)
    return {**spent(*start), "bytes": sum(sizes), "documents": len(sizes), "good": good, "left": left}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def spent(cpu: float, clock: float, peak: int) -> dict[str, float]:
    return {
        "cpu": cpu_seconds() - cpu,
        "clock": time.perf_counter() - clock,
        "memory": peak_bytes() - peak,
    }


def warm(file: Path) -> None:
    """Have a file in the page cache, but not in this process."""
    with file.open("rb") as opened:
        while opened.read(1 << 20):
            pass


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell, in this process."""
    warm(Path(cell["file"]))
    with tempfile.TemporaryDirectory() as directory:
        return (run_ours if cell["side"] == "ours" else run_datatrove)(cell, Path(directory))


def in_fresh_process(cell: dict[str, Any]) -> dict[str, Any]:
    environment = {**os.environ, "RAYON_NUM_THREADS": str(cell["threads"]), "DATATROVE_COLORIZE_LOGS": "0"}
    command = [sys.executable, __file__, "--cell", json.dumps(cell)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def keep(group: str, name: str, side: str, unit: str, values: list[float]) -> None:
    median, iqr = summary(values)
    row = Result(
        title=(__doc__ or "").splitlines()[0], group=group, name=name, side=side, unit=unit, median=median,
        iqr=iqr, rounds=len(values), ratio=None, machine=machine(),
        versions=versions("datatrove", "spacy", "tokenizers", "numpy"),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        command="python benches/build_peers.py",
    )  # fmt: skip
    merge(OUT, [row])
    print(f"{group}: {name}: {side} {median:.4g} {unit}", flush=True)


def cut(file: Path, num_bytes: int, directory: Path) -> Path:
    """The first documents of a file, of about so many bytes."""
    target = directory / file.name
    with file.open("rb") as lines, target.open("wb") as out:
        for line in lines:
            out.write(line)
            if out.tell() >= num_bytes:
                break
    return target


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="files of JSON lines")
    parser.add_argument("--tokenizer", type=Path, help="directory with a tokenizer.json")
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes a cell of ours; peers get one")
    parser.add_argument("--sample-bytes", type=int, default=4_000_000, help="how much of a file peers get")
    parser.add_argument(
        "--tasks", default="rates,kept", help="ours alone on whole files; both on their beginning"
    )
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure(json.loads(options.cell))))
        return 0
    if options.tokenizer is None or not options.files:
        parser.error("files and --tokenizer are needed")
    common = {"tokenizer": str(options.tokenizer), "threads": 1, "side": "ours"}
    tasks = options.tasks.split(",")
    for file in options.files:
        if "rates" in tasks:
            time_ours(file, common, options.rounds)
        if "kept" in tasks:
            with tempfile.TemporaryDirectory() as directory:
                beginning = cut(file, options.sample_bytes, Path(directory))
                beside(file.stem, {**common, "file": str(beginning)})
    print(f"wrote {OUT}")
    return 0


def time_ours(file: Path, common: dict[str, Any], rounds: int) -> None:
    """Rates, memory and the time of each kind of work, on the whole file."""
    for threads, group, clock in (
        (1, ONE_THREAD, "cpu"),
        (2, "one .jsonl file to shards, 2 threads", "clock"),
    ):
        cell = {**common, "file": str(file), "threads": threads}
        got = [in_fresh_process(cell) for _ in range(rounds)]
        keep(group, file.stem, "ours", "B/s", [run["bytes"] / run[clock] for run in got])
        if threads == 1:
            keep(MEMORY, file.stem, "ours", "B", [run["memory"] for run in got])
            for step in got[0]["steps"]:
                name = f"{file.stem}, {step}"
                keep(
                    "seconds of each kind of work, 1 thread",
                    name,
                    "ours",
                    "s",
                    [run["steps"][step] for run in got],
                )


def beside(name: str, common: dict[str, Any]) -> None:
    """The rates of peers, and what each side keeps of the same documents."""
    for side in ("ours", *(PEERS if importlib.util.find_spec("datatrove") else ())):
        got = in_fresh_process({**common, "side": side})
        if side != "ours":
            keep(ONE_THREAD, name, side, "B/s", [got["bytes"] / got["cpu"]])
        case = f"{name}, {got['documents']:,} documents"
        keep("pass the rules, of 100", case, side, "documents", [100 * got["good"] / got["documents"]])
        keep(
            "of those, copies that go, of 100",
            case,
            side,
            "documents",
            [100 - 100 * got["left"] / got["good"]],
        )


if __name__ == "__main__":
    sys.exit(main())
