"""The commands of `tempa data` that read shards."""

import json

import numpy as np
import pytest

from tempa.cli import run
from tempa.data.mixture import Mixture, Stage
from tempa.data.shards import Shards, ShardWriter, write_shards
from tempa.tokenizer import Tokenizer


def command(*words):
    return run(["data", *map(str, words)])


@pytest.fixture
def train(tmp_path):
    for name, num_documents in (("web", 300), ("code", 100)):
        with ShardWriter(tmp_path / "train" / name, "ab" * 32, 100) as writer:
            writer.add(np.ones(11 * num_documents, np.uint32), np.arange(num_documents + 1) * 11)
    return tmp_path / "train"


def test_mixture_prints_what_a_run_reads(train, capsys):
    stages = (Stage(from_tokens=2000, weights={"code": 1}),)
    Mixture(sources={name: train / name for name in ("web", "code")}, temperature=1, stages=stages).save(
        train
    )
    words = ["mixture", train, "--tokens", 4000, "--seq-len", 20]
    assert command(*words) == 0
    out = capsys.readouterr().out
    assert "from 2,000 tokens on: code 100.000%" in out
    assert "4,000 tokens in 200 rows of 20" in out
    assert command(*words, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(source["name"], source["rows"], source["tokens"]) for source in plan["sources"]] == [
        ("web", 75, 1500),
        ("code", 125, 2500),
    ]
    assert [source["epochs"] for source in plan["sources"]] == [0.5, 2.5]
    assert command("mixture", train / "nothing", "--tokens", 10) == 1
    assert (
        "nothing: no manifest.json or mixture.json, and no shard directory below" in capsys.readouterr().err
    )


@pytest.fixture
def corpus(tmp_path):
    tokenizer = Tokenizer.from_characters("abc")
    write_shards(tmp_path / "corpus" / "train" / "web", ["abc", "ca", "b"], tokenizer)
    write_shards(tmp_path / "corpus" / "val", ["cab"], tokenizer)
    tokenizer.save(tmp_path / "corpus" / "tokenizer.json")
    return tmp_path / "corpus"


def test_inspect_decodes_documents_and_notices_damage(corpus, capsys):
    assert command("inspect", corpus, "--source", "train/web", "--document", 0, 1) == 0
    out = capsys.readouterr().out
    assert "train/web: 3 documents, 9 tokens" in out
    assert "checksums right" in out
    assert "--- train/web, document 1: tokens 4 to 7\nca<|endoftext|>\n" in out
    assert command("inspect", corpus, "--source", "val", "--tokens") == 0
    assert "2\tc\n0\ta\n1\tb\n" in capsys.readouterr().out
    assert command("inspect", corpus, "--source", "train") == 1
    assert "no shards 'train'; there are train/web, val" in capsys.readouterr().err
    assert command("inspect", corpus, "--document", 2) == 1
    assert "document 2 of 1" in capsys.readouterr().err
    (corpus / "tokenizer.json").unlink()
    file = corpus / "train" / "web" / "shard-00000.bin"
    file.write_bytes(file.read_bytes()[:-8])
    assert command("inspect", corpus) == 1
    out = capsys.readouterr().out
    assert f"train/web: {file}" in out
    assert "not found beside them\n--- val, document 0: tokens 0 to 4\n2 0 1 3\n" in out


def test_sample_prints_the_same_documents_for_a_seed(corpus, tmp_path, capsys):
    shown = []
    for seed in (0, 0, 1, 2, 3):
        assert command("sample", corpus, "-n", 2, "--seed", seed) == 0
        shown.append(capsys.readouterr().out)
        assert shown[-1].count("<|endoftext|>") == 2
    assert shown[0] == shown[1]
    assert len(set(shown)) > 2
    assert command("sample", corpus, "-n", 9, "--source", "val") == 0
    assert capsys.readouterr().out == "--- val, document 0, 4 tokens\ncab<|endoftext|>\n"
    pages = tmp_path / "pages.jsonl"
    pages.write_text("".join(json.dumps({"body": f"text {i}"}) + "\n" for i in range(20)))
    assert command("sample", pages, "-n", 3, "--field", "body") == 0
    assert capsys.readouterr().out.count("--- ") == 3
    assert command("sample", pages, "--field", "body", "--source", "jsonl:20") == 0
    assert capsys.readouterr().out == f"--- {pages}:20, 7 characters\ntext 19\n"


def test_stats_of_shards_and_of_files(corpus, tmp_path, capsys):
    pages = tmp_path / "pages.jsonl"
    pages.write_text('{"text": "abcd"}\n{"text": "ab"}\n')
    assert command("stats", corpus, pages, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: figures["num_documents"] for name, figures in found.items()} == {
        str(corpus / "train" / "web"): 3,
        str(corpus / "val"): 1,
        str(pages): 2,
    }
    assert found[str(corpus / "val")]["num_bytes"] == 3
    assert command("stats", corpus / "train") == 0
    out = capsys.readouterr().out
    assert "bytes/token" in out
    assert "2 to 3" in out


def test_merge_joins_shards(corpus, capsys):
    words = ["merge", corpus / "train" / "web", corpus / "val", "--out", corpus / "all"]
    assert command(*words) == 0
    assert capsys.readouterr().out == f"{corpus / 'all'}: 4 documents, 13 tokens\n"
    assert Shards(corpus / "all").document(3).tolist() == [2, 0, 1, 3]
    assert command(*words) == 1
    assert "exists already" in capsys.readouterr().err
    assert command(*words, "--overwrite") == 0
