"""The trained classifier against the same method in numpy, and on real text."""

import json

import numpy as np
import pytest

from tempa import _core
from tempa.cli import run
from tempa.data.classify import Classifier, ClassifierSettings, classify, train_classifier
from tempa.data.documents import Document, read_documents, write_documents
from tempa.data.funnel import FunnelReport


@pytest.fixture(scope="module")
def kinds():
    """Kinds of text that share most of their words."""
    rng = np.random.default_rng(0)

    def page(kind, i):
        own, shared = rng.integers(0, 50, 3), rng.integers(0, 300, 12)
        words = [f"{kind}{word}" for word in own] + [f"word{word}" for word in shared]
        return Document(" ".join(rng.permutation(words)), f"{kind} {i}")

    return {
        "good": [page("good", i) for i in range(200)],
        "bad": [page("bad", i) for i in range(300)],
        "odd": [page("odd", i) for i in range(100)],
    }


@pytest.fixture(scope="module")
def two(kinds):
    return {label: kinds[label] for label in ("good", "bad")}


def numpy_probabilities(texts, labels, settings):
    """Logistic or softmax regression by AdaGrad, then a line or a slope by Newton steps, all in numpy."""
    shape = (settings.bits, settings.word_ngram, settings.char_ngram, settings.max_bytes)
    rows = [_core.text_features(text, shape) for text in texts]
    sides = _core.content_hashes(texts) / 2.0**64 / settings.held_out
    part = np.flatnonzero(sides >= 1)
    truth = np.eye(labels.max() + 1)[labels]
    # Of two labels, the first alone has a score.
    truth = truth[:, :1] if truth.shape[1] == 2 else truth
    activation = logistic if truth.shape[1] == 1 else softmax
    weights, squares = np.zeros((2, 1 << settings.bits, truth.shape[1]))
    bias, bias_squares = np.zeros((2, truth.shape[1]))
    for epoch in range(settings.epochs):
        for i in part[_core.permutation(len(part), settings.seed, epoch)]:
            buckets, values = rows[i]
            error = activation(values @ weights[buckets] + bias) - truth[i]
            gradient = values[:, None] * error
            squares[buckets] += gradient**2
            weights[buckets] -= settings.learning_rate * gradient / (np.sqrt(squares[buckets]) + 1e-8)
            bias_squares += error**2
            bias -= settings.learning_rate * error / (np.sqrt(bias_squares) + 1e-8)
    scores = np.array([values @ weights[buckets] + bias for buckets, values in rows])
    fit = fit_line if truth.shape[1] == 1 else fit_slope
    return fit(scores, scores[sides < 0.5], truth[sides < 0.5])


def logistic(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def fit_line(all_scores, scores, truth):
    good, bad = truth.sum(), (1 - truth).sum()
    target = np.where(truth, (good + 1) / (good + 2), 1 / (bad + 2))[:, 0]
    inputs = np.concatenate([scores, np.ones_like(scores)], 1)
    line = np.zeros(2)
    for _ in range(100):
        p = logistic(inputs @ line)
        hessian = inputs.T @ (inputs * (p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
        line -= 0.5 * np.linalg.solve(hessian, inputs.T @ (p - target))
    p = logistic(line[0] * all_scores + line[1])
    return np.concatenate([p, 1 - p], 1)


def fit_slope(all_scores, scores, truth):
    slope = 1.0
    for _ in range(100):
        p = softmax(slope * scores)
        mean = (p * scores).sum(1)
        curve = (p * scores**2).sum(1) - mean**2
        slope -= 0.5 * (mean - (truth * scores).sum(1)).sum() / curve.sum()
    return softmax(slope * all_scores)


@pytest.mark.parametrize("num_labels", [2, 3])
@pytest.mark.parametrize(
    "shape", [{"bits": 16}, {"bits": 8, "word_ngram": 1, "char_ngram": 4, "max_bytes": 60}]
)
def test_probabilities_are_those_of_numpy(kinds, shape, num_labels):
    settings = ClassifierSettings(**shape, epochs=3, held_out=0.4, seed=7)
    kinds = dict(list(kinds.items())[:num_labels])
    texts = [page.text for kind in kinds.values() for page in kind]
    labels = np.repeat(np.arange(num_labels), [len(kind) for kind in kinds.values()])
    classifier, _ = train_classifier(kinds, settings)
    # Ours sums in float32: 1e-3 is far below any difference of the method.
    expected = numpy_probabilities(texts, labels, settings)
    np.testing.assert_allclose(classifier.probabilities(texts), expected, atol=1e-3)


def test_files_come_back_and_the_report_adds_up(two, tmp_path):
    classifier, quality = train_classifier(two)
    assert quality.auc > 0.9
    classifier.save(tmp_path / "model")
    with pytest.raises(FileExistsError):
        classifier.save(tmp_path / "model")
    report = FunnelReport()
    pages = [*two["good"], *two["bad"]]
    kept = list(classify(pages, Classifier(tmp_path / "model"), ["good"], 0.6, report=report))
    good = classifier.probabilities([page.text for page in pages])[:, 0]
    assert [item.document for item in kept] == [pages[i] for i in np.flatnonzero(good >= 0.6)]
    (stage,) = report.stages
    assert stage.input.bytes == stage.output.bytes + stage.dropped["min_probability"].bytes


def test_documents_are_kept_by_the_sum_of_the_labels_that_are_wanted(kinds):
    classifier, quality = train_classifier(kinds)
    assert classifier.labels == ["good", "bad", "odd"]
    assert quality.accuracy > 0.7
    pages = [page for kind in kinds.values() for page in kind]
    each = classifier.probabilities([page.text for page in pages])
    kept = list(classify(pages, classifier, ["odd", "good"], 0.7))
    chosen = np.flatnonzero(each[:, 0] + each[:, 2] >= 0.7)
    assert [item.document for item in kept] == [pages[i] for i in chosen]
    assert [item.label for item in kept] == [classifier.labels[each[i].argmax()] for i in chosen]
    assert [item.probability for item in kept] == each[chosen].max(1).tolist()
    assert len(list(classify(pages, classifier, min_probability=1))) == len(pages)
    with pytest.raises(ValueError, match="no label 'fine'; it has good, bad, odd"):
        classify(pages, classifier, ["fine"])


def test_altered_files_are_refused(two, tmp_path):
    train_classifier(two)[0].save(tmp_path / "model")
    data = bytearray((tmp_path / "model").read_bytes())
    data[1000] ^= 1
    (tmp_path / "model").write_bytes(data)
    with pytest.raises(ValueError, match=r"model: the checksum does not match"):
        Classifier(tmp_path / "model")


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 0},
        {"max_bytes": -1},
        {"word_ngram": 9},
        {"epochs": 0},
        {"learning_rate": 0},
        {"held_out": 1},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ClassifierSettings(**change)


def test_one_kind_alone_is_refused(two):
    with pytest.raises(ValueError, match=r'no text of label "bad" among \d+ to train on'):
        train_classifier({**two, "bad": []})
    with pytest.raises(ValueError, match="two labels or more"):
        train_classifier({"good": two["good"]})


def test_commands_train_and_apply(kinds, tmp_path, capsys):
    for name, kind in kinds.items():
        write_documents(tmp_path / f"{name}.jsonl", kind)
    files = [str(tmp_path / f"{name}.jsonl") for name in kinds]
    model, out = str(tmp_path / "m"), tmp_path / "out.jsonl"
    words = ["data", "classify"]
    assert run([*words, "train", *files, "--out", model]) == 0
    assert "3 labels, good, bad, odd" in capsys.readouterr().out
    assert run([*words, "apply", *files, "--model", model, "--keep", "good", "--out", str(out)]) == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert sum("good" in record["source"] for record in records) > 0.9 * len(records)
    assert {record["label"] for record in records} == {"good"}
    assert all(0.5 <= record["probability"] <= 1 for record in records)
    # What was written has its labels in a field, from which another classifier learns.
    assert run([*words, "apply", *files, "--model", model, "--out", str(tmp_path / "all.jsonl")]) == 0
    again = [*words, "train", str(tmp_path / "all.jsonl"), "--label", "label", "--out", str(tmp_path / "n")]
    assert run(again) == 0
    assert "3 labels, bad, good, odd" in capsys.readouterr().out


def test_real_questions_and_plays_are_told_apart(shared_data):
    """Tiny Shakespeare against problems of GSM8K: words alone should do, with few wrong."""
    play = (shared_data / "tinyshakespeare.txt").read_text()
    speeches = [Document(speech, "play") for speech in play.split("\n\n") if len(speech) > 60]
    problems = list(read_documents(shared_data / "gsm8k-train.jsonl", field="question"))
    _, quality = train_classifier({"problem": problems, "speech": speeches})
    assert quality.auc > 0.999
    assert quality.calibration_error < 0.01
