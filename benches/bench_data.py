"""Corpus: duplicates, packing and batches beside plain Python and numpy.

The other side is the method written as one would in Python with numpy, and `datasets` for mixtures if it is
installed. CPU time of all threads together, so a rate is that of one core. Text is the standard library;
near duplicates are made from it by changing words.
"""

from __future__ import annotations

import bisect
import itertools
import re
import sysconfig
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tempa import _core
from tempa.data.documents import Document
from tempa.data.duplicates import Duplicates, dedup
from tempa.data.loader import Loader
from tempa.data.mixture import Mixture
from tempa.data.rules import Rules, normalize
from tempa.data.shards import Shards, ShardWriter

SIDES = ["ours", "python"]
NUM_BYTES = 4_000_000
# Enough bands that both sides find every pair, so that their results are equal.
BANDS, ROWS, NGRAM, THRESHOLD = 32, 4, 5, 0.8
SEQ_LEN, BATCH_SIZE = 1024, 32
WEIGHTS = [0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.03, 0.02]


@cache
def texts() -> list[str]:
    """Whole files, and after every third one a copy in which some lines are changed."""
    rng = np.random.default_rng(0)
    taken: list[str] = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        taken.append(file.read_text("utf-8"))
        if len(taken) % 3 == 0:
            lines = [line if rng.random() > 0.01 else f"changed {line}" for line in taken[-1].splitlines()]
            taken.append("\n".join(lines))
        if sum(map(len, taken)) > NUM_BYTES:
            break
    return taken


def num_bytes() -> int:
    return sum(len(text.encode()) for text in texts())


def near_python(batch: list[str]) -> list[int]:
    """MinHash with numpy, bands in a dictionary, exact comparison of sets; first come, first kept."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(1, 1 << 32, BANDS * ROWS, dtype=np.uint64) for _ in range(2))
    buckets: dict[Any, list[int]] = defaultdict(list)
    sets: list[set[int]] = []
    kept: list[int] = []
    for i, text in enumerate(batch):
        words = re.findall(r"[^\W_]+", text.lower())
        shingles = {hash(tuple(words[j : j + NGRAM])) for j in range(len(words) - NGRAM + 1)}
        sets.append(shingles)
        x = np.array([shingle & 0xFFFFFFFF for shingle in shingles], np.uint64)
        signature = ((x[:, None] * a + b) & np.uint64(0xFFFFFFFF)).min(0) if len(x) else np.zeros(len(a))
        keys = [(band, *signature[band * ROWS : band * ROWS + ROWS]) for band in range(BANDS)]
        candidates = sorted({j for key in keys for j in buckets[key]})
        if any(len(shingles & sets[j]) >= THRESHOLD * len(shingles | sets[j]) > 0 for j in candidates):
            continue
        kept.append(i)
        for key in keys:
            buckets[key].append(i)
    return kept


def near_ours(batch: list[str]) -> list[int]:
    settings = Duplicates(exact=False, threshold=THRESHOLD, ngram=NGRAM, bands=BANDS, rows=ROWS)
    documents = [Document(text, str(i)) for i, text in enumerate(batch)]
    return [int(document.source) for document in dedup(documents, settings)]


NEAR: dict[str, Callable[[list[str]], list[int]]] = {"ours": near_ours, "python": near_python}


@pytest.mark.benchmark(group="near duplicates, 128 hashes, compared exactly", timer=time.process_time)
@pytest.mark.parametrize("side", SIDES)
def test_near_duplicates(benchmark, side) -> None:
    assert NEAR[side](texts()) == near_expected()
    benchmark.extra_info["bytes"] = num_bytes()
    benchmark.pedantic(NEAR[side], (texts(),), rounds=5 if side == "ours" else 3)


@cache
def near_expected() -> list[int]:
    expected = near_python(texts())
    assert len(expected) < 0.9 * len(texts())
    return expected


def exact_python(batch: list[str]) -> list[int]:
    seen: set[str] = set()
    kept = []
    for i, text in enumerate(batch):
        key = " ".join(normalize_python(text).split()).lower()
        if key not in seen:
            seen.add(key)
            kept.append(i)
    return kept


def exact_ours(batch: list[str]) -> list[int]:
    first = _core.exact_duplicates(batch)
    return np.flatnonzero(first == np.arange(len(batch))).tolist()


@cache
def eval_items() -> list[str]:
    """Forty words of every tenth text, and items that no text has."""
    cut = [" ".join(re.findall(r"[^\W_]+", text)[100:140]) for text in texts()[::10]]
    other = [
        f"Where do {i} trains meet after {i + 7} hours of travel through the snow?" for i in range(20_000)
    ]
    return cut + other


def ngrams(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return zip(*(words[i:] for i in range(13)), strict=False)


@cache
def sought() -> dict[str, Any]:
    """The items as each side looks for them: an index, and a set of all n-grams."""
    return {
        "ours": _core.EvalItems(eval_items(), 13, 8, 0, 0.0),
        "python": {ngram for item in eval_items() for ngram in ngrams(item)},
    }


def contaminated_python(batch: list[str]) -> list[int]:
    items = sought()["python"]
    return [i for i, text in enumerate(batch) if any(ngram in items for ngram in ngrams(text))]


def contaminated_ours(batch: list[str]) -> list[int]:
    hits, _, _ = sought()["ours"].find(batch, 0)
    return np.unique(hits[:, 0]).tolist()


CONTAMINATED: dict[str, Callable[[list[str]], list[int]]] = {
    "ours": contaminated_ours,
    "python": contaminated_python,
}


@pytest.mark.benchmark(group="look for 20,000 items of evaluation sets", timer=time.process_time)
@pytest.mark.parametrize("side", SIDES)
def test_decontaminate(benchmark, side) -> None:
    assert 0 < len(contaminated_python(texts())) < len(texts())
    assert CONTAMINATED[side](texts()) == contaminated_python(texts())
    benchmark.extra_info["bytes"] = num_bytes()
    benchmark.pedantic(CONTAMINATED[side], (texts(),), rounds=5 if side == "ours" else 3)


SHAPE, EPOCHS, RATE, HELD_OUT = (18, 2, 0, 0), 3, 0.1, 0.2


@cache
def labelled() -> tuple[list[str], NDArray[np.bool_]]:
    """Pages of the library, those with methods apart from the others."""
    pages = [text[at : at + 2000] for text in texts() for at in range(0, len(text), 2000)]
    return pages, np.array(["self" in page for page in pages])


def classifier_numpy(pages: list[str], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The weights of AdaGrad with numpy, on features and in an order that are given; without calibration."""
    rows = [_core.text_features(page, SHAPE) for page in pages]
    part = np.flatnonzero(_core.content_hashes(pages) / 2.0**64 >= HELD_OUT)
    weights, squares = np.zeros((2, 1 << SHAPE[0]))
    bias = bias_squares = 0.0
    for epoch in range(EPOCHS):
        for i in part[_core.permutation(len(part), 0, epoch)]:
            buckets, values = rows[i]
            error = 1 / (1 + np.exp(-(weights[buckets] @ values) - bias)) - labels[i]
            squares[buckets] += (error * values) ** 2
            weights[buckets] -= RATE * error * values / (np.sqrt(squares[buckets]) + 1e-8)
            bias_squares += error**2
            bias -= RATE * error / (np.sqrt(bias_squares) + 1e-8)
    return weights


def classifier_ours(pages: list[str], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    model, _ = _core.Classifier.train(
        pages, (~labels).tolist(), ["methods", "none"], SHAPE, EPOCHS, RATE, HELD_OUT, 0
    )
    return np.frombuffer(model.encode()[-4 << SHAPE[0] :], np.float32).astype(np.float64)


TRAIN: dict[str, Callable[..., Any]] = {"ours": classifier_ours, "python": classifier_numpy}


@pytest.mark.benchmark(group="train a classifier, 3 epochs", timer=time.process_time)
@pytest.mark.parametrize("side", SIDES)
def test_train_classifier(benchmark, side) -> None:
    # Ours sums in float32.
    np.testing.assert_allclose(TRAIN[side](*labelled()), classifier_numpy(*labelled()), atol=1e-3)
    benchmark.extra_info["bytes"] = num_bytes()
    benchmark.pedantic(TRAIN[side], labelled(), rounds=5 if side == "ours" else 3)


EXACT: dict[str, Callable[[list[str]], list[int]]] = {"ours": exact_ours, "python": exact_python}


@pytest.mark.benchmark(group="exact duplicates", timer=time.process_time)
@pytest.mark.parametrize("side", SIDES)
def test_exact_duplicates(benchmark, side) -> None:
    batch = [*texts(), *(text.upper() for text in texts()[::2])]
    assert EXACT[side](batch) == exact_python(batch)
    benchmark.extra_info["bytes"] = sum(len(text.encode()) for text in batch)
    benchmark.pedantic(EXACT[side], (batch,), rounds=5)


REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u2060\ufeff\u202a-\u202e\u2066-\u2069]")


def normalize_python(text: str) -> str:
    text = re.sub("\r\n|[\r\x0b\x0c\x85\u2028\u2029]", "\n", text)
    text = re.sub("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]", " ", REMOVED.sub("", text))
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+(?=\n|\Z)", "", text)).strip("\n")
    return unicodedata.normalize("NFC", text)


NORMALIZE: dict[str, Callable[[str], str]] = {"ours": normalize, "python": normalize_python}


@pytest.mark.benchmark(group="normalise a text", timer=time.process_time)
@pytest.mark.parametrize("side", SIDES)
def test_normalize(benchmark, side) -> None:
    text = "\n".join(texts())
    assert NORMALIZE[side](text) == normalize_python(text)
    benchmark.extra_info["bytes"] = len(text.encode())
    benchmark.pedantic(NORMALIZE[side], (text,), rounds=5)


# Rules of each kind: characters, words, lines, repetition.
RULES = {
    "min_words": 50,
    "max_mean_word_length": 10,
    "max_symbol_ratio": 0.1,
    "min_alphabetic_words": 0.6,
    "min_stop_words": 2,
    "max_top_letter": 0.4,
    "min_ended_lines": 0.12,
    "max_duplicate_lines": 0.3,
    "max_duplicate_line_chars": 0.1,
    "max_top_2gram": 0.2,
    "max_duplicate_5gram": 0.5,
}
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}


def measure_python(text: str) -> Iterator[float]:
    """What each of these rules measures, one after the other."""
    words = text.split()
    count = max(len(words), 1)
    yield len(words)
    yield sum(map(len, words)) / count
    yield (text.count("#") + text.count("…") + len(re.findall(r"\.{3,}", text))) / count
    yield sum(any(map(str.isalpha, word)) for word in words) / count
    yield len(STOP_WORDS & {word.lower() for word in words})
    letters = Counter(filter(str.isalpha, text.lower()))
    yield max(letters.values(), default=0) / max(letters.total(), 1)
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    yield sum(line[-1] in ".!?…:;\"'”’»)" for line in lines) / max(len(lines), 1)
    seen: set[str] = set()
    again = [line for line in lines if line in seen or seen.add(line)]
    yield len(again) / max(len(lines), 1)
    yield sum(map(len, again)) / max(sum(map(len, lines)), 1)
    parts = re.findall(r"[^\W_]+", text.lower())
    total = max(sum(map(len, parts)), 1)
    pairs = Counter(itertools.pairwise(parts))
    times, chars = max(((times, len(a) + len(b)) for (a, b), times in pairs.items()), default=(0, 0))
    yield times * chars / total if times > 1 else 0.0
    grams: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for i in range(len(parts) - 4):
        gram = tuple(parts[i : i + 5])
        covered.update(range(i, i + 5) if gram in grams else ())
        grams.add(gram)
    yield sum(len(parts[i]) for i in covered) / total


def judge_python(batch: list[str]) -> list[str | None]:
    def first(text: str) -> str | None:
        for (rule, threshold), value in zip(RULES.items(), measure_python(text), strict=False):
            if value < threshold if rule.startswith("min_") else value > threshold:
                return rule
        return None

    return [first(normalize(text)) for text in batch]


def judge_ours(batch: list[str]) -> list[str | None]:
    names, no_edits = list(asdict(Rules.none())), [False] * len(_core.line_edits())
    _, verdicts, *_ = _core.clean_texts(batch, [*(asdict(Rules.none()) | RULES).values()], no_edits)
    return [names[rule] if rule >= 0 else None for rule in verdicts.tolist()]


JUDGE: dict[str, Callable[[list[str]], list[str | None]]] = {"ours": judge_ours, "python": judge_python}


@pytest.mark.benchmark(group="normalise and judge by 11 quality rules", timer=time.process_time)
@pytest.mark.parametrize("side", SIDES)
def test_quality_rules(benchmark, side) -> None:
    verdicts = judge_python(texts())
    assert JUDGE[side](texts()) == verdicts
    assert 0.5 < verdicts.count(None) / len(verdicts) < 1
    benchmark.extra_info["bytes"] = num_bytes()
    benchmark.pedantic(JUDGE[side], (texts(),), rounds=5 if side == "ours" else 3)


def rows_python(offsets: np.ndarray, seq_len: int) -> list[list[tuple[int, int]]]:
    """Best-fit decreasing with a sorted list of the amounts of room and a stack for each."""
    pieces = []
    for start, stop in zip(offsets[:-1].tolist(), (offsets[1:] - 1).tolist(), strict=True):
        pieces += [(at, min(at + seq_len, stop)) for at in range(start, stop, seq_len)]
    pieces.sort(key=lambda piece: piece[0] - piece[1])
    rows: list[list[tuple[int, int]]] = []
    rooms: list[int] = []
    stacks: dict[int, list[int]] = {}
    for start, stop in pieces:
        at = bisect.bisect_left(rooms, stop - start)
        if at == len(rooms):
            row, room = len(rows), seq_len
            rows.append([])
        else:
            room = rooms[at]
            row = stacks[room].pop()
            if not stacks[room]:
                del rooms[at], stacks[room]
        rows[row].append((start, stop))
        room -= stop - start
        if room not in stacks:
            stacks[room] = []
            bisect.insort(rooms, room)
        stacks[room].append(row)
    return rows


def rows_ours(offsets: np.ndarray, seq_len: int) -> list[list[tuple[int, int]]]:
    starts, stops, rows = _core.pack_rows(offsets, seq_len)
    spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
    return [spans[a:b] for a, b in zip(rows[:-1].tolist(), rows[1:].tolist(), strict=True)]


@pytest.mark.benchmark(group="plan rows, 200,000 documents", timer=time.process_time)
@pytest.mark.parametrize("side", SIDES)
def test_plan_rows(benchmark, side) -> None:
    lengths = np.random.default_rng(0).lognormal(5.5, 1.2, 200_000).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    assert rows_ours(offsets[:20_001], SEQ_LEN) == rows_python(offsets[:20_001], SEQ_LEN)
    benchmark.extra_info["documents"] = len(lengths)
    plan = {"ours": _core.pack_rows, "python": rows_python}[side]
    benchmark.pedantic(plan, (offsets, SEQ_LEN), rounds=5 if side == "ours" else 3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Ten million random tokens in documents of all lengths, in four files."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(5.5, 1.2, 20_000).astype(np.int64) + 2
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    directory = tmp_path_factory.mktemp("bench") / "shards"
    with ShardWriter(directory, "00" * 32, 50_000, max_shard_tokens=int(offsets[-1]) // 4 + 1) as writer:
        writer.add(rng.integers(0, 50_000, offsets[-1], dtype=np.uint32), offsets)
    return Shards(directory)


def windows_python(stream: np.ndarray, starts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The usual batch of random crops: one array for each row, stacked."""
    rows = [stream[start : start + SEQ_LEN + 1].astype(np.int64) for start in starts]
    x = torch.stack([torch.from_numpy(row[:-1]) for row in rows])
    y = torch.stack([torch.from_numpy(row[1:]) for row in rows])
    return x, y


@pytest.mark.benchmark(group="a batch of 32 x 1,024 tokens", timer=time.process_time)
@pytest.mark.parametrize("mode", ["packed", "windows"])
@pytest.mark.parametrize("side", SIDES)
def test_batch(benchmark, shards, side, mode) -> None:
    loader = Loader(shards, seq_len=SEQ_LEN, batch_size=BATCH_SIZE, mode=mode)
    stream = shards.tokens(0, shards.num_tokens).astype(np.uint16)
    batch = loader.batch(3)
    if mode == "windows":
        starts = starts_of(batch.ids.view(BATCH_SIZE, SEQ_LEN).numpy(), stream)

        def python() -> Any:
            return windows_python(stream, starts)
    else:
        spans, order = rows_ours(shards.offsets(), SEQ_LEN), int.from_bytes(b"roworder", "big")
        chosen = _core.permutation(len(spans), 0, order)[3 * BATCH_SIZE : 4 * BATCH_SIZE]
        pieces = [span for row in chosen for span in spans[row]]

        def python() -> Any:
            x = [stream[start:stop].astype(np.int64) for start, stop in pieces]
            y = [stream[start + 1 : stop + 1].astype(np.int64) for start, stop in pieces]
            ends = np.cumsum([0, *(len(row) for row in x)])
            return torch.from_numpy(np.concatenate(x)), torch.from_numpy(np.concatenate(y)), ends

    theirs = python()
    assert torch.equal(theirs[0].flatten(), batch.ids)
    assert torch.equal(theirs[1].flatten(), batch.targets)
    benchmark.extra_info["tokens"] = batch.num_tokens
    if side == "ours":
        benchmark(loader.batch, 3)
    else:
        benchmark(python)


def starts_of(rows: np.ndarray, stream: np.ndarray) -> list[int]:
    """Where rows begin in a random stream: their first four ids occur once."""
    starts = []
    for row in rows:
        places = np.flatnonzero(stream[:-3] == row[0])
        starts.append(next(int(at) for at in places if np.array_equal(stream[at : at + 4], row[:4])))
    return starts


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """Sources of 1.3 million random tokens, each id its source modulo their number."""
    root = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(0)
    sources = {f"source{source}": root / str(source) for source in range(len(WEIGHTS))}
    for source, directory in enumerate(sources.values()):
        offsets = np.concatenate(
            [[0], np.cumsum(rng.lognormal(5.5, 1.2, 20_000 // len(WEIGHTS)).astype(np.int64) + 2)]
        )
        with ShardWriter(directory, "00" * 32, 50_000) as writer:
            ids = rng.integers(0, 50_000 // len(WEIGHTS), offsets[-1], dtype=np.uint32)
            writer.add(ids * np.uint32(len(WEIGHTS)) + np.uint32(source), offsets)
    return Mixture(sources=sources, weights=dict(zip(sources, WEIGHTS, strict=True)))


def interleaved(mixture: Mixture) -> Iterator[torch.Tensor]:
    """Rows of one token more, drawn at random by `datasets`, stacked."""
    datasets = pytest.importorskip("datasets")
    parts = []
    for directory in mixture.sources.values():
        shards = Shards(directory)
        stream = shards.tokens(0, shards.num_tokens).astype(np.int64)
        rows = stream[: len(stream) // (SEQ_LEN + 1) * (SEQ_LEN + 1)].reshape(-1, SEQ_LEN + 1)
        part = datasets.Dataset.from_dict({"ids": rows}).with_format("numpy").to_iterable_dataset()
        parts.append(part.shuffle(seed=0, buffer_size=100).repeat(None))
    drawn = iter(datasets.interleave_datasets(parts, probabilities=WEIGHTS, seed=0))
    while True:
        yield torch.from_numpy(np.stack([next(drawn)["ids"] for _ in range(BATCH_SIZE)]))


@pytest.mark.benchmark(group="a batch of 32 x 1,024 tokens from 8 sources", timer=time.process_time)
@pytest.mark.parametrize("side", ["ours", "ours, one source", "datasets"])
def test_mixture(benchmark, mixture, shards, side) -> None:
    """The other side draws each row at random, so shares are compared: each is a mean of 9,600 rows."""
    benchmark.extra_info["tokens"] = SEQ_LEN * BATCH_SIZE
    if side == "datasets":
        batches = interleaved(mixture)

        def draw(_: int) -> torch.Tensor:
            return next(batches)
    else:
        loader = Loader(mixture if side == "ours" else shards, seq_len=SEQ_LEN, batch_size=BATCH_SIZE)

        def draw(index: int) -> torch.Tensor:
            return loader.batch(index).ids

    if side != "ours, one source":
        sources = torch.cat([draw(index).flatten() % len(WEIGHTS) for index in range(300)])
        shares = torch.bincount(sources, minlength=len(WEIGHTS)) / len(sources)
        assert shares.tolist() == pytest.approx(WEIGHTS, abs=0.02)
    indices = itertools.count()
    benchmark(lambda: draw(next(indices)))


@pytest.mark.benchmark(group="verify shards", timer=time.process_time)
def test_verify(benchmark, shards) -> None:
    benchmark.extra_info["bytes"] = sum(file.stat().st_size for file in shards.directory.glob("*.bin"))
    benchmark(Shards, shards.directory)
