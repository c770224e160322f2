"""The n-gram model against the formulas in plain Python, on real text, and as a step of a build."""

import json
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from tempa import _core
from tempa.cli import run
from tempa.data.documents import Document, read_documents
from tempa.data.funnel import FunnelReport
from tempa.data.perplexity import NgramModel, NgramSettings, keep_perplexity, train_ngram_model

BEGIN, UNKNOWN = "<begin>", "<unknown>"


class KneserNey:
    """Interpolated modified Kneser-Ney over words that are separated by spaces, from dictionaries."""

    def __init__(self, texts, order, min_word_count, min_ngram_count):
        counts = Counter(word for text in texts for word in text.split())
        self.words = {word for word, count in counts.items() if count >= min_word_count}
        self.num_rare = len(counts) - len(self.words)
        self.order = order
        raw = [Counter() for _ in range(order + 1)]
        for text in texts:
            words = self.known([BEGIN, *text.split()])
            for length in range(1, order + 1):
                for start in range(1 if length == 1 else 0, len(words) + 1 - length):
                    raw[length][words[start : start + length]] += 1
        self.levels = [None]
        for length in range(1, order + 1):
            adjusted = raw[length]
            if length < order:
                before = Counter(ngram[1:] for ngram in raw[length + 1])
                adjusted = {g: c if g[0] == BEGIN else before[g] for g, c in raw[length].items()}
            kept = {g for g, c in raw[length].items() if length < 3 or c >= min_ngram_count}
            self.levels.append(self.level(adjusted, kept))
        self.vocabulary = {word for (word,) in raw[1]} | {UNKNOWN}

    def known(self, words):
        return tuple(word if word in self.words or word == BEGIN else UNKNOWN for word in words)

    def level(self, adjusted, kept):
        of = Counter(adjusted.values())
        discounts = [0.5, 1.0, 1.5]
        if all(of[i] for i in (1, 2, 3)):
            share = of[1] / (of[1] + 2 * of[2])
            estimated = [i - (i + 1) * share * of[i + 1] / of[i] for i in (1, 2, 3)]
            if all(0 < d < i for i, d in enumerate(estimated, start=1)):
                discounts = estimated
        total, free = defaultdict(float), defaultdict(float)
        for ngram, count in adjusted.items():
            total[ngram[:-1]] += count
            free[ngram[:-1]] += discounts[min(count, 3) - 1] if ngram in kept else count
        own = {g: (adjusted[g] - discounts[min(adjusted[g], 3) - 1]) / total[g[:-1]] for g in kept}
        return own, {context: free[context] / total[context] for context in total}

    def p(self, ngram):
        if not ngram:
            return 1 / len(self.vocabulary)
        own, backoff = self.levels[len(ngram)]
        return own.get(ngram, 0.0) + backoff.get(ngram[:-1], 1.0) * self.p(ngram[1:])

    def perplexity(self, text):
        words = self.known([BEGIN, *text.split()])
        nats = 0.0
        for at in range(1, len(words)):
            alike = self.num_rare + 1 if words[at] == UNKNOWN else 1
            nats -= math.log(self.p(words[max(0, at + 1 - self.order) : at + 1]) / alike)
        return math.exp(nats / (len(words) - 1))


def zipf_texts(seed, num, num_words=60):
    """Texts of words whose counts fall off like those of a language, each word after some it likes."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(num):
        words = rng.zipf(1.4, num_words) % 500
        words[1::2] = words[::2] // 2
        texts.append(" ".join(f"w{word}" for word in words))
    return texts


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize(("min_word_count", "min_ngram_count"), [(1, 1), (2, 2), (3, 4)])
def test_perplexities_are_those_of_modified_kneser_ney(order, min_word_count, min_ngram_count):
    texts, others = zipf_texts(0, 150), [*zipf_texts(1, 20), "w1", "never heard", "w1 never w2 w2"]
    core = _core.NgramModel.train(texts, order, min_word_count, min_ngram_count)
    reference = KneserNey(texts, order, min_word_count, min_ngram_count)
    expected = [reference.perplexity(text) for text in [*texts, *others]]
    # A surprise is the sum of at most `order` numbers, each rounded to 1/2048 of a nat.
    found = core.perplexities([*texts, *others])
    np.testing.assert_allclose(np.log(found), np.log(expected), rtol=0, atol=order / 4096)


def test_a_text_of_unknown_words_is_not_a_probable_one():
    texts = zipf_texts(0, 300)
    model, _ = train_ngram_model([Document(text, "") for text in texts])
    like, unlike = model.perplexities([zipf_texts(5, 1)[0], " ".join(f"q{i}" for i in range(60))])
    assert unlike > 10 * like


def test_documents_that_are_held_out_are_not_trained_on():
    documents = [Document(text, "") for text in zipf_texts(0, 200)]
    settings = NgramSettings(held_out=0.3)
    model, held_out = train_ngram_model(documents, settings)
    texts = [document.text for document in documents]
    is_out = _core.content_hashes(texts) / 2.0**64 < 0.3
    assert 30 < is_out.sum() == len(held_out) < 90
    left = [text for text, is_out in zip(texts, is_out, strict=True) if not is_out]
    assert model._core.encode() == _core.NgramModel.train(left, 3, 2, 2).encode()


def test_prose_is_less_surprising_than_lists_and_shuffled_prose(shared_data):
    text = (shared_data / "tinyshakespeare.txt").read_text()
    parts = [Document(part, "") for part in text.split("\n\n")]
    model, held_out = train_ngram_model(parts)
    rng = np.random.default_rng(0)
    prose = " ".join(part.text for part in parts[:50])
    shuffled = " ".join(rng.permutation(prose.split()))
    names = " ".join(f"{word}{i}" for i, word in enumerate(prose.split()))
    plain, mixed, broken = model.perplexities([prose, shuffled, names])
    assert 4 * plain < 2 * mixed < broken
    assert np.median(held_out) < 5000


def test_documents_out_of_range_are_dropped_and_counted():
    documents = [Document(text, str(i)) for i, text in enumerate(zipf_texts(0, 100))]
    model, _ = train_ngram_model(documents)
    measured = model.perplexities([document.text for document in documents])
    least = float(np.sort(measured)[3])
    odd = [Document("zxq vvb jjw kkp " * 9, "odd"), Document(" -- ", "empty")]
    report = FunnelReport()
    limits = {"min_perplexity": least, "max_perplexity": 100.0}
    kept = list(keep_perplexity([*documents, *odd], model, **limits, report=report))
    expected = [(one.source, p) for one, p in zip(documents, measured, strict=True) if p >= least]
    assert [(one.document.source, one.perplexity) for one in kept] == expected
    assert len(kept) == 97
    (stage,) = report.stages
    dropped = {rule: dropped.documents for rule, dropped in stage.dropped.items()}
    assert dropped == {"max_perplexity": 2, "min_perplexity": 3}
    assert stage.dropped["max_perplexity"].examples[1].reason == "inf, the threshold is 100"
    assert len(list(keep_perplexity(odd, model))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 7}, "order must be 1 to 6, got 7"),
        ({"min_word_count": 0}, "min_word_count must be 1 to"),
        ({"held_out": 1.0}, "held_out must be between 0 and 1, got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        NgramSettings(**change)


def test_documents_that_no_model_can_be_made_of_are_refused():
    with pytest.raises(ValueError, match="none of 2 documents is held out"):
        train_ngram_model([Document("a b", ""), Document("c d", "")], NgramSettings(held_out=1e-9))
    wordless = [Document("-" * i, "") for i in range(1, 99)]
    with pytest.raises(ValueError, match="to train on have no words"):
        train_ngram_model(wordless)
    with pytest.raises(ValueError, match="from 0 to the most, got 3 and 2"):
        keep_perplexity([], None, min_perplexity=3, max_perplexity=2)


def test_commands_train_a_model_and_apply_it(tmp_path, capsys):
    pages, model, out = (tmp_path / name for name in ("pages.jsonl", "model", "kept.jsonl"))
    texts = [*zipf_texts(0, 200), "odd unheard words here"]
    pages.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert run(["data", "perplexity", "train", str(pages), "--out", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "n-grams of up to 3 words" in shown
    assert "documents it never saw" in shown
    apply = ["data", "perplexity", "apply", str(pages)]
    apply += ["--model", str(model), "--out", str(out), "--max", "100"]
    assert run(apply) == 0
    assert "max_perplexity" in capsys.readouterr().out
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["text"] for record in records] == texts[:-1]
    measured = NgramModel(model).perplexities(texts[:-1])
    np.testing.assert_allclose([record["perplexity"] for record in records], measured, atol=1e-3)
    assert next(read_documents(out)).text == texts[0]
    model.write_bytes(model.read_bytes()[:-8])
    assert run([*apply, "--overwrite"]) == 1
    assert "truncated or altered" in capsys.readouterr().err
