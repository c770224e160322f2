"""`tempa data`: the commands end to end, and one line for each kind of wrong input."""

import json
from dataclasses import asdict

import pytest

from tempa.cli import run
from tempa.data.rules import Rules
from tempa.data.shards import Shards
from tempa.tokenizer import Tokenizer

SENTENCES = [
    f"The {animal} of {place} lives in the hills and comes down to the river with its young to drink, "
    f"and the people of the village have a story about it that they tell in the evening."
    for animal in ("fox", "heron", "badger", "otter")
    for place in ("Tamar", "Severn", "Wye", "Dee", "Tees")
]


@pytest.fixture
def corpus(tmp_path):
    """Five documents of four sentences, one of them twice, and one of noise."""
    path = tmp_path / "pages.jsonl"
    texts = [" ".join(SENTENCES[i::5]) for i in range(5)]
    pages = [*texts, texts[0].upper(), "mMmM " * 100]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in pages))
    return path


def command(*words):
    return run(["data", *map(str, words)])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_clean_then_dedup_write_documents_and_reports(corpus, tmp_path, capsys):
    off = {name: value for name, value in asdict(Rules.none()).items() if name != "max_top_letter"}
    rules = [word for name, value in off.items() for word in (f"--rules.{name.replace('_', '-')}", value)]
    assert command("clean", corpus, "--out", tmp_path / "clean.jsonl", *rules) == 0
    assert "max_top_letter" in capsys.readouterr().out
    assert len(lines(tmp_path / "clean.jsonl")) == 6
    assert command("dedup", tmp_path / "clean.jsonl", "--out", tmp_path / "unique.jsonl") == 0
    kept = lines(tmp_path / "unique.jsonl")
    assert kept[0]["source"] == f"{tmp_path / 'clean.jsonl'}:1"
    report = json.loads((tmp_path / "unique.funnel.json").read_text())
    assert report["stages"][0]["dropped"]["exact"]["documents"] == 1
    assert report["stages"][0]["output"]["documents"] == len(kept)


def test_clean_masks_what_it_is_told_to(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "Mail jo@example.org or call +1 212 555 0147."}))
    off = "".join(f"{name} = {value}\n" for name, value in asdict(Rules.none()).items())
    (tmp_path / "clean.toml").write_text(f"[rules]\n{off}")
    words = [tmp_path / "clean.toml", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl"]
    assert command("clean", *words, "--mask", "email", "key") == 0
    assert lines(tmp_path / "out.jsonl")[0]["text"] == "Mail <EMAIL> or call +1 212 555 0147."
    report = json.loads((tmp_path / "out.funnel.json").read_text())
    assert report["stages"][1]["replaced"] == {"email": 1, "key": 0}


def test_build_writes_what_pretraining_reads(corpus, tmp_path, capsys):
    tokenizer = Tokenizer.train(SENTENCES, vocab_size=300)
    tokenizer.save(tmp_path / "tokenizer")
    words = ["--tokenizer", tmp_path / "tokenizer", "--no-clean", "--no-dedup", "--val-fraction", 0.4]
    assert command("build", corpus, "--out", tmp_path / "corpus", *words) == 0
    out = capsys.readouterr().out
    train, val = (Shards(tmp_path / "corpus" / name) for name in ("train", "val"))
    assert train.num_documents + val.num_documents == 7
    assert f"train: {train.num_documents} documents, {train.num_tokens:,} tokens" in out
    assert Tokenizer.load(tmp_path / "corpus").sha256 == tokenizer.sha256


def test_encode_writes_documents_as_they_are(corpus, tmp_path, capsys):
    tokenizer = Tokenizer.train(SENTENCES, vocab_size=300, special_tokens=["<stop>"])
    tokenizer.save(tmp_path / "tokenizer")
    words = [corpus, "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "shards"]
    assert command("encode", *words, "--end-token", "<end>") == 1
    assert "no special token '<end>'; the tokenizer has <stop>" in capsys.readouterr().err
    assert command("encode", *words, "--end-token", "<stop>", "--num-threads", 1) == 0
    shards = Shards(tmp_path / "shards", tokenizer_fingerprint=tokenizer.sha256)
    assert f"7 documents, {shards.num_tokens:,} tokens" in capsys.readouterr().out
    texts = [tokenizer.decode(shards.document(i)) for i in range(7)]
    assert texts == [line["text"] + "<stop>" for line in lines(corpus)]


def test_settings_come_from_a_file_too(corpus, tmp_path):
    settings = tmp_path / "clean.toml"
    off = "\n".join(f"{name} = {value}" for name, value in asdict(Rules.none()).items())
    settings.write_text(f'files = ["{corpus}"]\nout = "{tmp_path}/out.jsonl"\n[rules]\n{off}\n')
    assert command("clean", settings, "--rules.min-chars", 1e6) == 1
    assert command("clean", settings) == 0
    assert len(lines(tmp_path / "out.jsonl")) == 7


def test_wrong_input_is_one_line_that_names_the_file(corpus, tmp_path, capsys):
    def message(*words):
        assert command("clean", *words, "--out", tmp_path / "out.jsonl") == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.txt").write_bytes(b"ab\xff")
    assert "none.txt: no such file" in message(tmp_path / "none.txt")
    assert "empty.txt: the corpus is empty" in message(tmp_path / "empty.txt")
    assert "bad.txt: not UTF-8: byte 0xff at offset 2" in message(tmp_path / "bad.txt")
    assert "no document is left; min_chars dropped 7 of 7" in message(corpus, "--rules.min-chars", 1e6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "empty.txt", "pages.jsonl"]


def test_an_unknown_subcommand_suggests_the_nearest(capsys):
    assert command("cleen") == 2
    assert "did you mean 'clean'" in capsys.readouterr().err


def test_curve_prints_the_probability_at_each_similarity(capsys):
    assert command("curve", "--duplicates.threshold", 0.7) == 0
    out = capsys.readouterr().out
    assert "21 bands of 6 rows" in out
    assert out.splitlines()[15].split() == ["0.70", "0.9278"]


def test_dedup_compares_with_the_index_of_an_earlier_run(corpus, tmp_path, capsys):
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    index = tmp_path / "old.index"
    assert command("dedup", corpus, "--out", old, "--index", index) == 0
    changed = tmp_path / "changed.jsonl"
    fresh = {"text": "A page about something that no other one mentions, with words of its own."}
    changed.write_text(corpus.read_text() + json.dumps(fresh) + "\n")
    assert command("dedup", changed, "--out", new, "--duplicates.against", index) == 0
    assert [page["text"] for page in lines(new)] == [fresh["text"]]
    assert "known" in capsys.readouterr().out
