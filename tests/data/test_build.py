"""Builds from files: any format, any number of threads, what is wrong with input."""

import gzip
import json
import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempa.cli import run
from tempa.data.classify import classify, train_classifier
from tempa.data.corpus import CORPUS, BuildConfig, Source, build_corpus
from tempa.data.corpus.config import Kinds, Perplexity
from tempa.data.decontaminate import EvalSet, decontaminate
from tempa.data.documents import Document, read_documents
from tempa.data.duplicates import Duplicates, dedup, write_index
from tempa.data.funnel import FunnelReport
from tempa.data.loader import Loader
from tempa.data.mixture import Mixture
from tempa.data.perplexity import NgramSettings, keep_perplexity, train_ngram_model
from tempa.data.pii import mask_pii
from tempa.data.repair import repair
from tempa.data.rules import Edits, Rules, clean
from tempa.data.shards import Shards
from tempa.data.unwanted import Unwanted, drop_unwanted
from tempa.tokenizer import Tokenizer

WORDS = ["river", "stone", "bridge", "water", "mill", "town", "road", "field", "sing", "walk", "the", "of"]
END = "<|endoftext|>"
RULES = replace(Rules.none(), min_words=30, max_top_letter=0.4)


def page(seed, num_words=60):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + str(rng.randrange(300)) for _ in range(num_words)) + "."


@pytest.fixture(scope="module")
def pages():
    """Pages, some short, some equal but for case and spaces, some nearly equal."""
    made = [page(i) for i in range(200)]
    made += [made[i].upper().replace(" ", "  ") for i in range(0, 40, 4)]
    made += [made[i] + " One more sentence." for i in range(1, 40, 4)]
    made += ["too short"] * 5 + ["mMmM " * 50]
    random.Random(0).shuffle(made)
    return [{"text": text, "url": f"https://host{i % 7}.org/{i}"} for i, text in enumerate(made)]


@pytest.fixture(scope="module")
def tokenizer(pages):
    return Tokenizer.train([one["text"] for one in pages[:50]], vocab_size=320)


def lines(pages):
    return "".join(json.dumps(one) + "\n" for one in pages)


def settings(files, out, **options):
    options = {"rules": RULES, "val_fraction": 0.1, "tokenizer": out, **options}
    files = files if isinstance(files, tuple) else (files,)
    return BuildConfig(files=files, out=out, **options)


def texts(out, tokenizer, side="train"):
    shards = Shards(out / side, tokenizer_fingerprint=tokenizer.sha256)
    return [tokenizer.decode(shards.document(i)).removesuffix(END) for i in range(shards.num_documents)]


def content(out):
    """All bytes of a corpus but the reports, which have times."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("funnel"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_a_build_is_what_the_steps_do_one_after_the_other(tmp_path, pages, tokenizer):
    file = tmp_path / "a.jsonl"
    file.write_text(lines(pages))
    corpus = build_corpus(settings(file, tmp_path / "out", partition_bytes=4096), tokenizer)
    expected = [one.text for one in dedup(clean(read_documents(file), RULES))]
    found = texts(corpus.directory, tokenizer) + texts(corpus.directory, tokenizer, "val")
    assert sorted(found) == sorted(expected)
    assert [text for text in expected if text in set(texts(corpus.directory, tokenizer))] == texts(
        corpus.directory, tokenizer
    )
    assert len(list((corpus.directory / "train").glob("*.bin"))) > 5
    assert list(tmp_path.iterdir()) == [file, corpus.directory] or not (tmp_path / ".out.work").exists()


def test_every_step_does_what_its_own_function_does(tmp_path, pages, tokenizer):
    good = [one for one in pages if len(one["text"]) > 20][:120]
    good = [
        {**one, "text": f"{one['text']}\nHome\nIt isnâ€™t far to go. Mail jo{i}@example.org now."}
        for i, one in enumerate(good)
    ]
    for one in good[::9]:
        one["text"] += " What a darn thing."
    lang = [
        {"text": "der Fluss und die Brücke und der Weg zum alten Haus am Wasser " * 4 + f"{i}.", "url": ""}
        for i in range(30)
    ]
    file, quiz, words = (tmp_path / name for name in ("a.jsonl", "quiz.jsonl", "words.txt"))
    file.write_text(lines(good + lang))
    quiz.write_text(json.dumps({"question": " ".join(good[3]["text"].split()[5:25]), "answer": "1"}) + "\n")
    words.write_text("darn\n")
    kinds = {
        "en": [Document(one["text"], "") for one in good],
        "de": [Document(one["text"], "") for one in lang],
    }
    classifier, _ = train_classifier(kinds)
    classifier.save(tmp_path / "model")
    model, held_out = train_ngram_model(kinds["en"], NgramSettings(held_out=0.2))
    model.save(tmp_path / "ngrams")
    most = float(np.quantile(held_out, 0.8))
    edits, unwanted = Edits(one_word_lines=True), Unwanted(phrases=(words,))
    report = FunnelReport()
    kept = clean(repair(read_documents(file), report=report), RULES, edits=edits, report=report)
    kept = drop_unwanted(kept, unwanted, report=report)
    kept = (one.document for one in classify(kept, classifier, ["en"], report=report))
    kept = keep_perplexity(kept, model, min_perplexity=2, max_perplexity=most, report=report)
    kept = mask_pii((one.document for one in kept), ["email"], report=report)
    kept = decontaminate(kept, [EvalSet.named(str(quiz))], report=report)
    expected = [one.text for one in dedup(kept, report=report)]
    corpus = build_corpus(
        settings(
            file,
            tmp_path / "out",
            partition_bytes=4096,
            repair=True,
            edits=edits,
            unwanted=unwanted,
            kinds=Kinds(model=tmp_path / "model", keep=("en",)),
            perplexity=Perplexity(model=tmp_path / "ngrams", min=2, max=most),
            mask=("email",),
            against=(str(quiz),),
        ),
        tokenizer,
    )
    found = texts(corpus.directory, tokenizer) + texts(corpus.directory, tokenizer, "val")
    assert sorted(found) == sorted(expected)
    counts = {stage.name: stage.to_dict() for stage in report.stages}
    for stage in corpus.report.stages[1:]:
        made, other = stage.to_dict(), counts[stage.name]
        for values in (made, other):
            for dropped in values["dropped"].values():
                dropped.pop("examples")
        assert made == other
    assert counts["perplexity"]["dropped"]["max_perplexity"]["documents"] > 0


def test_the_funnel_adds_up_and_knows_sizes_hosts_and_samples(tmp_path, pages, tokenizer):
    file = tmp_path / "a.jsonl"
    file.write_text(lines(pages))
    build_corpus(settings(file, tmp_path / "out", partition_bytes=4096), tokenizer)
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())
    stages = funnel["stages"]
    assert [stage["name"] for stage in stages] == ["read", "clean", "dedup"]
    assert stages[0]["input"]["documents"] == len(pages)
    assert stages[0]["input"]["bytes"] == sum(len(one["text"].encode()) for one in pages)
    for unit in ("documents", "bytes"):
        for stage in stages:
            gone = sum(dropped[unit] for dropped in stage["dropped"].values())
            gone += stage["rewritten_bytes"] if unit == "bytes" else 0
            assert stage["input"][unit] == gone + stage["output"][unit], stage["name"]
        assert stages[0]["output"][unit] == stages[1]["input"][unit]
        assert stages[1]["output"][unit] == stages[2]["input"][unit]
        assert stages[2]["output"][unit] == sum(split[unit] for split in funnel["splits"].values())
    assert sum(funnel["input_sizes"]) == len(pages)
    assert sum(funnel["output_sizes"]) == stages[1]["output"]["documents"]
    assert sum(count["documents"] for count in funnel["hosts"].values()) == stages[1]["output"]["documents"]
    example = stages[1]["dropped"]["min_words"]["examples"][0]
    assert example["source"].startswith("https://host")
    assert example["reason"] == "2.0000, the threshold is 30"
    near = stages[2]["dropped"]["near"]
    assert near["documents"] == 10
    assert near["examples"][0]["reason"].startswith("duplicate of https://host")
    html = (tmp_path / "out" / "funnel.html").read_text()
    assert "Samples of what was dropped" in html
    assert "host3.org" in html


def test_shards_do_not_depend_on_threads_and_documents_not_on_partitions(tmp_path, pages, tokenizer):
    file = tmp_path / "a.jsonl"
    file.write_text(lines(pages))
    one, three = (
        build_corpus(settings(file, tmp_path / f"t{n}", partition_bytes=4096, num_threads=n), tokenizer)
        for n in (1, 3)
    )
    assert one.sha256 == three.sha256
    assert content(one.directory) == content(three.directory)
    whole = build_corpus(settings(file, tmp_path / "whole"), tokenizer)
    assert texts(whole.directory, tokenizer) == texts(one.directory, tokenizer)


def test_every_format_gives_the_same_documents(tmp_path, pages, tokenizer):
    good = [one for one in pages if len(one["text"]) > 20]
    raw = lines(good).encode()
    (tmp_path / "a.jsonl").write_bytes(raw)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(raw))
    (tmp_path / "c.jsonl.zst").write_bytes(pa.Codec("zstd").compress(raw, asbytes=True))
    table = pa.table({"text": [one["text"] for one in good], "url": [one["url"] for one in good]})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=50)
    (tmp_path / "e").mkdir()
    for i, one in enumerate(good):
        (tmp_path / "e" / f"{i:03}.txt").write_text(one["text"])
    records = [
        f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: {one['url']}\r\n"
        f"Content-Length: {len(one['text'].encode())}\r\n\r\n{one['text']}\r\n\r\n"
        for one in good
    ]
    (tmp_path / "f.warc.wet.gz").write_bytes(b"".join(gzip.compress(one.encode()) for one in records))
    names = ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet", "e", "f.warc.wet.gz"]
    found = []
    for name in names:
        corpus = build_corpus(
            settings(tmp_path / name, tmp_path / f"out-{name}", partition_bytes=8192), tokenizer
        )
        assert corpus.num_problems == 0
        found.append(texts(corpus.directory, tokenizer))
    assert all(one == found[0] for one in found)


def test_what_cannot_be_read_is_named_and_the_rest_is_built(tmp_path, pages, tokenizer, capsys):
    good = [one for one in pages if len(one["text"]) > 20]
    parts = [good[i::4] for i in range(4)]
    (tmp_path / "a.jsonl").write_bytes(lines(parts[0]).encode() + b'{"text": "caf\xe9 at night"}\n{"x": 1}\n')
    members = [gzip.compress(lines(parts[1][i::3]).encode()) for i in range(3)]
    damaged = bytearray(members[1])
    damaged[len(damaged) // 2 : len(damaged) // 2 + 40] = b"\xff" * 40
    (tmp_path / "b.jsonl.gz").write_bytes(members[0] + bytes(damaged) + members[2])
    long = json.dumps({"text": "x" * 300_000}) + "\n"
    (tmp_path / "c.jsonl").write_text(lines(parts[2]) + long)
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no table")
    tokenizer.save(tmp_path / "tokenizer")
    words = [
        "build",
        *sorted(tmp_path.glob("?.*")),
        "--out",
        tmp_path / "out",
        "--tokenizer",
        tmp_path / "tokenizer",
    ]
    words += ["--no-clean", "--val-fraction", "0.1", "--max-document-bytes", "200000"]
    assert run(["data", *map(str, words)]) == 3
    said = capsys.readouterr().err
    offset = len(lines(parts[0]).encode())
    assert f"a.jsonl, byte {offset:,}: byte {offset + 13} is not UTF-8 (0xe9)" in said
    assert "b.jsonl.gz, byte" in said
    assert f"starts at byte {len(members[0])}:" in said
    assert f"c.jsonl, byte {len(lines(parts[2])):,}: 300012 bytes are more than max_document_bytes" in said
    assert "d.parquet" in said
    assert "5 documents or files could not be read" in said
    found = set(texts(tmp_path / "out", tokenizer) + texts(tmp_path / "out", tokenizer, "val"))
    assert {one["text"] for one in parts[1][0::3]} & found
    assert not {one["text"] for one in parts[1][1::3]} & found
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())
    assert funnel["num_problems"] == 5
    assert funnel["stages"][0]["dropped"]["unreadable"]["documents"] == 5


def test_several_sources_have_their_own_shards_shares_and_budgets(tmp_path, pages, tokenizer):
    for name, part in (("web", pages[::2]), ("books", pages[1::2])):
        (tmp_path / f"{name}.jsonl").write_text(lines(part))
    web = Source(name="web", files=(tmp_path / "web.jsonl",))
    books = Source(name="books", files=(tmp_path / "books.jsonl",))

    def made(out, *sources):
        options = {"rules": RULES, "val_fraction": 0.1, "tokenizer": out, "partition_bytes": 4096}
        return build_corpus(BuildConfig(sources=sources, out=out, **options), tokenizer)

    whole = made(tmp_path / "whole", web, books)
    of_web, of_books = (texts(whole.directory, tokenizer, f"train/{name}") for name in ("web", "books"))
    assert set(of_web) <= {one["text"] for one in pages[::2]}
    assert set(of_books) <= {one["text"] for one in pages[1::2]}
    budget = Shards(whole.directory / "train" / "web").num_tokens // 2
    some = made(tmp_path / "some", replace(web, max_tokens=budget), replace(books, sample=0.5))
    shards = Shards(some.directory / "train" / "web")
    longest = int(Shards(whole.directory / "train" / "web").lengths().max())
    assert budget - longest < shards.num_tokens <= budget
    assert texts(some.directory, tokenizer, "train/web") == of_web[: shards.num_documents]
    stages = {stage.name: stage for stage in some.report.stages}
    assert 0.3 < stages["sample"].dropped["sample"].documents / len(pages[1::2]) < 0.7
    assert stages["budget"].dropped["max_tokens"].documents > 0
    assert stages["budget"].output.documents == sum(s["documents"] for s in some.report.splits.values())


def test_evaluation_sets_personal_data_and_published_documents_are_kept_out(tmp_path, pages, tokenizer):
    good = [one for one in pages if len(one["text"]) > 20][:60]
    quiz = " ".join(page(1000).split()[:20])
    good.append({"text": f"{page(1001)} {quiz} {page(1002)}"})
    good.append({"text": f"{page(1003)} Write to jo@example.org or 8.8.8.88."})
    (tmp_path / "a.jsonl").write_text(lines(good))
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": quiz, "answer": "42"}) + "\n")
    published = list(read_documents(tmp_path / "a.jsonl"))[:10]
    write_index(published, tmp_path / "old.index")
    corpus = build_corpus(
        settings(
            tmp_path / "a.jsonl",
            tmp_path / "out",
            against=(str(tmp_path / "quiz.jsonl"),),
            mask=("email", "ip"),
            duplicates=Duplicates(against=(tmp_path / "old.index",)),
        ),
        tokenizer,
    )
    stages = {stage.name: stage for stage in corpus.report.stages}
    assert stages["decontaminate"].dropped["quiz"].documents == 1
    assert stages["mask"].replaced == {"email": 1, "ip": 1}
    assert stages["dedup"].dropped["known"].documents >= 10
    hits = corpus.report.details.tasks["quiz"]["hits"]
    assert hits[f"{tmp_path / 'quiz.jsonl'}:1"]["span_words"] == 20
    found = "".join(texts(corpus.directory, tokenizer) + texts(corpus.directory, tokenizer, "val"))
    assert "<EMAIL>" in found
    assert "jo@example.org" not in found
    other = Duplicates(against=(tmp_path / "old.index",), ngram=4)
    with pytest.raises(ValueError, match="made with words 5-grams, 16 bands of 8 rows, seed 0, not with"):
        build_corpus(settings(tmp_path / "a.jsonl", tmp_path / "b", duplicates=other), tokenizer)


def test_settings_come_from_a_file_with_several_sources(tmp_path, pages, tokenizer, capsys):
    for name, part in (("web", pages[::2]), ("books", pages[1::2])):
        (tmp_path / f"{name}.jsonl").write_text(lines(part))
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "corpus.toml").write_text(
        f"""
        out = "{tmp_path / "out"}"
        tokenizer = "{tmp_path / "tokenizer"}"
        clean = false
        val_fraction = 0.1
        [[sources]]
        name = "web"
        weight = 3
        files = ["{tmp_path / "web.jsonl"}"]
        [[sources]]
        name = "books"
        weight = 1
        files = ["{tmp_path / "books.jsonl"}"]
        max_tokens = 2000
        """
    )
    assert run(["data", "build", str(tmp_path / "corpus.toml")]) == 0
    assert "max_tokens" in capsys.readouterr().out
    saved = json.loads((tmp_path / "out" / CORPUS).read_text())
    assert saved["sources"] == ["web", "books"]
    mixture = Mixture.load(tmp_path / "out" / "train")
    assert mixture.weights == {"web": 3, "books": 1}
    assert set(mixture.open()) == {"web", "books"}
    batch = Loader(tmp_path / "out" / "train", seq_len=32, batch_size=2).batch(0)
    assert batch.num_tokens > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": ()}, "name the files to read, or"),
        ({"partition_bytes": 10}, "partition_bytes must be at least 1024, got 10"),
        ({"num_threads": 0}, "num_threads must be at least 1"),
        ({"files": (), "sources": (Source(files=("a",)), Source(files=("b",)))}, "needs a name"),
        (
            {
                "files": (),
                "sources": (Source(files=("a",), name="a", weight=1), Source(files=("b",), name="b")),
            },
            "all sources need weight, or none; b has none",
        ),
    ],
)
def test_settings_that_cannot_be_are_one_error(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        BuildConfig(**{"files": ("a.txt",), "out": tmp_path, "tokenizer": tmp_path, **options})
    with pytest.raises(ValueError, match="sample must be above 0"):
        Source(files=("a",), sample=0)
    with pytest.raises(ValueError, match="name of a directory"):
        Source(files=("a",), name="../up")


def test_the_places_of_the_tail_are_those_of_the_bytes(tmp_path, pages, tokenizer):
    (tmp_path / "a.jsonl").write_text(lines(pages))
    corpus = build_corpus(
        settings(tmp_path / "a.jsonl", tmp_path / "out", partition_bytes=4096, split="tail"), tokenizer
    )
    whole = build_corpus(settings(tmp_path / "a.jsonl", tmp_path / "hash"), tokenizer)
    train, val = (texts(corpus.directory, tokenizer, side) for side in ("train", "val"))
    joined = "".join(train + val)
    assert len("".join(val).encode()) / len(joined.encode()) == pytest.approx(0.1, abs=0.001)
    kept = [one.text for one in dedup(clean(read_documents(tmp_path / "a.jsonl"), RULES))]
    assert joined == "".join(kept)
    assert len(joined) == len(
        "".join(texts(whole.directory, tokenizer) + texts(whole.directory, tokenizer, "val"))
    )
    assert np.all(Shards(corpus.directory / "train").lengths() > 0)
