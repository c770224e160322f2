import json
import math

import numpy as np
import pytest
import torch

from tempa.align.grade import Task, same_words
from tempa.align.records import Pair
from tempa.cli import run
from tempa.data.packed import Packed
from tempa.engine import Engine
from tempa.eval import (
    best_of_n_divergence,
    bits_per_byte,
    exact_answer,
    pair_accuracy,
    performance_gap_recovered,
    win_rate,
)
from tempa.model import ModelConfig, ScalarHead, Transformer, save_model
from tempa.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat", "the dog: \N{DOG FACE}\N{DOG FACE} naïve!", "one two three " * 20]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the cat sat on the mat one two three " * 4], vocab_size=290)


@pytest.fixture
def model(tokenizer):
    shape = ModelConfig(vocab_size=tokenizer.vocab_size, depth=1, width=32, num_heads=2, max_positions=32)
    model = Transformer(shape)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def test_trap_l17_bits_are_per_byte_of_the_text_itself(model, tokenizer):
    """One by one, without windows; a token that is part of a character decodes to more bytes than it has."""
    nats, num_bytes, round_trip = 0.0, 0, 0
    for text in TEXTS[:2]:
        ids = np.array(tokenizer.encode(text))
        nats -= float(model.logps(Packed.from_rows([ids]))[:-1].detach().sum())
        num_bytes += len(text.encode()) - len(tokenizer.token_bytes(int(ids[0])))
        round_trip += sum(len(tokenizer.decode([i]).encode()) for i in ids[1:])
    estimate = bits_per_byte(model, tokenizer, TEXTS[:2])
    assert estimate.mean == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
    assert round_trip > num_bytes


def test_long_texts_are_read_in_windows_that_miss_no_token(model, tokenizer):
    ids = np.array(tokenizer.encode(TEXTS[2]))
    assert len(ids) > 32
    nats = 0.0
    for t in range(1, len(ids)):
        start = (t - 1) // 31 * 31
        nats -= float(model.logps(Packed.from_rows([ids[start : t + 1]]))[-2].detach())
    num_bytes = len(TEXTS[2].encode()) - len(tokenizer.token_bytes(int(ids[0])))
    estimate = bits_per_byte(model, tokenizer, TEXTS[2:])
    assert estimate.mean == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-4)


def test_a_uniform_model_needs_the_entropy_of_the_vocabulary(tokenizer):
    shape = ModelConfig(vocab_size=tokenizer.vocab_size, depth=1, width=32, num_heads=2, tied=False)
    ids = tokenizer.encode(TEXTS[0])
    num_bytes = len(TEXTS[0].encode()) - len(tokenizer.token_bytes(ids[0]))
    expected = (len(ids) - 1) * math.log2(tokenizer.vocab_size) / num_bytes
    assert bits_per_byte(Transformer(shape), tokenizer, TEXTS[:1]).mean == pytest.approx(expected, rel=1e-5)


def test_texts_without_anything_to_predict_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="none of 2 texts"):
        bits_per_byte(model, tokenizer, ["", "t"])


def test_answers_are_graded_with_their_tasks(model, tokenizer):
    tasks = [Task(({"role": "user", "content": word},), word) for word in ("one", "two", "cat")]
    answers = exact_answer(
        Engine(model, tokenizer), tasks, lambda _, task: float(task.answer == "two"), max_new_tokens=3
    )
    assert answers.scores.tolist() == [0, 1, 0]
    assert answers.accuracy.mean == pytest.approx(1 / 3)
    assert answers.stop_rate.count == 3
    with pytest.raises(ValueError, match="needs a tokenizer"):
        exact_answer(Engine(model), tasks)


def test_words_are_compared_without_case_articles_and_punctuation():
    for text, answer, score in [
        ("The Blue Lake.", "blue lake", 1),
        ("a cat", "cat", 1),
        ("blue lakes", "blue lake", 0),
        ("", "blue", 0),
    ]:
        assert same_words(text, Task((), answer)) == score


def test_pairs_are_judged_by_score_or_by_probability(model, tokenizer):
    prompt = ({"role": "user", "content": "one"},)
    pairs = [Pair(prompt, "cat", "the cat sat on the mat"), Pair(prompt, "the cat sat on the mat", "cat")]
    # A longer answer has the lower summed log-probability.
    assert pair_accuracy(model, tokenizer, pairs).mean == 0.5
    assert pair_accuracy(model, tokenizer, pairs[:1]).mean == 1
    assert pair_accuracy(ScalarHead(model), tokenizer, pairs).mean == 0


def test_a_tie_counts_half():
    assert win_rate([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 4.0, 0.0]).mean == 0.625
    with pytest.raises(ValueError, match="1 scores of ours, 2 of theirs"):
        win_rate([1.0], [1.0, 2.0])


def test_the_worked_numbers():
    """Ch4 §7: PGR (W2) and the divergence of best-of-N (I2)."""
    assert performance_gap_recovered(0.60, 0.76, 0.80) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="no gap"):
        performance_gap_recovered(0.5, 0.6, 0.5)
    expected = {1: 0, 2: 0.193147, 4: 0.636294, 16: 1.835089, 64: 3.174508, 256: 4.549084}
    for n, divergence in expected.items():
        assert best_of_n_divergence(n) == pytest.approx(divergence, abs=1e-6)


def test_the_divergence_of_best_of_n_is_that_of_its_distribution():
    """By enumeration, for equally likely outputs without ties: it grows to the formula with their number."""
    m, n = 20_000, 4
    ranks = np.arange(m + 1) / m
    best = np.diff(ranks**n)
    assert (best * np.log(best * m)).sum() == pytest.approx(best_of_n_divergence(n), abs=1e-4)


@pytest.mark.parametrize("task", ["bpb", "qa", "math", "pairs"])
def test_the_command_prints_a_table(task, model, tokenizer, tmp_path, capsys):
    save_model(tmp_path / "model", model, tokenizer)
    record = {"prompt": "one", "answer": "two", "chosen": "cat", "rejected": "dog", "text": TEXTS[0]}
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(json.dumps({**record, "prompt": word}) for word in ("one", "two", "cat")))
    words = ["--model", str(tmp_path / "model"), "--task", task, "--max-new-tokens", "2", "--limit", "2"]
    assert run(["eval", *words, str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["measure", "mean", "95%", "interval", "items"]
    assert all(line.split()[-1] == "2" for line in lines[1:])
    assert len(lines) == (3 if task in ("qa", "math") else 2)


def test_the_command_judges_pairs_with_a_reward_model(model, tokenizer, tmp_path, capsys):
    save_model(tmp_path / "reward", ScalarHead(model), tokenizer)
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "one", "chosen": "cat", "rejected": "dog"}))
    assert run(["eval", "--model", str(tmp_path / "reward"), "--task", "pairs", str(file)]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_the_command_says_in_one_line_what_is_wrong(tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text("{}")
    status = run(["eval", "--model", str(tmp_path), "--task", "qa", str(tmp_path / "x.jsonl")])
    assert status == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
