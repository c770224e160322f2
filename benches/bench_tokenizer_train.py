"""Tokenizer training: merges from text beside `tokenizers`, `gigabpe` and `rustbpe`.

One thread and CPU time. Text is real: plays and school mathematics (english), the standard library (code),
the JSON lines that TEMPA_BENCH_CORPUS names (corpus), of which memory is measured too. Peers that are not
installed are left out. `gigabpe` reads a file line by line, not whole documents.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from tempa.tokenizer import Tokenizer

CORPUS = os.environ.get("TEMPA_BENCH_CORPUS")
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SIDES = ["ours", "tokenizers", "gigabpe", "rustbpe"]

Merges = list[str] | list[bytes]


def corpus() -> list[str]:
    with Path(str(CORPUS)).open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def spelled(tokenizer_json: str) -> list[str]:
    found = json.loads(tokenizer_json)["model"]["merges"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in found]


def train_ours(batch: list[str], vocab_size: int, _file: Path) -> Merges:
    tokenizer = Tokenizer.train(batch, vocab_size=vocab_size, special_tokens=(), num_threads=1)
    return spelled(tokenizer.to_json())


def train_tokenizers(batch: list[str], vocab_size: int, _file: Path) -> Merges:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(batch, trainer)
    return spelled(tokenizer.to_str())


def train_gigabpe(_batch: list[str], vocab_size: int, file: Path) -> Merges:
    import gigabpe

    _, merges = gigabpe.train_bpe(
        [str(file)], vocab_size=vocab_size, min_frequency=2, pretokenizer="bytelevel", threads=1
    )
    # It has ids for the bytes of the text only, so it learns a few merges more.
    return [" ".join(pair) for pair in merges[: vocab_size - 256]]


def train_rustbpe(batch: list[str], vocab_size: int, _file: Path) -> Merges:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(batch), vocab_size, pattern=GPT2)
    return [bytes(token) for token, _ in tokenizer.get_mergeable_ranks()]


TRAIN = {
    "ours": train_ours,
    "tokenizers": train_tokenizers,
    "gigabpe": train_gigabpe,
    "rustbpe": train_rustbpe,
}


def expected(side: str, batch: list[str], vocab_size: int, file: Path) -> Merges:
    """What we learn in the way of that side."""
    if side == "rustbpe":
        ranks = file.with_suffix(".tiktoken")
        ranks.write_text("".join(f"{b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256)))
        base = Tokenizer.from_tiktoken(ranks, pattern="gpt2", special_tokens={})
        tokenizer = Tokenizer.train(
            batch, vocab_size=vocab_size, special_tokens=(), min_frequency=1, base=base
        )
        return [tokenizer.token_bytes(token) for token in range(len(tokenizer))]
    if side == "gigabpe":
        text = file.read_bytes().decode()
        tokenizer = Tokenizer.train([text], vocab_size=vocab_size, special_tokens=(), lines=True)
        return spelled(tokenizer.to_json())
    return train_ours(batch, vocab_size, file)


def joined(batch: list[str], folder: Path) -> Path:
    file = folder / "text.txt"
    file.write_bytes("\n".join(batch).encode())
    return file


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")


def _skip_unless_installed(side: str) -> None:
    if side != "ours" and find_spec(side) is None:
        pytest.skip(f"{side} is not installed")


@pytest.mark.benchmark(group="train 16,384 tokens, 1 thread", timer=time.process_time)
@pytest.mark.parametrize("kind", ["english", "code"])
@pytest.mark.parametrize("side", SIDES)
def test_train(benchmark, texts, side, kind, tmp_path) -> None:
    _skip_unless_installed(side)
    batch = texts(kind)
    file = joined(batch, tmp_path)
    merges = benchmark.pedantic(TRAIN[side], (batch, 16384, file), rounds=3)
    assert merges == expected(side, batch, 16384, file)


@pytest.mark.skipif(CORPUS is None, reason="TEMPA_BENCH_CORPUS names no corpus")
@pytest.mark.benchmark(group="train on a corpus, 1 thread")
@pytest.mark.parametrize("vocab_size", [32000, 64000])
@pytest.mark.parametrize("side", SIDES)
def test_train_on_a_corpus(record, side, vocab_size, tmp_path) -> None:
    """Each round is a process of its own, whose memory is that above what the texts take."""
    _skip_unless_installed(side)
    batch = corpus()
    file = joined(batch, tmp_path)
    rounds = [_measured(side, vocab_size, file) for _ in range(1 if side == "tokenizers" else 3)]
    assert rounds[0][2] == expected(side, batch, vocab_size, file)
    record([elapsed_s for elapsed_s, _, _ in rounds], unit="s")
    group = "train on a corpus, memory above the texts"
    record([num_bytes for _, num_bytes, _ in rounds], unit="B", group=group)


def _measured(side: str, vocab_size: int, file: Path) -> tuple[float, int, Merges]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_train_and_measure, (side, vocab_size, file))


def _train_and_measure(side: str, vocab_size: int, file: Path) -> tuple[float, int, Merges]:
    batch = [] if side == "gigabpe" else corpus()
    Path("/proc/self/clear_refs").write_text("5")  # the high water mark starts here
    before, start_s = _status("VmRSS"), time.process_time()
    merges = TRAIN[side](batch, vocab_size, file)
    return time.process_time() - start_s, _status("VmHWM") - before, merges


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])
