"""`tempa tokenizer train`, run as a user runs it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tempa import cli
from tempa.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat\n" * 20, "THE DOG SAT ON THE LOG\n" * 20]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name, text in zip(("a", "b"), TEXTS, strict=True):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    return tmp_path


def train(argv: list[object], out: Path) -> Tokenizer:
    assert cli.run(["tokenizer", "train", *map(str, argv), "--out", str(out)]) == 0
    return Tokenizer.load(out)


def test_a_pattern_stands_for_the_files_that_match(corpus: Path) -> None:
    found = train([corpus / "*.jsonl", "--vocab-size", 300], corpus / "out")
    assert found == Tokenizer.train(TEXTS, vocab_size=300)


def test_compressed_files_are_learned_from_like_plain_ones(corpus: Path) -> None:
    for name in "ab":
        plain = corpus / f"{name}.jsonl"
        (corpus / f"{name}.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    assert train([corpus, "--vocab-size", 300], corpus / "out") == Tokenizer.train(TEXTS, vocab_size=300)


def test_options_are_those_of_the_function(corpus: Path) -> None:
    options = ["--vocab-size", 290, "--pattern", "cl100k", "--min-frequency", 3, "--max-token-length", 4]
    options += ["--special-tokens", "<|a|>", "<|b|>", "--required-tokens", "zoo", "--lines"]
    found = train([corpus, *options], corpus / "out")
    assert found == Tokenizer.train(
        TEXTS,
        vocab_size=290,
        pattern="cl100k",
        min_frequency=3,
        max_token_length=4,
        special_tokens=["<|a|>", "<|b|>"],
        required_tokens=["zoo"],
        lines=True,
    )


def test_a_base_is_trained_further(corpus: Path) -> None:
    base = train([corpus / "a.jsonl", "--vocab-size", 270], corpus / "base")
    found = train([corpus / "b.jsonl", "--base", corpus / "base", "--vocab-size", 280], corpus / "out")
    assert found == Tokenizer.train(TEXTS[1:], vocab_size=280, base=base)


def test_the_report_has_a_row_for_each_file(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [corpus / "a.jsonl", corpus / "b.jsonl"]
    train([*files, "--vocab-size", 300, "--report"], corpus / "out")
    printed = capsys.readouterr().out
    rows = printed[printed.index("source") :].splitlines()[1:4]
    assert [row.split()[0] for row in rows] == [*map(str, files), "all"]
    assert [row.split()[1] for row in rows] == ["460", "460", "920"]


def test_running_out_of_memory_is_one_line(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["tokenizer", "train", str(corpus), "--out", str(corpus / "out"), "--max-memory", "100"]
    assert cli.run(argv) == 1
    error = capsys.readouterr().err
    assert "more than max_memory, which is 100" in error
    assert error.count("\n") == 1
