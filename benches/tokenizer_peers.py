"""Tokenizer: encoding 100 MB of real text beside the fastest peers, each measurement in a fresh process

    python benches/tokenizer_peers.py --corpus DIR --ranks cl100k_base.tiktoken

DIR holds english.jsonl, code.jsonl, multi.jsonl, cjk.jsonl and mixed.jsonl with a "text" in each line. Peers
are timed if they are installed (gigatoken, fastokens, tiktoken, tokenizers). All use the vocabulary of the
rank file with cl100k's pattern. "first" is a tokenizer that has seen nothing, "steady" the second half of the
text after the first half, "again" the same text once more. On one thread CPU time counts, on two the clock.
Before anything is timed, the ids of all sides are compared on each part.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.util
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tempa.bench.machine import machine, versions
from tempa.bench.results import Result, merge, summary
from tempa.tokenizer import Tokenizer

OUT = Path(__file__).with_name("results") / "tokenizer_peers.json"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PARTS = ("english", "code", "multi", "cjk", "mixed")
Encode = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Setup:
    """What a side is made from."""

    ranks: str
    file: str
    threads: int


def ours(setup: Setup) -> Encode:
    tokenizer = Tokenizer.from_tiktoken(setup.ranks, pattern="cl100k", special_tokens={})
    return lambda texts: tokenizer.encode_batch(texts, setup.threads)


def our_lists(setup: Setup) -> Encode:
    tokenizer = Tokenizer.from_tiktoken(setup.ranks, pattern="cl100k", special_tokens={})
    return lambda texts: tokenizer.encode_lists(texts, setup.threads)


def gigatoken(setup: Setup) -> Encode:
    import gigatoken

    tokenizer = gigatoken.Tokenizer.from_tiktoken(setup.ranks)
    return lambda texts: tokenizer.encode_batch(texts, parallel=setup.threads > 1)


def our_call(setup: Setup) -> Callable[[str], Any]:
    return Tokenizer.from_tiktoken(setup.ranks, pattern="cl100k", special_tokens={}).encode


def gigatoken_call(setup: Setup) -> Callable[[str], Any]:
    import gigatoken

    encode: Callable[[str], Any] = gigatoken.Tokenizer.from_tiktoken(setup.ranks).encode
    return encode


def fastokens(setup: Setup) -> Encode:
    import fastokens

    tokenizer = fastokens._native.Tokenizer.from_file(setup.file)
    return lambda texts: [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]


def tiktoken(setup: Setup) -> Encode:
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    mergeable = load_tiktoken_bpe(setup.ranks)
    encoding = tiktoken.Encoding("cl100k", pat_str=CL100K, mergeable_ranks=mergeable, special_tokens={})
    return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=setup.threads)


def tokenizers(setup: Setup) -> Encode:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(setup.file)
    return lambda texts: [each.ids for each in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


# Sides that give arrays and sides that give lists; the first of each is ours.
ARRAYS = {"ours": ours, "gigatoken": gigatoken}
LISTS = {"ours": our_lists, "fastokens": fastokens, "tiktoken": tiktoken, "tokenizers": tokenizers}


# A call with one text.
ONE: dict[str, Callable[[Setup], Callable[[str], Any]]] = {"ours": our_call, "gigatoken": gigatoken_call}


def digest(out: Any) -> str:
    """A hash of all ids in order, whatever they are wrapped in."""
    if isinstance(out, tuple):
        flat = out[0]
    elif isinstance(out, list):
        flat = np.fromiter((token for row in out for token in row), np.uint32)
    else:
        import awkward

        flat = np.asarray(awkward.to_packed(out).layout.content.data)
    return hashlib.sha256(np.ascontiguousarray(flat, np.uint32).tobytes()).hexdigest()


def read_part(corpus: Path, part: str) -> list[str]:
    with (corpus / f"{part}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def hard_texts() -> dict[str, str]:
    """Texts without the boundaries that tokenizers live on."""
    draw = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"

    def drawn(alphabet: Sequence[str], count: int) -> str:
        return "".join(draw.choices(alphabet, k=count))

    return {
        "one letter": "a" * 1_000_000,
        "spaces": " " * 1_000_000,
        "spaces and a letter": " " * 1_000_000 + "x",
        "line ends": "\n" * 1_000_000,
        "carets": "^" * 1_000_000,
        "dashes": "-" * 1_000_000,
        "digits": "7" * 1_000_000,
        "random letters": drawn(letters, 1_000_000),
        "random base64": drawn(letters + letters.upper() + "0123456789+/", 1_000_000),
        "random hexadecimal": drawn("0123456789abcdef", 1_000_000),
        "random Chinese": drawn([chr(code) for code in range(0x4E00, 0x9FA5)], 300_000),
        "random Thai": drawn([chr(code) for code in range(0xE01, 0xE3A)], 300_000),
        "joined emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 20_000,
        "combining marks": "a\u0301\u0302\u0303" * 100_000,
        "zero bytes": "\x00" * 300_000,
        "CR LF": "\r\n" * 300_000,
        "tabs and spaces": "\t " * 250_000,
        "changing case": "aB" * 250_000,
        "private use": "\ue000\U000f0000" * 50_000,
        "contractions": "'s" * 150_000,
    }


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell, in this process."""
    make = (LISTS if cell["lists"] else ARRAYS)[cell["side"]]
    setup = Setup(cell["ranks"], cell["file"], cell["threads"])
    encode = make(setup)
    clock = time.process_time if cell["threads"] == 1 else time.perf_counter

    def rate(texts: list[str]) -> float:
        num_bytes = sum(len(text.encode()) for text in texts)
        start = clock()
        out = encode(texts)
        took = clock() - start
        del out
        return num_bytes / took

    encode(["start what starts late " * 3] * 8)
    if cell["kind"] == "hard":
        rates = {name: rate([text]) for name, text in hard_texts().items()}
        name = min(rates, key=rates.__getitem__)
        return {"rate": rates[name], "note": name}
    if cell["kind"] == "latency":
        text = "\n".join(read_part(Path(cell["corpus"]), "english")[:50])[: cell["chars"]]
        assert len(text) == cell["chars"], "the first documents are too short"
        encode_one = ONE[cell["side"]](setup)
        for _ in range(200):
            encode_one(text)
        times = []
        for _ in range(3000):
            start = time.perf_counter()
            encode_one(text)
            times.append(time.perf_counter() - start)
        return {"seconds": summary(times)[0]}
    texts = read_part(Path(cell["corpus"]), cell["part"])
    if cell["kind"] == "digest":
        return {"digest": digest(encode(texts))}
    if cell["kind"] == "memory":
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ids, offsets = encode(texts)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"bytes": (after - before) * 1024 - ids.nbytes - offsets.nbytes}
    if cell["kind"] == "steady":
        rate(texts[: len(texts) // 2])
        return {"rate": rate(texts[len(texts) // 2 :])}
    first = rate(texts)
    return {"rate": first if cell["kind"] == "first" else max(rate(texts), rate(texts))}


def in_fresh_process(cell: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--cell", json.dumps(cell)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="directory of the five .jsonl files")
    parser.add_argument("--ranks", type=Path, help="rank file of cl100k")
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes a cell (default 5)")
    parser.add_argument("--only", default="", help="only rows with this in their title; the others stay")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure(json.loads(options.cell))))
        return 0
    if options.corpus is None or options.ranks is None:
        parser.error("--corpus and --ranks are needed")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "tokenizer.json"
        Tokenizer.from_tiktoken(options.ranks, pattern="cl100k", special_tokens={}).save(file)
        saved = json.loads(file.read_text("utf-8"))
        # Not all read merges that are joined by a space.
        saved["model"]["merges"] = [merge.split(" ") for merge in saved["model"]["merges"]]
        file.write_text(json.dumps(saved), "utf-8")
        measure_all(options, file)
    print(f"wrote {OUT}")
    return 0


def measure_all(options: argparse.Namespace, file: Path) -> None:
    """All cells; each is kept as soon as it is measured."""
    common = {"corpus": str(options.corpus), "ranks": str(options.ranks), "file": str(file), "threads": 1}
    arrays, lists = (
        [side for side in sides if side == "ours" or importlib.util.find_spec(side)]
        for sides in (ARRAYS, LISTS)
    )
    for part in PARTS[:-1]:
        cells = [(side, False) for side in arrays] + [(side, True) for side in lists if side != "tokenizers"]
        digests = {
            (side, is_list): in_fresh_process(
                {**common, "kind": "digest", "part": part, "side": side, "lists": is_list}
            )["digest"]
            for side, is_list in cells
        }
        assert len(set(digests.values())) == 1, f"{part}: ids differ: {digests}"
    about = {
        "title": (__doc__ or "").splitlines()[0],
        "machine": machine(),
        "versions": versions(*ARRAYS, *LISTS, "numpy"),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "command": "python benches/tokenizer_peers.py",
    }

    def add(group: str, name: str, sides: list[str], unit: str, key: str, **cell: Any) -> None:
        if options.only not in f"{group}: {name}":
            return
        for side in sides:
            rounds = 1 if side == "tokenizers" else options.rounds
            values = [in_fresh_process({**common, "side": side, **cell})[key] for _ in range(rounds)]
            median, iqr = summary(values)
            row = Result(
                group=group, name=name, side=side, unit=unit, median=median, iqr=iqr, rounds=rounds,
                ratio=None, **about,
            )  # fmt: skip
            merge(OUT, [row])
            print(f"{group}: {name}: {side} {median:.4g} {unit}", flush=True)

    for part in PARTS:
        for kind in ("first", "steady", "again"):
            cell = {"kind": kind, "part": part, "lists": False}
            add("arrays, 1 thread", f"{part}, {kind}", arrays, "B/s", "rate", **cell)
    for part, kind in (("english", "steady"), ("english", "again"), ("cjk", "steady")):
        cell = {"kind": kind, "part": part, "lists": True}
        add("lists, 1 thread", f"{part}, {kind}", lists, "B/s", "rate", **cell)
    for kind in ("first", "again"):
        cell = {"kind": kind, "part": "mixed", "lists": False, "threads": 2}
        add("arrays, 2 threads", f"mixed, {kind}", arrays, "B/s", "rate", **cell)
    hard = {"kind": "hard", "lists": False}
    add("worst of twenty hard texts", "1 thread", arrays, "B/s", "rate", **hard)
    for chars in (64, 1024, 16384):
        cell = {"kind": "latency", "chars": chars, "lists": False}
        add("a call with one text, known pieces", f"{chars} characters", arrays, "s", "seconds", **cell)
    memory = {"kind": "memory", "part": "mixed", "lists": False}
    add("memory beside text and ids", "mixed", ["ours"], "B", "bytes", **memory)


if __name__ == "__main__":
    sys.exit(main())
