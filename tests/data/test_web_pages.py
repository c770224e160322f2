"""Corpora of pages as they were fetched."""

import gzip
import json
import random
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempa.data.corpus import BuildConfig, build_corpus
from tempa.data.rules import Rules
from tempa.data.shards import Shards
from tempa.tokenizer import Tokenizer

pytest.importorskip("resiliparse", reason="the extra html is not installed")

WORDS = ["river", "stone", "bridge", "water", "mill", "town", "road", "field", "über"]


def prose(seed):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + str(rng.randrange(300)) for _ in range(40)) + "."


def html(text):
    return f"<nav><a href='/'>Home</a></nav><article><p>{text}</p></article><footer>Imprint</footer>"


def response(url, body, kind="text/html", status="200 OK", header=""):
    http = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{header}\r\n".encode() + body
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nContent-Length: {len(http)}\r\n\r\n"
    return head.encode() + http + b"\r\n\r\n"


@pytest.fixture(scope="module")
def pages():
    return [prose(seed) for seed in range(30)]


@pytest.fixture(scope="module")
def tokenizer(pages):
    return Tokenizer.train(pages, vocab_size=320)


def build(file, tokenizer, *, html=True, **options):
    out = file.parent / f"{file.name}-{html}-{options.get('num_threads')}"
    options = {"val_fraction": 0.2, "partition_bytes": 4096, **options}
    settings = BuildConfig(files=(file,), out=out, tokenizer=out, html=html, rules=Rules.none(), **options)
    return build_corpus(settings, tokenizer)


def texts(corpus, tokenizer):
    found = []
    for side in ("train", "val"):
        shards = Shards(corpus.directory / side)
        found += [tokenizer.decode(shards.document(i)) for i in range(shards.num_documents)]
    return sorted(text.removesuffix("<|endoftext|>") for text in found)


def test_fetched_pages_become_documents_and_the_rest_is_counted(tmp_path, pages, tokenizer):
    records = [response(f"https://a.org/{i}", html(text).encode()) for i, text in enumerate(pages)]
    latin = html(pages[0]).encode("latin-1")
    records[0] = response("https://a.org/0", latin, "text/html; charset=iso-8859-1")
    packed = gzip.compress(html(pages[1]).encode())
    records[1] = response("https://a.org/1", packed, header="Content-Encoding: gzip\r\n")
    records += [
        response("https://a.org/logo", b"\x89PNG", "image/png"),
        response("https://a.org/gone", html("not found").encode(), status="404 Not Found"),
        response("https://a.org/torn", packed[:30], header="Content-Encoding: gzip\r\n"),
    ]
    file = tmp_path / "a.warc.gz"
    file.write_bytes(b"".join(map(gzip.compress, records)))
    corpus = build(file, tokenizer)
    assert texts(corpus, tokenizer) == sorted(pages)
    read = corpus.report.stages[0]
    counts = {rule: dropped.documents for rule, dropped in read.dropped.items()}
    assert counts == {"content_type": 1, "http_status": 1, "unreadable": 1}
    assert read.dropped["content_type"].examples[0].reason == '"image/png", not HTML'
    assert corpus.num_problems == 1
    assert corpus.report.details.hosts["a.org"].documents == len(pages)


def test_fields_may_hold_html(tmp_path, pages, tokenizer):
    values = [html(text) for text in pages]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": value}) + "\n" for value in values))
    pq.write_table(pa.table({"text": values}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": [one.encode("latin-1") for one in values]}), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.parquet", "c.parquet"):
        assert texts(build(tmp_path / name, tokenizer), tokenizer) == sorted(pages)
    (as_it_is, *_) = texts(build(tmp_path / "a.jsonl", tokenizer, html=False), tokenizer)
    assert as_it_is.startswith("<nav>")


def test_shards_do_not_depend_on_threads(tmp_path, pages, tokenizer):
    for part in range(3):
        records = [response(f"https://a.org/{i}", html(pages[i]).encode()) for i in range(part, 30, 3)]
        (tmp_path / f"{part}.warc").write_bytes(b"".join(records))
    made = [build(tmp_path, tokenizer, num_threads=n, partition_bytes=1024, overwrite=True) for n in (1, 3)]
    assert made[0].sha256 == made[1].sha256


def test_a_build_without_the_library_fails_before_it_begins(tmp_path, pages, tokenizer, monkeypatch):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": html(pages[0])}))
    monkeypatch.setitem(sys.modules, "resiliparse", None)
    with pytest.raises(ModuleNotFoundError, match=r"tempa\[html\]"):
        build(file, tokenizer)
    assert list(tmp_path.iterdir()) == [file]


def test_without_html_fetched_pages_are_problems_that_say_what_to_set(tmp_path, pages, tokenizer):
    text = "".join(
        f"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: {len(one.encode())}\r\n\r\n{one}\r\n\r\n"
        for one in pages
    )
    file = tmp_path / "a.warc"
    file.write_bytes(text.encode() + response("https://a.org/", b"<p>x"))
    corpus = build(file, tokenizer, html=False)
    assert texts(corpus, tokenizer) == sorted(pages)
    assert "html = true" in corpus.report.details.problems[0]["reason"]
