"""`tempa tokenizer`, run as a user runs it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import tokenizers

from tempa import cli
from tempa.cli.compare import measure
from tempa.tokenizer import Tokenizer, measure_fit

TEXT = "the cat sat on the mat and the dog sat on the log\n" * 20


@pytest.fixture
def trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": TEXT.upper()}) + "\n", encoding="utf-8")
    files = [str(tmp_path / name) for name in ("a.txt", "b.jsonl")]
    out = tmp_path / "tokenizer"
    assert cli.run(["tokenizer", "train", *files, "--vocab-size", "300", "--out", str(out)]) == 0
    assert "300 ids" in capsys.readouterr().out
    return out


def run(argv: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run(["tokenizer", *map(str, argv)]) == 0
    return capsys.readouterr().out


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_training_learns_from_all_files(trained: Path) -> None:
    assert Tokenizer.load(trained) == Tokenizer.train([TEXT, TEXT.upper()], vocab_size=300)


def test_a_vocabulary_that_pairs_cannot_fill_is_reported(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trained.parent / "a.txt"
    assert "fewer than 9999" in run(["train", file, "--vocab-size", 9999, "--out", trained], capsys)


def test_decode_undoes_encode(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = run(["encode", "--tokenizer", trained, "the", "cat"], capsys)
    assert [int(i) for i in ids.split()] == Tokenizer.load(trained).encode("the cat")
    feed(monkeypatch, b"the cat")
    assert run(["encode", "--tokenizer", trained], capsys) == ids
    assert run(["decode", "--tokenizer", trained, *ids.split()], capsys) == "the cat"
    feed(monkeypatch, ids.encode())
    assert run(["decode", "--tokenizer", trained], capsys) == "the cat"


def test_specials_are_recognised_when_asked_for(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ["encode", "--tokenizer", trained, "<|end|>"]
    assert run([*text, "--special"], capsys) == "299\n"
    assert "299" not in run(text, capsys)


def test_inspect_shows_tokens_and_measures_the_vocabulary(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(["inspect", trained, "the\n\\é"], capsys)
    ids = Tokenizer.load(trained).encode("the\n\\é")
    texts = ["the", "\\n", "\\\\", "\\xc3", "\\xa9"]
    assert shown.startswith("".join(f"{token}\t{text}\n" for token, text in zip(ids, texts, strict=True)))
    assert "bytes per token" in shown
    assert "295 ordinary tokens" in shown
    assert f"{len(ids)} tokens, {len(set(ids))} of them different, for 7 bytes" in shown
    assert "unused" not in shown


def test_inspect_measures_how_the_vocabulary_fits_files(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.jsonl"
    new.write_text('{"body": "zzz"}\n{"body": "é"}\n', encoding="utf-8")
    shown = run(["inspect", trained, "--on", trained.parent / "a.txt", new, "--field", "body"], capsys)
    texts = {str(trained.parent / "a.txt"): [TEXT], str(new): ["zzz", "é"]}
    assert shown.endswith(f"\n\n{measure_fit(Tokenizer.load(trained), texts)}\n")


def test_gaps_between_ids_are_no_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = tmp_path / "gpt2.tiktoken"
    Tokenizer.train(["aaaa aaaa"], vocab_size=260, special_tokens=()).save_tiktoken(ranks)
    gaps = Tokenizer.from_tiktoken(ranks, pattern="gpt2", special_tokens={"<|end|>": 300})
    gaps.save(tmp_path)
    (tmp_path / "a.txt").write_text("aaaa")
    shown = run(["inspect", tmp_path, "--on", tmp_path / "a.txt"], capsys)
    num_tokens = gaps.num_merges + 256
    assert f"{300 - num_tokens} ids without a token\n{num_tokens} ordinary tokens" in shown
    assert f"unused: {num_tokens - 1} of {num_tokens} ordinary tokens" in shown


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["train", "none.txt", "--out", "x"], "none.txt: no such file"),
        (["encode", "--tokenizer", "none", "x"], "none/tokenizer.json: no such file"),
        (["decode", "--tokenizer", "TRAINED", "300"], "no token 300: the vocabulary has ids 0 to 299"),
    ],
)
def test_errors_are_one_line_that_names_the_fault(
    argv: list[str], reason: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(trained) if word == "TRAINED" else word for word in argv]
    assert cli.run(["tokenizer", *argv]) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


def test_input_that_is_not_what_it_should_be_is_named(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, b"1 two 3")
    assert cli.run(["tokenizer", "decode", "--tokenizer", str(trained)]) == 1
    assert "standard input: 'two' is not an id" in capsys.readouterr().err
    feed(monkeypatch, b"a\xff")
    assert cli.run(["tokenizer", "encode", "--tokenizer", str(trained)]) == 1
    assert "standard input: not UTF-8 at byte 1" in capsys.readouterr().err


def test_the_group_lists_its_commands_and_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"]):
        shown = run(list(argv), capsys)
        assert all(name in shown for name in ("train", "encode", "decode", "inspect", "compare", "export"))
    assert cli.run(["tokenizer", "trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_compare_orders_tokenizers_by_bytes_per_token(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Tokenizer.train([TEXT], vocab_size=262)
    small.save(tmp_path / "small")
    ranks = tmp_path / "cl100k_same.tiktoken"
    Tokenizer.train([TEXT], vocab_size=290, pattern="cl100k", special_tokens=()).save_tiktoken(ranks)
    shown = run(["compare", tmp_path / "a.txt", tmp_path / "small", trained, ranks], capsys)
    rows = shown.splitlines()
    assert all(word in rows[0] for word in ("tokenizer", "ids", "tokens", "bytes per token", "MB/s"))
    assert len(rows) == 4
    assert "small" in rows[-1]
    fit = measure("name", small, [TEXT])
    assert (fit.num_tokens, fit.vocab_size) == (len(small.encode(TEXT)), 262)
    assert fit.bytes_per_token == len(TEXT) / fit.num_tokens


@pytest.mark.parametrize("format", ["hf", "tiktoken", "gpt2"])
def test_export_writes_what_other_packages_read(
    format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer.train([TEXT], vocab_size=290, special_tokens=["<|endoftext|>"])
    tokenizer.save(tmp_path / "ours")
    out = tmp_path / ("gpt2.tiktoken" if format == "tiktoken" else "out")
    assert str(out) in run(["export", tmp_path / "ours", "--format", format, "--out", out], capsys)
    if format == "hf":
        again = Tokenizer.load(out)
    elif format == "tiktoken":
        again = Tokenizer.from_tiktoken(out, pattern="gpt2", special_tokens=tokenizer.special_tokens)
    else:
        again = Tokenizer.from_gpt2(out / "merges.txt", out / "vocab.json")
    assert again.encode(TEXT) == tokenizer.encode(TEXT)


def test_what_a_format_cannot_say_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, reason in [
        (["export", trained, "--format", "gpt2", "--out", tmp_path / "x"], "cannot hold the added token"),
        (["compare", tmp_path / "a.txt", tmp_path / "other.tiktoken"], "start its name with gpt2"),
        (["compare", tmp_path / "a.txt"], "name at least one"),
    ]:
        assert cli.run(["tokenizer", *map(str, argv)]) == 1
        assert reason in capsys.readouterr().err


def test_inspect_names_added_tokens_and_gaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer.train([TEXT], vocab_size=280).with_plain_tokens(["<think>"])
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    file = json.loads(path.read_text())
    file["model"]["vocab"]["qqq"] = 400
    path.write_text(json.dumps(file))
    shown = run(["inspect", tmp_path, "a<think>", "--ids"], capsys)
    assert f"{tokenizer.plain_tokens['<think>']}\t<think>" in shown
    assert "plain added tokens: '<think>'" in shown
    assert "ids without a token" in shown


def test_other_kinds_of_tokenizer_work_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tokenizers.models.WordPiece({"[UNK]": 0, "the": 1, "cat": 2, "##s": 3}, unk_token="[UNK]")
    other = tokenizers.Tokenizer(model)
    other.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    other.decoder = tokenizers.decoders.WordPiece()
    other.save(str(tmp_path / "tokenizer.json"))
    assert run(["encode", "--tokenizer", tmp_path, "the cats"], capsys) == "1 2 3\n"
    assert run(["decode", "--tokenizer", tmp_path, "1", "2", "3"], capsys) == "the cats"
    assert "2\tcat" in run(["inspect", tmp_path, "the cats"], capsys)
    assert (
        cli.run(["tokenizer", "export", str(tmp_path), "--format", "gpt2", "--out", str(tmp_path / "x")]) == 1
    )
    assert "only BPE has the format gpt2" in capsys.readouterr().err
