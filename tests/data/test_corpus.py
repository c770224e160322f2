"""Corpora: what `build` writes, the split, and that failures leave nothing behind."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tempa.data.corpus import build
from tempa.data.documents import Document, read_documents, write_documents
from tempa.data.duplicates import Duplicates, dedup
from tempa.data.funnel import FunnelReport
from tempa.data.rules import Rules, clean
from tempa.data.shards import Shards
from tempa.data.staging import staged_directory, staged_file
from tempa.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    words = ["river", "stone", "bridge", "water", "mill", "town", "road", "field"]
    return [Document(" ".join(rng.choice(words, 40)) + f" number {i}.\r\n", f"made:{i}") for i in range(300)]


@pytest.fixture(scope="module")
def tokenizer(documents):
    return Tokenizer.train([document.text for document in documents], vocab_size=300)


def texts_of(shards, tokenizer):
    return [tokenizer.decode(shards.document(i)) for i in range(shards.num_documents)]


def test_a_corpus_holds_every_kept_document_once_and_its_own_tokenizer(tmp_path, documents, tokenizer):
    duplicated = [*documents, documents[5], Document("mMmM " * 50, "noise")]
    rules = replace(Rules.none(), max_top_letter=0.4)
    report = build(duplicated, tmp_path / "corpus", tokenizer, rules=rules, val_fraction=0.2)
    known = Tokenizer.load(tmp_path / "corpus")
    assert known.sha256 == tokenizer.sha256
    train, val = (
        Shards(tmp_path / "corpus" / name, tokenizer_fingerprint=known.sha256) for name in ("train", "val")
    )
    texts = texts_of(train, known) + texts_of(val, known)
    assert sorted(texts) == sorted(document.text.strip() + "<|endoftext|>" for document in documents)
    assert 30 < val.num_documents < 90
    saved = json.loads((tmp_path / "corpus" / "funnel.json").read_text())
    assert saved == report.to_dict()
    assert saved["splits"]["train"] == {
        "documents": train.num_documents,
        "bytes": sum(len(text.encode()) for text in texts_of(train, known)) - 13 * train.num_documents,
        "tokens": train.num_tokens,
    }
    read, clean, dedup = saved["stages"]
    assert read["output"] == clean["input"]
    assert clean["dropped"]["max_top_letter"]["documents"] == 1
    assert dedup["dropped"]["exact"]["documents"] == 1
    assert dedup["input"] == clean["output"]
    splits = saved["splits"].values()
    for unit in ("documents", "bytes"):
        assert dedup["output"][unit] == sum(split[unit] for split in splits)


def test_a_chain_of_calls_reports_its_stages_in_order(documents):
    report = FunnelReport()
    dedup(clean(documents, report=report), report=report)
    assert [stage.name for stage in report.stages] == ["clean", "dedup"]
    assert report.stages[1].input == report.stages[0].output


def held_out(path, documents, tokenizer, **options):
    options = {"rules": Rules.none(), "duplicates": Duplicates(near=False), **options}
    build(documents, path, tokenizer, **options)
    return [texts_of(Shards(path / side), tokenizer) for side in ("train", "val")]


def test_the_hash_split_keeps_a_document_on_its_side(tmp_path, documents, tokenizer):
    _, val = held_out(tmp_path / "all", documents, tokenizer, val_fraction=0.3)
    _, fewer = held_out(tmp_path / "some", documents[::-2], tokenizer, val_fraction=0.3)
    assert set(fewer) <= set(val)
    assert len(val) / len(documents) == pytest.approx(0.3, abs=0.11)  # four standard errors


def test_the_tail_split_is_that_of_the_bytes_and_cuts_no_character(tmp_path):
    text = "0123456789" * 10
    documents = [Document(text[:95], "a"), Document(text[95:], "b"), Document("é" * 5, "c")]
    tokenizer = Tokenizer.from_characters(text + "é")
    end = "<|endoftext|>"
    train, val = held_out(tmp_path / "a", documents[:2], tokenizer, val_fraction=0.1, split="tail")
    assert train == [text[:90] + end]
    assert val == [text[90:95] + end, text[95:] + end]
    train, val = held_out(tmp_path / "b", documents, tokenizer, val_fraction=3 / 110, split="tail")
    assert train == [text[:95] + end, text[95:] + end, "é" * 4 + end]
    assert val == ["é" + end]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 0.0}, r"val_fraction must be between 0 and 1, got 0\.0"),
        ({"val_fraction": 1e-9}, "leaves no document of 300 for validation; choose another fraction or"),
        ({"split": "middle"}, "split must be 'hash' or 'tail', got 'middle'"),
        ({"rules": Rules(min_chars=10_000)}, "no document is left; min_chars dropped 300 of 300"),
    ],
)
def test_a_corpus_that_cannot_be_made_is_one_error_and_leaves_nothing(
    tmp_path, documents, tokenizer, options, message
):
    with pytest.raises(ValueError, match=message):
        build(documents, tmp_path / "corpus", tokenizer, **{"rules": Rules.none(), **options})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path, documents, tokenizer):
    def interrupt(work, _done, _total, _unit):
        if work == "tokenize":
            raise KeyboardInterrupt

    options = {"rules": Rules.none(), "val_fraction": 0.5, "progress": interrupt}
    with pytest.raises(KeyboardInterrupt):
        build(documents, tmp_path / "corpus", tokenizer, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_is_replaced_only_on_request_and_nothing_else_ever(tmp_path, documents, tokenizer):
    options = {"rules": Rules.none(), "duplicates": Duplicates(near=False), "val_fraction": 0.5}
    build(documents, tmp_path / "corpus", tokenizer, **options)
    before = (tmp_path / "corpus" / "train" / "shard-00000.bin").read_bytes()
    with pytest.raises(FileExistsError, match="corpus: exists already"):
        build(documents[:50], tmp_path / "corpus", tokenizer, **options)
    with pytest.raises(ValueError, match="val_fraction"):
        build(documents, tmp_path / "corpus", tokenizer, **{**options, "val_fraction": 2}, overwrite=True)
    assert (tmp_path / "corpus" / "train" / "shard-00000.bin").read_bytes() == before
    build(documents[:50], tmp_path / "corpus", tokenizer, **options, overwrite=True)
    assert (tmp_path / "corpus" / "train" / "shard-00000.bin").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=r"holds no funnel\.json"):
        build(documents, tmp_path / "home", tokenizer, **options, overwrite=True)


def test_documents_survive_writing_and_reading(tmp_path):
    documents = [Document('a "quoted"\n\u2028 é', "x.txt"), Document("", "y")]
    write_documents(tmp_path / "out.jsonl", documents)
    texts = [document.text for document in read_documents(tmp_path / "out.jsonl")]
    assert texts == [document.text for document in documents]
    with pytest.raises(FileExistsError, match=r"out\.jsonl: exists already"):
        write_documents(tmp_path / "out.jsonl", [])
    with pytest.raises(ValueError, match=r"should end in \.jsonl"):
        write_documents(tmp_path / "out.txt", documents)


def test_a_failed_file_or_directory_leaves_the_earlier_one(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "marker").write_text("old")

    def fail_in_file():
        with staged_file(tmp_path / "file", overwrite=True) as file:
            file.write(b"new")
            raise RuntimeError

    def fail_in_directory():
        with staged_directory(tmp_path / "folder", marker="marker", overwrite=True) as staging:
            (staging / "marker").write_text("new")
            raise RuntimeError

    for fail in (fail_in_file, fail_in_directory):
        with pytest.raises(RuntimeError):
            fail()
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "marker").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_full_disk_is_one_error_that_names_the_file(small_disk, tmp_path, tokenizer):
    (tmp_path / "big.txt").write_text("some text " * 500_000)
    tokenizer.save(tmp_path / "tokenizer")
    (small_disk / "earlier.jsonl").write_text('{"text": "kept"}\n')
    build = ["build", "--tokenizer", tmp_path / "tokenizer", "--split", "tail", "--no-clean"]
    for command, name in [(["dedup"], "out.jsonl"), (build, "corpus")]:
        words = [*command, tmp_path / "big.txt", "--out", small_disk / name]
        done = subprocess.run(
            [sys.executable, "-m", "tempa", "data", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, done.stderr
        assert done.stderr.count("\n") == 1
        assert "no space left on device" in done.stderr
        assert name in done.stderr
        # A build keeps what is done, to go on from there.
        left = {path.name for path in small_disk.iterdir()} - {".corpus.work"}
        assert left == {"earlier.jsonl"}
