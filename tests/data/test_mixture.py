"""Mixtures: what is accepted, the shares that follow, and the file form."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tempa.data.mixture import MIXTURE, Mixture, Stage
from tempa.data.shards import ShardWriter

SOURCES = {"web": "web", "code": "code", "books": "books"}
SIZES = {"web": 8000, "code": 1000, "books": 1000}


def shard_directory(path, *, fingerprint="ab" * 32):
    with ShardWriter(path, fingerprint, 100) as writer:
        writer.add(np.arange(40, dtype=np.uint32), np.array([0, 30, 40]))
    return path


def shares(num_tokens=None, sizes=SIZES, **options):
    return [stage.weights for stage in Mixture(sources=SOURCES, **options).shares(sizes, num_tokens)]


def test_shares_are_by_size_when_nothing_is_said():
    assert shares() == [{"web": 0.8, "code": 0.1, "books": 0.1}]


def test_weights_are_relative_and_sources_without_one_are_not_read():
    stages = (Stage(from_tokens=10, weights={"books": 7}),)
    assert shares(weights={"web": 3, "code": 1}, stages=stages) == [
        {"web": 0.75, "code": 0.25, "books": 0},
        {"web": 0, "code": 0, "books": 1},
    ]


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.7, 1.0])
def test_temperature_is_one_over_the_exponent_of_xlm_and_mt5(alpha):
    """Spec ch1 M-08: q_i = p_i^alpha / sum_j p_j^alpha."""
    [found] = shares(temperature=1 / alpha)
    powers = {name: (size / 10_000) ** alpha for name, size in SIZES.items()}
    assert found == pytest.approx({name: power / sum(powers.values()) for name, power in powers.items()})


def test_a_high_temperature_gives_equal_shares():
    assert shares(temperature=1e9) == [pytest.approx(dict.fromkeys(SOURCES, 1 / 3))]


def test_epochs_multiply_sizes():
    assert shares(epochs={"web": 1, "code": 2, "books": 0.5}) == [
        pytest.approx({"web": 8 / 10.5, "code": 2 / 10.5, "books": 0.5 / 10.5})
    ]


def test_what_max_epochs_takes_is_shared_out_by_the_weights_of_the_others():
    equal = dict.fromkeys(SOURCES, 1)
    # 30,000 tokens: code and books have 4,000 each in four epochs, the web the rest.
    assert shares(30_000, weights=equal, max_epochs=4) == [
        pytest.approx({"web": 22 / 30, "code": 4 / 30, "books": 4 / 30})
    ]
    # A limit for one source: what it leaves goes to the others half and half.
    assert shares(30_000, weights=equal, max_epochs={"code": 4}) == [
        pytest.approx({"web": 13 / 30, "code": 4 / 30, "books": 13 / 30})
    ]
    assert shares(3000, weights=equal, max_epochs=4) == [pytest.approx(dict.fromkeys(SOURCES, 1 / 3))]


def test_a_stage_has_the_epochs_that_earlier_ones_left():
    stages = (Stage(from_tokens=6000, weights={"web": 1, "code": 1}),)
    first, last = shares(10_000, weights=dict.fromkeys(SOURCES, 1), max_epochs=2, stages=stages)
    assert first == pytest.approx(dict.fromkeys(SOURCES, 1 / 3))
    assert last == pytest.approx({"web": 1.0, "code": 0, "books": 0})  # both epochs of code are read by then


def test_a_stage_after_the_end_of_the_run_takes_no_epochs():
    stages = (Stage(from_tokens=6000, weights={"code": 1}),)
    assert len(shares(5000, weights=dict.fromkeys(SOURCES, 1), max_epochs=2, stages=stages)) == 1


def test_too_few_tokens_for_max_epochs_are_an_error():
    with pytest.raises(ValueError, match=r"max_epochs leaves 20,000 tokens for 20,001 from 0 on; shorten"):
        shares(20_001, max_epochs=2)
    with pytest.raises(ValueError, match="max_epochs depends on the length of the run; num_tokens is None"):
        shares(max_epochs=2)


@given(
    weights=st.lists(st.just(0) | st.floats(1e-9, 1e6), min_size=3, max_size=3),
    epochs=st.lists(st.floats(0.1, 20), min_size=3, max_size=3),
    num_tokens=st.integers(1, 200_000),
)
def test_limited_shares_sum_to_one_and_keep_the_proportions_of_the_others(weights, epochs, num_tokens):
    weights, limits = dict(zip(SOURCES, weights, strict=True)), dict(zip(SOURCES, epochs, strict=True))
    assume(any(weights.values()))
    most = sum(limits[name] * SIZES[name] for name in SOURCES if weights[name])
    assume(most > num_tokens * 1.001)
    [found] = shares(num_tokens, weights=weights, max_epochs=limits)
    assert sum(found.values()) == pytest.approx(1)
    scales = {name: found[name] / weights[name] for name in SOURCES if weights[name]}
    for name in SOURCES:
        tokens, limit = found[name] * num_tokens, limits[name] * SIZES[name]
        assert tokens <= limit * (1 + 1e-9)
        assert found[name] == 0 or weights[name]
        if weights[name] and tokens < limit * (1 - 1e-9):
            assert scales[name] == pytest.approx(max(scales.values()), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": {}}, "a mixture needs sources with names"),
        ({"sources": {"": "web"}}, "a mixture needs sources with names"),
        (
            {"weights": {"web": 1}, "epochs": {"web": 1}},
            "not weights and epochs",
        ),
        ({"temperature": 0}, "temperature must be positive and finite, got 0"),
        ({"temperature": math.inf}, "temperature must be positive and finite, got inf"),
        ({"weights": {"wbe": 1}}, "weights: unknown source 'wbe'; did you mean 'web'?"),
        ({"weights": {"web": -1}}, "weights: a weight is 0 or more and finite, got -1 for 'web'"),
        ({"weights": {"web": math.nan}}, "got nan for 'web'"),
        ({"weights": dict.fromkeys(SOURCES, 0)}, "weights: all are 0"),
        ({"epochs": {"web": 1, "code": 1}}, "source 'books' is never read; give it a weight"),
        ({"max_epochs": 0}, "max_epochs must be positive, got 0"),
        ({"max_epochs": {"film": 1}}, "max_epochs: unknown source 'film'; known are web, code, books"),
        (
            {"stages": (Stage(from_tokens=0, weights={"web": 1}),)},
            "stages begin after 0 tokens, in order; got 0 after 0",
        ),
        (
            {"stages": (Stage(from_tokens=9, weights={"web": 1}), Stage(from_tokens=9, weights={"web": 1}))},
            "in order; got 9 after 9",
        ),
        ({"stages": (Stage(from_tokens=9, weights={"film": 1}),)}, "from 9 tokens on: unknown source 'film'"),
        ({"stages": (Stage(from_tokens=9, weights={}),)}, "from 9 tokens on: all are 0"),
    ],
)
def test_bad_mixtures_are_refused(options, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        Mixture(**{"sources": SOURCES, **options})


def test_a_mixture_is_read_as_it_was_saved(tmp_path):
    mixture = Mixture(
        sources={"web": tmp_path / "train" / "web", "other": tmp_path / "elsewhere"},
        weights={"web": 3, "other": 0.5},
        max_epochs={"other": 4},
        stages=(Stage(from_tokens=1000, weights={"other": 1}),),
    )
    mixture.save(tmp_path / "train")
    assert json.loads((tmp_path / "train" / MIXTURE).read_text())["sources"] == {
        "web": "web",
        "other": "../elsewhere",
    }
    read = Mixture.load(tmp_path / "train")
    assert {name: path.resolve() for name, path in read.sources.items()} == mixture.sources
    assert (read.weights, read.max_epochs, read.stages) == (
        mixture.weights,
        mixture.max_epochs,
        mixture.stages,
    )


def test_a_directory_is_one_source_a_file_or_the_shards_below(tmp_path, monkeypatch):
    train = tmp_path / "train"
    for name in ("web", "code"):
        shard_directory(train / name)
    (train / "notes").mkdir()
    assert list(Mixture.load(train).sources) == ["code", "web"]
    monkeypatch.chdir(train / "code")
    assert list(Mixture.load(".").sources) == ["code"]
    Mixture(sources={"web": train / "web"}).save(train)
    assert Mixture.load(train).sources == {"web": train / "web"}
    with pytest.raises(FileNotFoundError, match=r"notes: no manifest.json or mixture.json, and no"):
        Mixture.load(train / "notes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a mixture"),
        ("[]", "not a mixture"),
        ('{"sources": {"web": "web"}, "wieghts": {}}', "unknown key 'wieghts'; did you mean 'weights'?"),
        ('{"sources": {"web": "web"}, "weights": {"web": "much"}}', "not a mixture"),
        ('{"sources": {"web": "web"}, "stages": [{"from_rows": 1}]}', "from_rows"),
        ("{}", "a mixture needs sources"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    (tmp_path / MIXTURE).write_text(text)
    with pytest.raises(ValueError, match=message.replace("?", r"\?")) as caught:
        Mixture.load(tmp_path)
    assert str(tmp_path / MIXTURE) in str(caught.value)


def test_sources_of_different_tokenizers_are_refused_by_name(tmp_path):
    ours, theirs = shard_directory(tmp_path / "a"), shard_directory(tmp_path / "b", fingerprint="cd" * 32)
    with pytest.raises(ValueError, match=r"by tokenizer cdcdcdcdcdcd, those of .* by abababababab") as caught:
        Mixture.load(tmp_path).open()
    assert str(ours) in str(caught.value)
    assert str(theirs) in str(caught.value)
    with pytest.raises(ValueError, match="the ids were made by tokenizer"):
        Mixture(sources={"a": ours}).open(tokenizer_fingerprint="ef" * 32)
