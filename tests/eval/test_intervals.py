import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from tempa.eval import Estimate, bootstrap_interval, non_overlapping


def test_the_interval_of_a_proportion_is_the_normal_one():
    """For 1000 items the percentile bootstrap is close to 1.96 standard errors."""
    values = np.arange(1000) % 10 < 3
    estimate = bootstrap_interval(values)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert estimate.mean == pytest.approx(0.3)
    assert estimate.low == pytest.approx(0.3 - half, abs=0.004)
    assert estimate.high == pytest.approx(0.3 + half, abs=0.004)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(size=50), seed=i, num_resamples=300) for i in range(300)]
    covered = np.mean([e.low <= 0 <= e.high for e in intervals])
    assert 0.90 < covered < 0.97


def test_the_same_seed_gives_the_same_interval_in_any_chunks(monkeypatch):
    values = np.random.default_rng(0).normal(size=100)
    whole = bootstrap_interval(values, seed=3)
    monkeypatch.setattr("tempa.eval.intervals._CHUNK_DRAWS", 700)
    assert bootstrap_interval(values, seed=3) == whole
    assert bootstrap_interval(values, seed=4) != whole


def test_weights_count_an_item_as_often_as_they_say():
    weighted = bootstrap_interval([1.0, 4.0], weights=[3.0, 1.0])
    assert weighted.mean == pytest.approx(1.75)
    assert (weighted.low, weighted.high) == (1.0, 4.0)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_the_interval_lies_within_the_values(values):
    estimate = bootstrap_interval(values, num_resamples=50)
    assert min(values) - 1e-9 <= estimate.low <= estimate.high <= max(values) + 1e-9


@pytest.mark.parametrize(
    "arguments", [{"values": []}, {"values": [[1.0]]}, {"values": [1.0], "weights": [0.0]}]
)
def test_what_has_no_interval_is_refused(arguments):
    with pytest.raises(ValueError, match=r"interval needs|weights must"):
        bootstrap_interval(**arguments)


def test_intervals_that_touch_overlap():
    low, high = Estimate(0.5, 0.4, 0.6, 9), Estimate(0.7, 0.6, 0.8, 9)
    assert not non_overlapping(low, high)
    assert non_overlapping(low, Estimate(0.7, 0.61, 0.8, 9))
    assert non_overlapping(Estimate(0.7, 0.61, 0.8, 9), low)
