"""Builds that are interrupted, that share a machine or run on many: the shards are always the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tempa.data.corpus import BuildConfig, build_corpus, local
from tempa.data.corpus.config import Perplexity
from tempa.data.corpus.plan import make_plan
from tempa.data.unwanted import Unwanted
from tempa.tokenizer import Tokenizer

WORDS = ["river", "stone", "bridge", "water", "mill", "town", "road", "field", "sing", "walk", "the", "of"]


def page(seed, num_words=60):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + str(rng.randrange(300)) for _ in range(num_words)) + "."


@pytest.fixture(scope="module")
def pages():
    """Pages, some equal but for case, some nearly equal."""
    made = [page(i) for i in range(200)]
    made += [made[i].upper() for i in range(0, 40, 4)]
    made += [made[i] + " One more sentence." for i in range(1, 40, 4)]
    return [{"text": text} for text in made]


@pytest.fixture(scope="module")
def tokenizer(pages):
    return Tokenizer.train([one["text"] for one in pages[:50]], vocab_size=320)


def lines(pages):
    return "".join(json.dumps(one) + "\n" for one in pages)


def settings(files, out, **options):
    files = files if isinstance(files, tuple) else (files,)
    options = {"clean": False, "val_fraction": 0.1, "tokenizer": out, **options}
    return BuildConfig(files=files, out=out, **options)


def content(out):
    """All bytes of a corpus but the reports, which have times."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("funnel"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_a_file_that_vanishes_is_a_problem(tmp_path, pages, tokenizer, monkeypatch):
    for name, part in (("a", pages[::2]), ("b", pages[1::2])):
        (tmp_path / f"{name}.jsonl").write_text(lines(part))
    files = (tmp_path / "a.jsonl", tmp_path / "b.jsonl")

    def plan_then_remove(*arguments):
        plan = make_plan(*arguments)
        files[1].unlink()
        return plan

    monkeypatch.setattr(local, "make_plan", plan_then_remove)
    corpus = build_corpus(settings(files, tmp_path / "out"), tokenizer)
    assert corpus.num_problems == 1
    assert corpus.report.details.problems[0]["file"].endswith("b.jsonl")
    assert "cannot be read: No such file" in corpus.report.details.problems[0]["reason"]
    with pytest.raises(FileNotFoundError):
        build_corpus(settings(files, tmp_path / "out2"), tokenizer)


KILLED = """
import sys
from tempa.cli import run
sys.exit(run(["data", *sys.argv[1:]]))
"""


def test_a_build_that_is_killed_goes_on_and_gives_the_same_shards(tmp_path, pages, tokenizer):
    (tmp_path / "a.jsonl").write_text(lines([{"text": page(i, 400)} for i in range(800)] + pages))
    tokenizer.save(tmp_path / "tokenizer")
    words = ["build", tmp_path / "a.jsonl", "--tokenizer", tmp_path / "tokenizer", "--no-clean"]
    words += ["--partition-bytes", "100000", "--num-threads", "2", "--out"]
    command = [sys.executable, "-c", KILLED, *map(str, words)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    rng, kills = random.Random(1), 0
    for _ in range(60):
        process = subprocess.Popen(
            [*command, str(tmp_path / "out")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        work = tmp_path / ".out.work"
        while process.poll() is None and not (work / "plan.json").exists():
            time.sleep(0.002)
        time.sleep(rng.random() * 0.08)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
        if kills == 5 or process.returncode == 0:
            break
    subprocess.run([*command, str(tmp_path / "out"), "--overwrite"], check=True, capture_output=True)
    assert kills >= 3
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert not work.exists()


def test_what_lists_models_and_evaluation_sets_hold_is_part_of_the_plan(tmp_path, pages):
    corpus, words, model, quiz = (tmp_path / name for name in ("a.jsonl", "words.txt", "model", "quiz.jsonl"))
    corpus.write_text(lines(pages))
    for aid in (words, model, quiz):
        aid.write_text("one")
    asked = settings(
        corpus,
        tmp_path / "out",
        unwanted=Unwanted(phrases=(words,)),
        perplexity=Perplexity(model=model, max=9),
        against=(f"{quiz}:question",),
    )
    plans = [make_plan(asked, "tokenizer").sha256()]
    assert make_plan(asked, "tokenizer").sha256() == plans[0]
    for aid in (words, model, quiz):
        aid.write_text("two")
        plans.append(make_plan(asked, "tokenizer").sha256())
    assert len(set(plans)) == 4


def test_a_damaged_work_directory_is_mended_and_one_of_another_build_refused(
    tmp_path, pages, tokenizer, monkeypatch
):
    (tmp_path / "a.jsonl").write_text(lines(pages))
    first = settings(tmp_path / "a.jsonl", tmp_path / "out", partition_bytes=4096)

    def interrupt(what, *_):
        if what == "tokenize":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_corpus(first, tokenizer, progress=interrupt)
    work = tmp_path / ".out.work"
    staged = sorted(work.glob("staged-*.docs"))
    assert len(staged) > 3
    staged[1].write_bytes(staged[1].read_bytes()[:-100])
    altered = bytearray(staged[2].read_bytes())
    altered[500] ^= 1
    staged[2].write_bytes(altered)
    with pytest.raises(
        ValueError, match="an earlier build with other settings, files or versions did not end"
    ):
        build_corpus(replace(first, val_fraction=0.2), tokenizer)
    whole = build_corpus(replace(first, out=tmp_path / "whole"), tokenizer)
    assert build_corpus(first, tokenizer).sha256 == whole.sha256


def test_two_processes_do_not_build_the_same_corpus(tmp_path, pages, tokenizer):
    fcntl = pytest.importorskip("fcntl", reason="locks of POSIX")
    (tmp_path / "a.jsonl").write_text(lines(pages))
    (tmp_path / ".out.work").mkdir()
    with (tmp_path / ".out.work" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FileExistsError, match="another process is building this corpus"):
            build_corpus(settings(tmp_path / "a.jsonl", tmp_path / "out"), tokenizer)


def test_a_ray_cluster_gives_the_same_shards(tmp_path, pages, tokenizer):
    ray = pytest.importorskip("ray", reason="needs ray: pip install 'tempa[ray]'")
    (tmp_path / "a.jsonl").write_text(lines(pages))
    plain = build_corpus(settings(tmp_path / "a.jsonl", tmp_path / "plain", partition_bytes=4096), tokenizer)
    python = os.pathsep.join(filter(None, sys.path))
    for num_cpus in (2, 1):
        ray.init(
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=80 << 20,
            runtime_env={"env_vars": {"PYTHONPATH": python}},
        )
        try:
            out = tmp_path / f"ray{num_cpus}"
            made = build_corpus(
                settings(tmp_path / "a.jsonl", out, partition_bytes=4096, ray="local"), tokenizer
            )
        finally:
            ray.shutdown()
        assert made.sha256 == plain.sha256
        assert made.report.stages[-1].to_dict() == plain.report.stages[-1].to_dict()
