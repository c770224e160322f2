"""Exact and near duplicates against brute force, with recall and precision."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from tempa import _core
from tempa.data.documents import Document
from tempa.data.duplicates import Duplicates, collision_probability, dedup, write_index
from tempa.data.funnel import FunnelReport


def shingles_of(text, ngram=5):
    """The word n-grams of a text, as strings."""
    words = "".join(char if char.isalnum() else " " for char in text.lower()).split()
    return {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)}


def similarity(a, b):
    return 0.0 if a.isdisjoint(b) else len(a & b) / len(a | b)


@pytest.fixture(scope="module")
def corpus():
    """Texts of random words, each with copies in which more and more words are replaced."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"w{i}" for i in range(3000)])
    texts = []
    for _ in range(150):
        original = rng.choice(vocabulary, rng.integers(60, 300))
        for share in (0, *rng.uniform(0, 0.05, 3)):
            other = rng.choice(vocabulary, len(original))
            texts.append(" ".join(np.where(rng.random(len(original)) < share, other, original)))
    return [texts[i] for i in rng.permutation(len(texts))]


@pytest.fixture(scope="module")
def shingles(corpus):
    return [shingles_of(text) for text in corpus]


@pytest.fixture(scope="module")
def original_of(shingles):
    """By brute force: dropped text -> greatest similarity to a text that is kept before it."""
    kept, dropped = [], {}
    for i, own in enumerate(shingles):
        greatest = max((similarity(own, shingles[j]) for j in kept), default=0.0)
        if greatest >= 0.8:
            dropped[i] = greatest
        else:
            kept.append(i)
    return dropped


def documents(texts):
    return [Document(text, str(i)) for i, text in enumerate(texts)]


def kept_places(texts, settings=None):
    return [int(document.source) for document in dedup(documents(texts), settings)]


def test_shingle_similarity_is_that_of_word_ngrams(corpus):
    for a, b in pairwise(corpus[:50]):
        mixed = b + " " + a[: len(a) // 2]
        ours = [set(_core.shingle_set(text, "words", 5).tolist()) for text in (a, mixed)]
        assert similarity(*ours) == pytest.approx(similarity(shingles_of(a), shingles_of(mixed)))


def test_recall_is_that_of_the_s_curve_and_precision_is_one(corpus, shingles, original_of):
    first, _ = _core.near_duplicates(corpus, Duplicates().options())
    found = [(i, int(j)) for i, j in enumerate(first) if i != j]
    assert all(similarity(shingles[i], shingles[j]) >= 0.8 for i, j in found)
    expected = np.mean([collision_probability(greatest) for greatest in original_of.values()])
    recall = len(original_of.keys() & {i for i, _ in found}) / len(original_of)
    assert len(original_of) > 200
    # Four standard errors below; above, because a text may be near to several kept ones.
    assert recall >= expected - 4 * np.sqrt(expected * (1 - expected) / len(original_of))
    assert expected > 0.95


def test_enough_bands_give_the_brute_force_result(corpus, original_of):
    kept = kept_places(corpus, Duplicates(bands=64, rows=3))
    assert kept == [i for i in range(len(corpus)) if i not in original_of]


def test_the_result_does_not_depend_on_the_number_of_threads(corpus, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(corpus))
    code = (
        "import sys; from tempa import _core\n"
        "texts = open(sys.argv[1]).read().split('\\n')\n"
        "print(_core.near_duplicates(texts, (0.8, 'words', 5, 16, 8, 0, True))[0].tolist())\n"
        "print(_core.exact_duplicates(texts).tolist())"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", code, path],
            env={**os.environ, "RAYON_NUM_THREADS": threads},
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "5")
    }
    assert len(results) == 1


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        (["One fish.", "one  FISH.\n", "one fish"], [0, 2]),  # case and spaces do not count, punctuation does
        (["cafe\u0301", "café"], [0]),
        (["", " \n", "x"], [0, 2]),
    ],
)
def test_exact_duplicates_are_equal_but_for_case_and_spaces(texts, kept):
    assert kept_places(texts, Duplicates(near=False)) == kept


def test_short_and_unspaced_texts_neither_all_collide_nor_all_vanish():
    """Trap B5: word 5-grams do not exist in short documents and in scripts without spaces."""
    long = "今日は天気がいいので、公園まで散歩に行きました。桜の花がきれいに咲いていて、皆が喜んでいました。"
    short = ["ok", "no", "good morning", "good evening"]
    texts = [*short, long, long.replace("桜", "梅"), "雨の日は家で本を読むのが好きです。"]
    assert kept_places(texts, Duplicates(threshold=0.7)) == [0, 1, 2, 3, 4, 6]


def test_the_longest_or_the_best_is_kept_in_any_order(corpus):
    text = corpus[0]
    texts = [text, text + " and more", text + " but less so"]
    for some in (texts, texts[::-1]):
        kept = dedup(documents(some), Duplicates(keep="longest"))
        assert [document.text for document in kept] == [texts[2]]
        kept = dedup(documents(some), score=lambda document: -len(document.text))
        assert [document.text for document in kept] == [texts[0]]


def test_clusters_are_connected_duplicates(corpus):
    kept, cluster = _core.near_duplicates(corpus, Duplicates().options())
    assert (cluster[kept] == cluster).all()
    assert (cluster <= np.arange(len(corpus))).all()
    assert (cluster == kept).mean() > 0.9


@pytest.mark.parametrize("unit", ["runs", "characters"])
def test_other_units_compare_what_they_say(unit):
    text = "The quick brown fox jumps over the lazy dog and runs into the deep dark wood beyond the hill."
    texts = [text, text.upper(), text.replace(" ", "\n")]
    found = {"runs": [0, 1], "characters": [0]}
    assert kept_places(texts, Duplicates(exact=False, unit=unit)) == found[unit]


def test_bands_are_chosen_for_the_threshold():
    assert Duplicates(threshold=0.8).layout() == (16, 8)
    assert Duplicates(threshold=0.5).layout() != (16, 8)
    assert Duplicates(bands=9, rows=13).layout() == (9, 13)


def test_a_new_crawl_is_compared_with_published_ones(corpus, tmp_path):
    """Two published crawls and a new one: what is like the first two goes, and says why."""
    first, second, new = corpus[:100], corpus[100:200], corpus[200:300]
    write_index(documents(first), tmp_path / "first.index")
    write_index(documents(second), tmp_path / "second.index")
    paths = (tmp_path / "first.index", tmp_path / "second.index")
    report = FunnelReport(max_examples=1000)
    kept = dedup(documents(new), Duplicates(against=paths, exact=False, near=False), report=report)
    sets = [shingles_of(text) for text in (*first, *second)]
    greatest = [max(similarity(shingles_of(text), other) for other in sets) for text in new]
    is_kept = {int(document.source) for document in kept}
    # Signatures of 128 hashes decide within four standard errors.
    assert all(similar < 0.8 + 0.15 for i, similar in enumerate(greatest) if i in is_kept)
    assert all(similar > 0.8 - 0.15 for i, similar in enumerate(greatest) if i not in is_kept)
    (stage,) = report.stages
    assert 10 < stage.dropped["known"].documents == len(new) - len(kept)
    assert "first.index" in stage.dropped["known"].examples[0].reason


def test_a_truncated_index_is_an_error_that_names_it(corpus, tmp_path):
    path = tmp_path / "old.index"
    write_index(documents(corpus[:10]), path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"old\.index: .* truncated"):
        dedup([], Duplicates(against=(path,)))
    with pytest.raises(FileExistsError):
        write_index([], path)


def test_white_space_only_copies_are_found(corpus):
    """Trap B1: two tools found none of these, because empty words shifted their shingles."""
    text = corpus[0]
    assert kept_places(
        [text, text.replace(" ", "  \n"), text.replace(" ", " , ")], Duplicates(exact=False)
    ) == [0]


def test_the_report_adds_up_and_names_the_original(corpus):
    report = FunnelReport(max_examples=1000)
    texts = [*corpus, corpus[0] + " "]
    kept = dedup(documents(texts), report=report)
    (stage,) = report.stages
    assert stage.input.documents == len(texts) == len(kept) + sum(d.documents for d in stage.dropped.values())
    assert stage.input.bytes == sum(len(text.encode()) for text in texts)
    assert stage.output.bytes == sum(len(document.text.encode()) for document in kept)
    assert stage.dropped["exact"].examples[-1].source == str(len(corpus))
    assert {drop.reason for drop in stage.dropped["near"].examples} <= {
        f"duplicate of {document.source}" for document in kept
    }


def test_the_s_curve_is_the_formula():
    assert collision_probability(0.8, bands=9, rows=13) == pytest.approx(0.399, abs=1e-3)  # trap B5
    assert collision_probability(0.8, bands=14, rows=8) == pytest.approx(0.924, abs=1e-3)  # FineWeb
    assert collision_probability(1.0) == 1.0
    assert collision_probability(0.0) == 0.0


@pytest.mark.parametrize(
    "change",
    [{"threshold": 0}, {"threshold": 1.5}, {"ngram": 0}, {"bands": 5000}, {"bands": 8}, {"seed": -1}],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Duplicates(**change)
