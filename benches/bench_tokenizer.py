"""Tokenizer: encode and decode beside `tokenizers` and `tiktoken`.

One thread and CPU time, which a busy machine still lengthens: caches and cores are shared. Text is real:
plays and school mathematics (english), the standard library (code). "first" is a tokenizer that has seen
nothing, "again" the same texts once more. Each side uses its fastest call for a batch; ours gives one array,
tiktoken lists, tokenizers objects. Files are written from texts seen before. Where a sentencepiece model is
read, that package is beside it.
"""

from __future__ import annotations

import os
import pickle
import random
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tiktoken
import tokenizers

from tempa.data.shards import Shards, write_shards
from tempa.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
VOCAB = DATA / "gpt2-vocab.bpe", DATA / "gpt2-encoder.json"
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
SIDES = ["ours", "tiktoken", "tokenizers"]
END_ID = 50256

pytestmark = pytest.mark.skipif(
    not all(file.exists() for file in VOCAB), reason=f"no GPT-2 vocabulary in {DATA}"
)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TOKENIZERS_PARALLELISM", "false")


@cache
def saved() -> tuple[bytes, str]:
    """Ours pickled and the tokenizer.json: what a fresh tokenizer is made from."""
    ours = Tokenizer.from_gpt2(*VOCAB)
    return pickle.dumps(ours), ours._core.to_json()


def fresh(side: str) -> Any:
    ours: Tokenizer = pickle.loads(saved()[0])
    if side == "ours":
        return ours
    if side == "tokenizers":
        return tokenizers.Tokenizer.from_str(saved()[1])
    ranks = {ours.token_bytes(token): token for token in range(ours.vocab_size - 1)}
    return tiktoken.Encoding("gpt2", pat_str=GPT2, mergeable_ranks=ranks, special_tokens=ours.special_tokens)


same = cache(fresh)

ENCODE: dict[str, Callable[[Any, list[str]], Any]] = {
    "ours": lambda tokenizer, batch: tokenizer.encode_batch(batch, 1),
    "tiktoken": lambda tokenizer, batch: tokenizer.encode_ordinary_batch(batch, num_threads=1),
    "tokenizers": lambda tokenizer, batch: tokenizer.encode_batch_fast(batch, add_special_tokens=False),
}
ONE: dict[str, Callable[[Any, str], list[int]]] = {
    "ours": lambda tokenizer, text: tokenizer.encode(text),
    "tiktoken": lambda tokenizer, text: tokenizer.encode_ordinary(text),
    "tokenizers": lambda tokenizer, text: tokenizer.encode(text).ids,
}
DECODE: dict[str, Callable[[Any, list[int]], str]] = {
    "ours": lambda tokenizer, ids: tokenizer.decode(ids),
    "tiktoken": lambda tokenizer, ids: tokenizer.decode(ids),
    "tokenizers": lambda tokenizer, ids: tokenizer.decode(ids, skip_special_tokens=False),
}


def flat(side: str, result: Any) -> list[int]:
    if side == "ours":
        return result[0].tolist()
    rows = result if side == "tiktoken" else [encoding.ids for encoding in result]
    return [token for row in rows for token in row]


@pytest.fixture(scope="module")
def expected(texts: Callable[[str], list[str]]) -> Callable[[str], list[int]]:
    """What all sides must give; asserted by `test_encode` for each of them."""
    return cache(lambda kind: flat("tiktoken", ENCODE["tiktoken"](same("tiktoken"), texts(kind))))


@pytest.mark.benchmark(group="encode a batch, GPT-2 vocabulary, 1 thread", timer=time.process_time)
@pytest.mark.parametrize("seen", ["first", "again"])
@pytest.mark.parametrize("kind", ["english", "code"])
@pytest.mark.parametrize("side", SIDES)
def test_encode(benchmark, texts, expected, side, kind, seen) -> None:
    batch = texts(kind)
    assert flat(side, ENCODE[side](same(side), batch)) == expected(kind)
    benchmark.extra_info["bytes"] = sum(len(text.encode()) for text in batch)
    make = fresh if seen == "first" else same
    benchmark.pedantic(ENCODE[side], setup=lambda: ((make(side), batch), {}), rounds=5)


def to_file(side: str) -> Callable[[Any, list[str], Path], None]:
    """Ids of two bytes, each document ended: ours as checked shards, the others as one bare file."""

    def ours(tokenizer: Tokenizer, batch: list[str], path: Path) -> None:
        write_shards(path, batch, tokenizer, num_threads=1, overwrite=True)

    def bare(tokenizer: Any, batch: list[str], path: Path) -> None:
        rows = ENCODE[side](tokenizer, batch)
        with path.open("wb") as file:
            for row in rows if side == "tiktoken" else [encoding.ids for encoding in rows]:
                row.append(END_ID)
                np.array(row, np.uint16).tofile(file)

    return ours if side == "ours" else bare


@pytest.mark.benchmark(
    group="encode documents to a file, GPT-2 vocabulary, 1 thread", timer=time.process_time
)
@pytest.mark.parametrize("kind", ["english", "code"])
@pytest.mark.parametrize("side", SIDES)
def test_encode_to_file(benchmark, texts, expected, tmp_path, side, kind) -> None:
    batch, path, write = texts(kind), tmp_path / "ids", to_file(side)
    write(same(side), batch, path)
    found = (
        Shards(path).tokens(0, Shards(path).num_tokens) if side == "ours" else np.fromfile(path, np.uint16)
    )
    assert found[found != END_ID].tolist() == expected(kind)
    assert np.count_nonzero(found == END_ID) == len(batch)
    benchmark.extra_info["bytes"] = sum(len(text.encode()) for text in batch)
    benchmark.pedantic(write, (same(side), batch, path), rounds=5)


@pytest.fixture(scope="module")
def model(texts: Callable[[str], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model like Llama 2's, of fewer pieces."""
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts("english") for line in text.splitlines() if line),
            model_writer=file,
            model_type="bpe",
            vocab_size=8000,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
    return path


@pytest.mark.benchmark(group="encode with a sentencepiece model, 1 thread", timer=time.process_time)
@pytest.mark.parametrize("seen", ["first", "again"])
@pytest.mark.parametrize("side", ["ours", "sentencepiece"])
def test_encode_sentencepiece(benchmark, texts, model, side, seen) -> None:
    batch = texts("english")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    encode: dict[str, Callable[[Any], Any]] = {
        "ours": lambda tokenizer: tokenizer.encode_batch(batch, 1),
        "sentencepiece": lambda processor: processor.encode(batch, num_threads=1),
    }

    def make() -> Any:
        return Tokenizer.from_sentencepiece(model) if side == "ours" else theirs

    tokenizer = make()
    ids = flat("ours", encode["ours"](Tokenizer.from_sentencepiece(model)))
    assert ids == [token for row in theirs.encode(batch) for token in row]
    encode[side](tokenizer)
    benchmark.extra_info["bytes"] = sum(len(text.encode()) for text in batch)
    fresh_or_same = make if seen == "first" else lambda: tokenizer
    benchmark.pedantic(encode[side], setup=lambda: ((fresh_or_same(),), {}), rounds=5)


@pytest.mark.benchmark(group="encode one text to a list", timer=time.process_time)
@pytest.mark.parametrize("num_chars", [64, 1024, 16384])
@pytest.mark.parametrize("side", SIDES)
def test_encode_one(benchmark, texts, side, num_chars) -> None:
    text = "".join(texts("english"))[5000 : 5000 + num_chars]
    tokenizer = same(side)
    assert ONE[side](tokenizer, text) == same("tiktoken").encode_ordinary(text)
    benchmark(ONE[side], tokenizer, text)


@pytest.mark.benchmark(group="encode 100 kB without word boundaries", timer=time.process_time)
@pytest.mark.parametrize("kind", ["random letters", "one letter", "dashes"])
@pytest.mark.parametrize("side", SIDES)
def test_encode_hard(benchmark, side, kind) -> None:
    letters = {"random letters": "abcdefghijklmnopqrstuvwxyz", "one letter": "a", "dashes": "-"}[kind]
    text = "".join(random.Random(0).choices(letters, k=100_000))
    assert ONE[side](same(side), text) == same("tiktoken").encode_ordinary(text)
    benchmark.extra_info["bytes"] = len(text)
    benchmark.pedantic(ONE[side], setup=lambda: ((fresh(side), text), {}), rounds=3)


@pytest.mark.benchmark(group="decode", timer=time.process_time)
@pytest.mark.parametrize("kind", ["english", "code"])
@pytest.mark.parametrize("side", SIDES)
def test_decode(benchmark, texts, expected, side, kind) -> None:
    ids, text = expected(kind), "".join(texts(kind))
    assert DECODE[side](same(side), ids) == text
    benchmark.extra_info["bytes"] = len(text.encode())
    benchmark.pedantic(DECODE[side], (same(side), ids), rounds=5, warmup_rounds=1)
