"""The commands of `tempa data` that read shards."""

import json

import numpy as np
import pytest

from tempa.cli import run
from tempa.data.mixture import Mixture, Stage
from tempa.data.shards import ShardWriter


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
    assert "from 2,000 tokens on: code 100.0000%" in out
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
