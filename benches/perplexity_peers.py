"""Perplexity of documents under a trigram model beside KenLM, one thread

    python benches/perplexity_peers.py --corpus english.jsonl [--lmplz DIR]

The corpus has a "text" in each line; its last documents are measured, the others train. DIR holds `lmplz` and
`build_binary`, which the Python module of KenLM does not ship; without them, or the module, ours runs alone.
KenLM gets words that are lower case and separated by spaces already, one document a line, and leaves the same
n-grams out. Time is CPU time: from texts in a list to a model, and to a perplexity for each. Before that,
logarithms of perplexities are compared: they differ a little, as KenLM also predicts the end of a document.
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

from tempa import _core
from tempa.bench.machine import machine, versions
from tempa.bench.results import Result, merge, summary

OUT = Path(__file__).with_name("results") / "perplexity_peers.json"
ORDER = 3
MEASURED_BYTES = 10_000_000
ROUNDS = 5
WORD = re.compile(r"[^\W_]+")


def cpu_seconds(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the CPU time of this process and those it starts."""

    def spent() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    start = spent()
    out = run()
    return out, spent() - start


def keep(group: str, name: str, side: str, unit: str, values: list[float]) -> None:
    median, iqr = summary(values)
    row = Result(
        title=(__doc__ or "").splitlines()[0], group=group, name=name, side=side, unit=unit, median=median,
        iqr=iqr, rounds=len(values), ratio=None, machine=machine(), versions=versions("kenlm"),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        command="python benches/perplexity_peers.py",
    )  # fmt: skip
    merge(OUT, [row])
    print(f"{group}: {name}: {side} {median:.4g} {unit}", flush=True)


def size_of(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def ours(train: list[str], measured: list[str], case: str) -> np.ndarray:
    model, seconds = cpu_seconds(lambda: _core.NgramModel.train(train, ORDER, 1, 2))
    keep("train a trigram model", case, "ours", "B/s", [size_of(train) / seconds])
    keep("size of the model", case, "ours", "B", [float(len(model.encode()))])
    rounds = [cpu_seconds(lambda: model.perplexities(measured)) for _ in range(ROUNDS)]
    rates = [size_of(measured) / seconds for _, seconds in rounds]
    keep("perplexity of documents", case, "ours", "B/s", rates)
    found: np.ndarray = rounds[0][0]
    return found


def kenlm(train: list[str], measured: list[str], case: str, programs: Path, expected: np.ndarray) -> None:
    import kenlm

    lines = [" ".join(WORD.findall(text.lower())) for text in train]
    asked = [" ".join(WORD.findall(text.lower())) for text in measured]
    with tempfile.TemporaryDirectory() as name:
        arpa, binary = Path(name, "arpa"), Path(name, "binary")
        command = [programs / "lmplz", "-o", str(ORDER), "--prune", "0", "0", "1", "-S", "4G", "-T", name]

        def estimate() -> None:
            text = "\n".join(lines).encode()
            subprocess.run([*command, "--arpa", arpa], input=text, check=True, capture_output=True)
            pack = [programs / "build_binary", "probing", arpa, binary]
            subprocess.run(pack, check=True, capture_output=True)

        _, seconds = cpu_seconds(estimate)
        keep("train a trigram model", case, "kenlm", "B/s", [size_of(train) / seconds])
        keep("size of the model", case, "kenlm", "B", [float(binary.stat().st_size)])
        model = kenlm.Model(str(binary))

        def score() -> np.ndarray:
            return np.array([model.score(text, eos=False) for text in asked])

        rounds = [cpu_seconds(score) for _ in range(ROUNDS)]
        words = np.array([max(len(text.split()), 1) for text in asked])
        theirs, own = -rounds[0][0] * np.log(10) / words, np.log(expected)
        away = np.abs(theirs - own)[np.isfinite(own)]
        print(f"log perplexities: ours {np.median(own):.4f}, theirs {np.median(theirs):.4f}; "
              f"median distance {np.median(away):.4f}, 95% below {np.quantile(away, 0.95):.4f}")  # fmt: skip
        if np.median(away) > 0.02:
            raise SystemExit("the models do not agree")
        rates = [size_of(measured) / seconds for _, seconds in rounds]
        keep("perplexity of documents", case, "kenlm", "B/s", rates)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--lmplz", type=Path, help="directory of the programs")
    options = parser.parse_args()
    if os.environ.get("RAYON_NUM_THREADS") != "1":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "RAYON_NUM_THREADS": "1"})
    with options.corpus.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    cut, left = len(texts), MEASURED_BYTES
    while cut and left > 0:
        cut -= 1
        left -= len(texts[cut].encode())
    case = f"{options.corpus.stem}, {size_of(texts[:cut]) / 1e6:.0f} MB"
    found = ours(texts[:cut], texts[cut:], case)
    if options.lmplz and importlib.util.find_spec("kenlm"):
        kenlm(texts[:cut], texts[cut:], case, options.lmplz, found)
    print(f"wrote {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
