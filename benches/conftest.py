"""Writes what `pytest benches` measures to `benches/results/*.json` in the schema of `tempa.bench.results`.

A bench is a pytest-benchmark test with the marker `benchmark(group="what is compared")`. Its parameter `side`
is "ours" or a peer's name; the other parameters name the case. It asserts that both sides agree, then times.
`benchmark.extra_info` may hold the work of one call, such as `bytes` or `tokens`: the result is then a rate,
of the first number there. What is not a call time is measured by the bench and handed to `record`.
"""

from __future__ import annotations

import datetime
import json
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tempa.bench import results
from tempa.bench.machine import machine, versions

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NUM_BYTES = 2_000_000
# Whose version is noted beside every result, when installed.
NOTED = (
    "torch",
    "numpy",
    "tokenizers",
    "tiktoken",
    "sentencepiece",
    "transformers",
    "datasets",
    "datasketch",
    "rensa",
    "gigabpe",
    "rustbpe",
    "cuda-bindings",
)
UNITS = {"bytes": "B/s", "flops": "FLOP/s"}

_measured: dict[Path, list[results.Result]] = defaultdict(list)
_context: dict[str, Any] = {}


@pytest.fixture(scope="session")
def texts() -> Callable[[str], list[str]]:
    """Real text: `texts("english")` is plays and school mathematics, `texts("code")` the standard library."""
    return _texts


@cache
def _texts(kind: str) -> list[str]:
    """Whole documents, `NUM_BYTES` of them."""
    if kind == "english":
        if not DATA.is_dir():
            pytest.skip(f"no data in {DATA}")
        plays = (DATA / "tinyshakespeare.txt").read_text("utf-8")
        lines = (DATA / "gsm8k-train.jsonl").read_text("utf-8").splitlines()
        sums = [f"{row['question']}\n{row['answer']}" for row in map(json.loads, lines)]
        documents = [plays[i : i + 5000] for i in range(0, NUM_BYTES // 2, 5000)] + sums
    else:
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        documents = [file.read_text("utf-8") for file in files]
    taken, size = [], 0
    for text in documents:
        if size >= NUM_BYTES:
            break
        taken.append(text)
        size += len(text.encode())
    return taken


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`record(values, unit=..., side=..., group=..., name=...)` keeps values that are not call times."""
    node = request.node
    params = dict(node.callspec.params) if hasattr(node, "callspec") else {}
    own_side = str(params.pop("side", results.OURS))
    own_name = ", ".join(
        value if isinstance(value, str) else f"{key} {value}" for key, value in params.items()
    )
    mark = node.get_closest_marker("benchmark")
    own_group = (mark.kwargs.get("group") if mark else None) or node.originalname

    def keep(
        values: float | Sequence[float],
        *,
        unit: str,
        side: str = own_side,
        group: str = own_group,
        name: str = own_name,
    ) -> None:
        values = list(values) if isinstance(values, Sequence) else [values]
        median, iqr = results.summary(values)
        if not _context:
            today = datetime.datetime.now(datetime.UTC).date().isoformat()
            _context.update(machine=machine(), versions=versions(*NOTED), date=today)
        _measured[node.path].append(
            results.Result(
                title=(request.module.__doc__ or node.path.stem).strip().splitlines()[0].rstrip("."),
                group=group,
                name=name,
                side=side,
                unit=unit,
                median=median,
                iqr=iqr,
                rounds=len(values),
                ratio=None,
                command=f"pytest benches/{node.path.name}",
                **_context,
            )
        )

    return keep


@pytest.fixture
def benchmark(benchmark: Any, record: Callable[..., None]) -> Iterator[Any]:
    """pytest-benchmark's own fixture, whose times are recorded."""
    yield benchmark
    if benchmark.stats is None:  # disabled, or the test failed before it timed anything
        return
    times = benchmark.stats.stats.data
    info = benchmark.extra_info.items()
    work = next(((unit, amount) for unit, amount in info if isinstance(amount, int | float)), None)
    if work is None:
        record(times, unit="s")
    else:
        unit, amount = work
        record([amount / time for time in times], unit=UNITS.get(unit, f"{unit}/s"))


def pytest_sessionfinish() -> None:
    for path, rows in _measured.items():
        results.merge(RESULTS / f"{path.stem}.json", rows)
