"""Duplicates: 98 MB of real text with planted copies beside the fastest peers, each run in a fresh process

    python benches/dedup_peers.py --corpus DIR

DIR holds dedup.jsonl with "text", "kind" and "dup_of" in each line: real documents ("orig") and planted
copies of them; copies of kinds that it lacks are made of its documents and of those of cjk.jsonl. Peers are
timed if they are installed, from texts in a list to a decision for each. On one thread CPU time counts, on
two the clock. Exact sides must keep equal numbers. Near ones are judged on 6,000 documents by brute force: a
document has a duplicate if it shares at least 0.8 of its shingles, five words between white space in a row,
with another. All make signatures of 128 hashes; peers choose bands for 0.8 as they do, datatrove has ours.
It calls all documents of a cluster duplicates and compares none of them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import planted
from tempa import _core
from tempa.bench.machine import machine, versions
from tempa.bench.results import Result, merge, summary
from tempa.data.duplicates import Duplicates

OUT = Path(__file__).with_name("results") / "dedup_peers.json"
# Our default, whose shingles are not those of the peers.
WORDS = "ours, words"
THRESHOLD, NGRAM, HASHES = 0.8, 5, 128
SAMPLE = 6000
LENGTH, SUFFIX_BYTES = 100, 30_000_000
FALSE_POSITIVES = 1e-5
# The bands that datasketch's rule gives for 0.8 and 128 hashes, and those for peers whose bands must divide.
BANDS, ROWS = 9, 13
DIVIDING = 8
Flags = NDArray[np.bool_]


def shingles(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[i : i + NGRAM]) for i in range(max(len(words) - NGRAM + 1, 1))]


def near_ours(texts: list[str], unit: str = "runs") -> Flags:
    settings = Duplicates(unit="runs" if unit == "runs" else "words", threshold=THRESHOLD, ngram=NGRAM)
    _, cluster = _core.near_duplicates(texts, settings.options())
    return np.bincount(cluster, minlength=len(texts))[cluster] > 1


def near_our_words(texts: list[str]) -> Flags:
    return near_ours(texts, "words")


def near_gaoya(texts: list[str]) -> Flags:
    from gaoya.minhash import MinHashStringIndex

    index = MinHashStringIndex(
        hash_size=32, jaccard_threshold=THRESHOLD, num_bands=BANDS, band_size=ROWS, analyzer="word",
        ngram_range=(NGRAM, NGRAM), id_container="smallvec",
    )  # fmt: skip
    index.par_bulk_insert_docs(list(range(len(texts))), texts)
    return np.array([len(found) > 1 for found in index.par_bulk_query(texts)])


def near_rensa(texts: list[str]) -> Flags:
    from rensa import RMinHash, RMinHashLSH

    matrix = RMinHash.digest_matrix_from_token_sets([shingles(text) for text in texts], HASHES, 42)
    index = RMinHashLSH(THRESHOLD, HASHES, DIVIDING)
    return np.array(index.query_duplicate_flags_matrix_one_shot(matrix), bool)


def near_fastsketch(texts: list[str]) -> Flags:
    from FastSketchLSH import LSH, FastSimilaritySketch

    sketch = FastSimilaritySketch(size=HASHES).batch([shingles(text) for text in texts], num_threads=1)
    index = LSH(num_perm=HASHES, num_bands=DIVIDING, num_threads=1)
    return np.array(index.insert_and_query_duplicates(np.asarray(sketch, np.uint64)), bool)


def near_datasketch(texts: list[str]) -> Flags:
    from datasketch import MinHash, MinHashLSH

    sets = [[shingle.encode() for shingle in set(shingles(text))] for text in texts]
    index = MinHashLSH(threshold=THRESHOLD, num_perm=HASHES)
    found = np.zeros(len(texts), bool)
    for i, sketch in enumerate(MinHash.generator(sets, num_perm=HASHES)):
        others = index.query(sketch)
        found[[i, *others]] |= bool(others)
        index.insert(i, sketch, check_duplication=False)
    return found


def near_datatrove(texts: list[str]) -> Flags:
    import datatrove_steps

    found = np.zeros(len(texts), bool)
    with tempfile.TemporaryDirectory() as directory:
        found[datatrove_steps.flags(texts, Path(directory))] = True
    return found


def exact_ours(texts: list[str]) -> int:
    first = _core.exact_duplicates(texts, "bytes")
    return int((first == np.arange(len(first))).sum())


def exact_polars(texts: list[str]) -> int:
    import polars

    return polars.DataFrame({"text": texts}).unique("text").height


def exact_xxhash(texts: list[str]) -> int:
    import xxhash

    return len({xxhash.xxh3_128_digest(text.encode()) for text in texts})


def lines_of(texts: list[str]) -> list[str]:
    lines = (line.strip() for text in texts for line in re.split(r"[\r\n]", text))
    return [line for line in lines if line]


def bloom_ours(texts: list[str]) -> int:
    seen = _core.SeenPieces("line", 1, 2_100_000, FALSE_POSITIVES)
    return int(seen.count(texts).sum())


def lines_ours(texts: list[str]) -> int:
    return int(_core.SeenPieces("line", 1).count(texts).sum())


def bloom_rbloom(lines: list[str]) -> int:
    from rbloom import Bloom

    seen, known = Bloom(len(lines), FALSE_POSITIVES), 0
    for line in lines:
        if line in seen:
            known += 1
        else:
            seen.add(line)
    return known


def lines_python(lines: list[str]) -> int:
    return len(lines) - len(set(lines))


def stretches_ours(texts: list[str]) -> int:
    ranges, _ = _core.repeated_stretches(texts, LENGTH)
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def stretches_suffix_array(texts: list[str]) -> int:
    """What a suffix array with common prefixes says, cut as ours; only the making of both is timed."""
    import pydivsufsort

    data = np.frombuffer(b"\xff".join(text.encode() for text in texts), np.uint8).copy()
    start = time.process_time()
    array = pydivsufsort.divsufsort(data)
    prefixes = np.asarray(pydivsufsort.kasai(data, array))
    stretches_suffix_array.seconds = time.process_time() - start  # type: ignore[attr-defined]
    array = np.asarray(array)
    # A stretch ends with its text.
    ends = np.flatnonzero(np.append(data, 255) == 255)
    room = ends[np.searchsorted(ends, array)] - array
    places = array[room >= LENGTH]
    # Common prefix with the one before among those that have room: they stand together if it is long enough.
    linked = np.zeros(len(array), bool)
    linked[1:] = prefixes[: len(array) - 1] >= LENGTH
    group = np.cumsum(~linked)[room >= LENGTH]
    order = np.lexsort((places, group))
    is_first = np.append(True, np.diff(group[order]) != 0)
    change = np.zeros(len(data) + 1, np.int64)
    repeated = places[order][~is_first]
    np.add.at(change, repeated, 1)
    np.add.at(change, repeated + LENGTH, -1)
    marked = np.cumsum(change)[:-1] > 0
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    is_tail = np.append((data & 0xC0) == 0x80, False)
    total = 0
    for start_at, end in edges.tolist():
        while start_at < end and is_tail[start_at]:
            start_at += 1
        while end > start_at and is_tail[end]:
            end -= 1
        total += end - start_at
    return total


NEAR: dict[str, Callable[[list[str]], Flags]] = {
    "ours": near_ours, WORDS: near_our_words, "gaoya": near_gaoya, "rensa": near_rensa,
    "FastSketchLSH": near_fastsketch, "datasketch": near_datasketch,
    "datatrove": near_datatrove,
}  # fmt: skip
EXACT = {"ours": exact_ours, "polars": exact_polars, "xxhash": exact_xxhash}
BLOOM = {"ours": bloom_ours, "rbloom": bloom_rbloom}
LINES = {"ours": lines_ours, "python set": lines_python}
STRETCHES = {"ours": stretches_ours, "pydivsufsort": stretches_suffix_array}
TABLES: dict[str, dict[str, Callable[[list[str]], Any]]] = {
    "near": dict(NEAR),
    "exact": dict(EXACT),
    "bloom": dict(BLOOM),
    "lines": dict(LINES),
    "stretches": dict(STRETCHES),
}


# Too slow for all documents.
UNTIMED = ("datasketch", "datatrove")


def read(corpus: Path, name: str = "dedup.jsonl") -> list[dict[str, Any]]:
    with (corpus / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def sample(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Planted copies with their originals, two thirds at most, then other documents."""
    by_id = {row["id"]: row for row in rows}
    taken: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["kind"] != "orig" and len(taken) < SAMPLE * 2 // 3:
            taken[row["id"]], taken[row["dup_of"]] = row, by_id[row["dup_of"]]
    for row in rows:
        if row["kind"] == "orig" and len(taken) < SAMPLE:
            taken.setdefault(row["id"], row)
    return list(taken.values())


def truth(texts: list[str]) -> Flags:
    """Which texts share enough shingles with another, by the product of the incidence matrix with itself."""
    from scipy.sparse import csr_matrix

    numbers: dict[str, int] = {}
    sets = [{numbers.setdefault(shingle, len(numbers)) for shingle in shingles(text)} for text in texts]
    ends = np.cumsum([0, *map(len, sets)])
    columns = np.fromiter((number for own in sets for number in own), np.int32)
    matrix = csr_matrix((np.ones(len(columns), np.int32), columns, ends), shape=(len(texts), len(numbers)))
    sizes, found = np.diff(ends), np.zeros(len(texts), bool)
    for start in range(0, len(texts), 500):
        common = (matrix[start : start + 500] @ matrix.T).tocoo()
        i, j = common.row + start, common.col
        similar = common.data >= THRESHOLD * (sizes[i] + sizes[j] - common.data)
        found[i[similar & (i != j)]] = True
    return found


def find_more(run: Callable[[list[str]], Flags], corpus: Path) -> dict[str, float]:
    """The share of the copies that is found, of each kind that the corpus lacks."""
    originals = [row["text"] for row in read(corpus) if row["kind"] == "orig"]
    pairs = planted.plant_more(originals, [row["text"] for row in read(corpus, "cjk.jsonl")])
    found = run([text for some in pairs.values() for pair in some for text in pair])
    of_copies = found[1::2].reshape(len(pairs), planted.EACH)
    return dict(zip(pairs, of_copies.mean(1).tolist(), strict=True))


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell, in this process."""
    rows = read(Path(cell["corpus"]))
    run = TABLES[cell["task"]][cell["side"]]
    if cell["task"] == "near" and cell.get("truth"):
        rows = sample(rows)
        found, expected = run([row["text"] for row in rows]), np.load(cell["truth"])
        kinds = {
            name: float(np.mean([flag for row, flag in zip(rows, found, strict=True) if row["kind"] == kind]))
            for kind, name in planted.KINDS.items()
        }
        kinds.update(find_more(run, Path(cell["corpus"])))
        hits = int((found & expected).sum())
        return {
            "missed": 1 - hits / int(expected.sum()),
            "wrong": 1 - hits / int(found.sum()),
            "kinds": kinds,
        }
    texts = [row["text"] for row in rows]
    if cell["task"] == "stretches":
        sizes = np.cumsum([len(text.encode()) for text in texts])
        texts = texts[: int(np.searchsorted(sizes, SUFFIX_BYTES))]
    num_bytes = sum(len(text.encode()) for text in texts)
    if cell["task"] in ("bloom", "lines") and cell["side"] != "ours":
        texts = lines_of(texts)
        num_bytes = sum(len(line.encode()) for line in texts)
    if cell.get("is_spelled"):
        _core.exact_duplicates(texts, "bytes")
    clock = time.process_time if cell["threads"] == 1 else time.perf_counter
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = clock()
    out = run(texts)
    took = clock() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    # The first call also imports the peer, and spells texts beyond ASCII in UTF-8, which Python keeps.
    if cell["side"].startswith("ours") or cell["task"] != "near":
        start = clock()
        out = run(texts)
        took = clock() - start
    took = getattr(run, "seconds", took)
    return {
        "rate": num_bytes / took,
        "memory": memory,
        "out": out if isinstance(out, int) else int(out.sum()),
    }


def in_fresh_process(cell: dict[str, Any]) -> dict[str, Any]:
    names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(cell["threads"]))}
    command = [sys.executable, __file__, "--cell", json.dumps(cell)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="directory of dedup.jsonl")
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes a cell of ours; peers get one")
    parser.add_argument("--tasks", default="quality,near,exact,bloom,lines,stretches")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure(json.loads(options.cell))))
        return 0
    if options.corpus is None:
        parser.error("--corpus is needed")
    tasks = options.tasks.split(",")
    with tempfile.TemporaryDirectory() as directory:
        if "quality" in tasks:
            expected = Path(directory) / "truth.npy"
            np.save(expected, truth([row["text"] for row in sample(read(options.corpus))]))
            judge(options, expected)
    for task, group, name in (
        ("near", "near duplicates, 128 hashes", "1 thread"),
        ("exact", "exact duplicates, byte by byte", "1 thread"),
        ("bloom", "lines that occur before, Bloom filter for 1 in 100,000", "1 thread"),
        ("lines", "lines that occur before, exactly", "1 thread"),
        ("stretches", "stretches of 100 bytes that occur before, 30 MB", "1 thread"),
    ):
        if task in tasks:
            time_task(options, task, group, name)
    print(f"wrote {OUT}")
    return 0


def about() -> dict[str, Any]:
    return {
        "title": (__doc__ or "").splitlines()[0],
        "machine": machine(),
        "versions": versions("gaoya", "rensa", "fastsketchlsh", "datasketch", "datatrove", "polars", "xxhash",
                             "rbloom", "pydivsufsort", "numpy"),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "command": "python benches/dedup_peers.py",
    }  # fmt: skip


def keep(group: str, name: str, side: str, unit: str, values: list[float]) -> None:
    if side == WORDS:
        name, side = f"{name}, words without case and punctuation", "ours"
    median, iqr = summary(values)
    row = Result(
        group=group, name=name, side=side, unit=unit, median=median, iqr=iqr, rounds=len(values), ratio=None,
        **about(),
    )  # fmt: skip
    merge(OUT, [row])
    print(f"{group}: {name}: {side} {median:.4g} {unit}", flush=True)


def installed(side: str) -> bool:
    return side.startswith("ours") or side == "python set" or importlib.util.find_spec(side) is not None


def judge(options: argparse.Namespace, expected: Path) -> None:
    """What each side misses and flags in vain, and which planted copies it finds."""
    for side in filter(installed, NEAR):
        cell = {
            "corpus": str(options.corpus),
            "task": "near",
            "side": side,
            "threads": 1,
            "truth": str(expected),
        }
        got = in_fresh_process(cell)
        group = "near duplicates of brute force, 6,000 documents"
        if side != WORDS:
            keep(group, "missed, of 100", side, "documents", [100 * got["missed"]])
            keep(group, "found in vain, of 100", side, "documents", [100 * got["wrong"]])
        # Here our default stands for us, as copies may differ in what it does not look at.
        label = {WORDS: "ours", "ours": "ours, words between spaces"}.get(side, side)
        for kind, share in got["kinds"].items():
            keep("planted copies that are not found, of 100", kind, label, "documents", [100 - 100 * share])


def time_task(options: argparse.Namespace, task: str, group: str, name: str) -> None:
    outs = {}
    for threads in (1, 2) if task == "near" else (1,):
        for side in filter(installed, TABLES[task]):
            if side in UNTIMED or (threads == 2 and not side.startswith(("ours", "gaoya"))):
                continue
            cell = {"corpus": str(options.corpus), "task": task, "side": side, "threads": threads}
            got = [in_fresh_process(cell) for _ in range(options.rounds if side.startswith("ours") else 1)]
            outs[side] = got[0]["out"]
            keep(
                group,
                name if threads == 1 else f"{threads} threads",
                side,
                "B/s",
                [run["rate"] for run in got],
            )
            if threads == 1 and task in ("near", "stretches"):
                keep(f"memory beside the texts: {group}", name, side, "B", [run["memory"] for run in got])
                if side == "ours":
                    spelled = in_fresh_process({**cell, "is_spelled": True})["memory"]
                    case = "1 thread, texts that Python holds in UTF-8"
                    keep(f"memory beside the texts: {group}", case, side, "B", [spelled])
    if task in ("exact", "lines", "stretches"):
        assert len(set(outs.values())) == 1, f"{task}: {outs}"


if __name__ == "__main__":
    sys.exit(main())
