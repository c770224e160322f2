"""The draw from a mixture: a plain model of it, its shares, and that nothing is left out or repeated."""

from bisect import bisect_right
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tempa import _core
from tempa.data.loader import Loader
from tempa.data.mixture import Mixture, Stage
from tempa.data.shards import Shards, ShardWriter

NAMES = ["web", "code", "books"]
# Token ids of source `s` are those from `s * BASE` on, each its own place in the stream.
BASE = 1 << 16


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Three sources of some hundred documents; those of the last fill rows of 64 badly."""
    root = tmp_path_factory.mktemp("mixture")
    random = np.random.default_rng(0)
    all_lengths = [random.integers(2, 150, 400), random.integers(2, 60, 90), np.full(50, 40)]
    for source, (name, lengths) in enumerate(zip(NAMES, all_lengths, strict=True)):
        with ShardWriter(root / name, "ab" * 32, 1 << 20) as writer:
            ids = np.arange(lengths.sum(), dtype=np.uint32) + np.uint32(source * BASE)
            writer.add(ids, np.concatenate([[0], np.cumsum(lengths)]))
    return root


@pytest.fixture(scope="module")
def sources(directory):
    return {name: directory / name for name in NAMES}


def reference_bounds(weights):
    """Weights as whole numbers that sum to 2^32, by largest remainder and at least 1 each, added up."""
    exact = [weight / sum(weights) * 2**32 for weight in weights]
    widths = [int(width) for width in exact]
    order = sorted((s for s in range(len(weights)) if weights[s]), key=lambda s: -(exact[s] % 1))
    for s in order[: 2**32 - sum(widths)]:
        widths[s] += 1
    widths = [max(width, 1) if weight else 0 for width, weight in zip(widths, weights, strict=True)]
    widest = widths.index(max(widths))
    widths[widest] += 2**32 - sum(widths)
    return [0, *accumulate(widths)]


def reference_draw(first_rows, all_weights, seed, stop):
    """(source, row of the source) of each row, period by period, by counting."""
    counts, drawn = [0] * len(all_weights[0]), []
    for first, end, weights in zip(first_rows, [*first_rows[1:], 2**64], all_weights, strict=True):
        bounds = reference_bounds(weights)
        for period, start in enumerate(range(first, min(end, stop), 4096)):
            length = min(4096, end - start)
            offset = int(f"{period:020b}"[::-1], 2) << 12
            points = []
            for k in range(length):
                source = bisect_right(bounds, ((k << 32) + offset) // length) - 1
                points.append((source, counts[source]))
                counts[source] += 1
            order = range(length)  # of one source, nothing is mixed
            if sum(weight > 0 for weight in weights) > 1:
                order = _core.permutation(length, seed, int.from_bytes(b"mixtures", "big") + start)
            drawn += [points[k] for k in order]
    return drawn[:stop]


weight_lists = st.lists(st.sampled_from([0.0, 1e-6, 0.1, 0.5, 1.0, 7.0]), min_size=3, max_size=3).filter(any)


@given(
    first=weight_lists,
    last=weight_lists,
    boundary=st.integers(1, 10_000),
    seed=st.integers(0, 2**64 - 1),
)
def test_the_draw_is_that_of_the_reference(directory, first, last, boundary, seed):
    stop = boundary + 5000
    rows = [_core.Rows(Shards(directory / name)._shards, 64, "packed") for name in NAMES]
    core = _core.Loader(rows, [0, boundary], [*first, *last], 1, seed)
    expected = reference_draw([0, boundary], [first, last], seed, stop)
    assert list(zip(*(part.tolist() for part in core.drawn(0, stop)), strict=True)) == expected
    for place in (0, boundary, stop):
        counts = Counter(source for source, _ in expected[:place])
        assert core.counts(place).tolist() == [counts[source] for source in range(3)]


def rows_of(loader, num_rows):
    """(source, inputs) of each row, from batches of one row."""
    return [
        (int(ids[0]) // BASE, tuple(ids.tolist()))
        for ids in (loader.batch(index).ids for index in range(num_rows))
    ]


@pytest.mark.parametrize("mode", ["packed", "windows"])
def test_a_mixture_of_one_source_gives_the_batches_of_its_shards(directory, sources, mode):
    options = {"seq_len": 40, "batch_size": 7, "seed": 3, "mode": mode}
    alone = Loader(directory / "web", **options)
    for mixture in (
        Mixture(sources={"any": directory / "web"}),
        Mixture(sources=sources, weights={"web": 2, "code": 0, "books": 0}),
    ):
        mixed = Loader(mixture, **options)
        for index in (0, 5, 123, 10**15):
            assert torch.equal(mixed.batch(index).ids, alone.batch(index).ids)


def test_every_row_of_a_source_comes_once_in_each_of_its_epochs(sources):
    loader = Loader(
        Mixture(sources=sources, weights={"web": 1, "code": 1, "books": 2}), seq_len=64, batch_size=1
    )
    by_source = {source: [] for source in range(3)}
    for source, row in rows_of(loader, 3 * 4096):
        by_source[source].append(row)
    for source, name in enumerate(NAMES):
        num_rows, drawn = len(list(loader.epoch(name))), by_source[source]
        counts = Counter(drawn)
        epochs = len(drawn) // num_rows
        assert epochs >= 4
        assert len(counts) == num_rows
        assert set(counts.values()) <= {epochs, epochs + 1}
        targets = sorted(target for row in counts for target in row)
        assert len(targets) == len(set(targets)) == sum(batch.num_tokens for batch in loader.epoch(name))


def test_every_period_has_the_asked_share_of_predictions(sources):
    """Books fill rows of 64 by 39, so that their share of the rows is larger."""
    loader = Loader(
        Mixture(sources=sources, weights={"web": 5, "code": 3, "books": 2}), seq_len=64, batch_size=1
    )
    for period in (0, 1, 2):
        tokens = Counter()
        for index in range(4096 * period, 4096 * (period + 1)):
            ids = loader.batch(index).ids
            tokens[int(ids[0]) // BASE] += len(ids)
        shares = [tokens[source] / tokens.total() for source in range(3)]
        assert shares == pytest.approx([0.5, 0.3, 0.2], abs=1e-3)


@pytest.mark.parametrize("mode", ["packed", "windows"])
def test_batches_of_a_mixture_do_not_depend_on_history_threads_or_their_number_of_rows(sources, mode):
    mixture = Mixture(
        sources=sources, temperature=2, stages=(Stage(from_tokens=10_000, weights={"code": 1}),)
    )
    options = {"seq_len": 40, "seed": 3, "mode": mode}
    indices = [9, 0, 123_456_789, 9, 25]
    loader = Loader(mixture, batch_size=12, **options)
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(loader.batch, indices))
    for index, batch in zip(indices, at_once, strict=True):
        parts = [Loader(mixture, batch_size=4, **options).batch(3 * index + k) for k in range(3)]
        assert torch.equal(torch.cat([part.ids for part in parts]), batch.ids)
        assert torch.equal(torch.cat([part.lengths for part in parts]), batch.lengths)


def test_windows_are_of_one_source(sources):
    loader = Loader(Mixture(sources=sources), seq_len=50, batch_size=64, mode="windows")
    rows = loader.batch(3).ids.view(64, 50)
    assert rows.diff().eq(1).all()
    assert set((rows[:, 0] // BASE).tolist()) == {0, 1, 2}


def test_a_stage_begins_at_its_token(sources):
    stages = (
        Stage(from_tokens=20_000, weights={"code": 1}),
        Stage(from_tokens=30_000, weights={"web": 1, "books": 1}),
    )
    mixture = Mixture(sources=sources, weights={"web": 1, "books": 1}, stages=stages)
    rows = rows_of(Loader(mixture, seq_len=64, batch_size=1), 1200)
    starts = [0, *accumulate(len(row) for _, row in rows)]
    code = [place for place, (source, _) in enumerate(rows) if source == 1]
    assert code == list(range(code[0], code[-1] + 1))
    # Rows hold as many predictions as they do on average, within a few rows.
    assert starts[code[0]] == pytest.approx(20_000, abs=4 * 64)
    assert starts[code[-1] + 1] == pytest.approx(30_000, abs=8 * 64)


def test_the_plan_is_what_is_drawn(sources):
    stages = (Stage(from_tokens=150_000, weights={"books": 1, "code": 3}),)
    loader = Loader(
        Mixture(sources=sources, weights={"web": 3, "code": 1}, stages=stages), seq_len=64, batch_size=1
    )
    plan = loader.plan(200_000)
    drawn = rows_of(loader, plan.num_rows)
    assert sum(len(row) for _, row in drawn) == pytest.approx(200_000, rel=0.01)
    for number, source in enumerate(plan.sources):
        rows = [row for of, row in drawn if of == number]
        assert source.rows == len(rows)
        assert source.tokens == pytest.approx(sum(map(len, rows)), rel=0.01)
        # The run ends within a period, whose rows come in random order.
        assert source.share == pytest.approx(source.wanted, abs=0.02)
        assert source.epochs == pytest.approx(source.rows / len(list(loader.epoch(source.name))), rel=1e-3)
    assert [source.wanted for source in plan.sources] == pytest.approx([0.5625, 0.375, 0.0625])


def test_the_plan_says_what_packing_leaves_unused(sources):
    plan = Loader(Mixture(sources=sources), seq_len=64, batch_size=1).plan(1000)
    for source in plan.sources:
        shards = Shards(sources[source.name])
        _, _, rows = _core.pack_rows(shards.offsets(), 64)
        assert source.num_targets == shards.num_tokens - shards.num_documents
        assert source.num_unused == (len(rows) - 1) * 64 - source.num_targets
        assert source.num_cut_documents == sum(length > 65 for length in shards.lengths())
    assert plan.sources[2].num_unused == 50 * (64 - 39)
    windows = Loader(Mixture(sources=sources), seq_len=64, batch_size=1, mode="windows").plan(1000)
    assert {(source.num_unused, source.num_cut_documents) for source in windows.sources} == {(0, 0)}


def test_no_source_is_read_more_often_than_max_epochs(sources):
    mixture = Mixture(sources=sources, weights=dict.fromkeys(NAMES, 1), max_epochs={"books": 4})
    loader = Loader(mixture, seq_len=64, batch_size=2, num_tokens=60_000)
    plan = loader.plan(60_000)
    assert plan.sources[2].epochs == pytest.approx(4, abs=0.021)  # a row of 50
    assert plan.sources[2].wanted == pytest.approx(1 / 3)
    assert plan.sources[0].share == pytest.approx(plan.sources[1].share, abs=0.005)
    loader.batch(plan.num_rows // 2 - 1)
    with pytest.raises(ValueError, match="is beyond the 60,000 tokens for which max_epochs was worked out"):
        loader.batch(plan.num_rows // 2)
    with pytest.raises(ValueError, match="num_tokens is None"):
        Loader(mixture, seq_len=64, batch_size=2)


def test_an_evaluation_pass_reads_the_sources_one_after_the_other(directory):
    loader = Loader(directory, seq_len=50, batch_size=4)  # in the order of the names
    batches = list(loader.epoch())
    assert len(batches) == loader.num_batches_per_epoch
    assert [int(batch.ids[0]) // BASE for batch in batches] == sorted(
        (int(batch.ids[0]) // BASE for batch in batches), key=[2, 1, 0].index
    )
    assert sum(batch.num_tokens for batch in batches) == loader.num_targets


def test_sources_of_equal_size_have_their_own_order(tmp_path):
    for source, name in enumerate(NAMES[:2]):
        with ShardWriter(tmp_path / name, "ab" * 32, 1 << 20) as writer:
            writer.add(np.arange(1000, dtype=np.uint32) + np.uint32(source * BASE), np.arange(0, 1001, 10))
    for mode in ("packed", "windows"):
        loader = Loader(tmp_path, seq_len=9, batch_size=1, mode=mode)
        web, code = ([row[0] % BASE for of, row in rows_of(loader, 100) if of == source] for source in (0, 1))
        assert web[:20] != code[:20]


def test_a_source_too_short_for_a_row_is_named(tmp_path, sources):
    with ShardWriter(tmp_path / "ones", "ab" * 32, 10) as writer:
        writer.add(np.array([1, 2], np.uint32), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"ones: 2 tokens are too few, no document has two"):
        Loader(Mixture(sources={**sources, "ones": tmp_path / "ones"}), seq_len=8, batch_size=1)
