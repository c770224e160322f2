"""Batches: the packing rule, the order, and what an epoch covers."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tempa import _core
from tempa.data.loader import Loader
from tempa.data.shards import Shards, ShardWriter


def corpus(directory, lengths, *, max_shard_tokens=1 << 20):
    """Shards in which every token is its own place in the stream."""
    with ShardWriter(directory, "ab" * 32, 1 << 21, max_shard_tokens=max_shard_tokens) as writer:
        writer.add(np.arange(sum(lengths), dtype=np.uint32), np.cumsum([0, *lengths]))
    return directory


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    lengths = np.random.default_rng(1).integers(0, 90, 400).tolist()
    return Shards(corpus(tmp_path_factory.mktemp("corpus") / "set", lengths, max_shard_tokens=1000))


def reference_rows(lengths, seq_len):
    """Best-fit decreasing, written as one reads it: lists of (start, stop), in quadratic time."""
    pieces, at = [], 0
    for length in lengths:
        end = at + length - 1
        pieces += [(start, min(start + seq_len, end)) for start in range(at, end, seq_len)]
        at += length
    pieces.sort(key=lambda piece: piece[0] - piece[1])
    rows = []  # each [room, when it was last filled, pieces]
    for now, (start, stop) in enumerate(pieces):
        fitting = [row for row in rows if row[0] >= stop - start]
        row = min(fitting, key=lambda row: (row[0], -row[1]), default=None)
        if row is None:
            rows.append(row := [seq_len, 0, []])
        row[0] -= stop - start
        row[1] = now
        row[2].append((start, stop))
    return [row[2] for row in rows]


def reference_permutation(n, seed, stream):
    """The Feistel network of `pack::permute`, from the public random bits."""
    half = max(1, -(-(n - 1).bit_length() // 2))
    mask = (1 << half) - 1
    order = []
    for element in range(n):
        while True:
            left, right = element >> half, element & mask
            for round_ in range(8):
                bits = int(_core.random_bits(seed, stream, round_ << 32 | right, 1)[0])
                left, right = right, left ^ (bits & mask)
            element = left << half | right
            if element < n:
                break
        order.append(element)
    return order


@given(lengths=st.lists(st.integers(0, 60), max_size=60), seq_len=st.integers(1, 80))
def test_rows_are_best_fit_decreasing(lengths, seq_len):
    starts, stops, rows = _core.pack_rows(np.cumsum([0, *lengths]), seq_len)
    spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
    assert [spans[a:b] for a, b in pairwise(rows)] == reference_rows(lengths, seq_len)


@given(lengths=st.lists(st.integers(0, 60), max_size=60), seq_len=st.integers(1, 80))
def test_every_token_but_the_first_of_a_document_is_a_target_once(lengths, seq_len):
    starts, stops, _ = _core.pack_rows(np.cumsum([0, *lengths]), seq_len)
    targets = sorted(t for a, b in zip(starts, stops, strict=True) for t in range(a + 1, b + 1))
    firsts = {start for start, length in zip(np.cumsum([0, *lengths]), lengths, strict=False) if length}
    assert targets == [t for t in range(sum(lengths)) if t not in firsts]


@given(n=st.integers(1, 300), seed=st.integers(0, 2**64 - 1), stream=st.integers(0, 2**64 - 1))
def test_the_order_is_a_permutation(n, seed, stream):
    assert sorted(_core.permutation(n, seed, stream).tolist()) == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 100])
def test_the_order_is_the_feistel_network_of_the_reference(n):
    assert _core.permutation(n, 5, 9).tolist() == reference_permutation(n, 5, 9)


def test_a_batch_is_its_rows_in_the_permuted_order(shards):
    loader = Loader(shards, seq_len=64, batch_size=3, seed=11)
    rows = reference_rows(shards.lengths().tolist(), 64)
    stream = int.from_bytes(b"roworder", "big")
    order = [rows[i] for epoch in (0, 1) for i in _core.permutation(len(rows), 11, stream + epoch)]
    for index in (0, 1, len(rows) // 3, 2 * len(rows) // 3 - 1):  # the third spans two epochs
        batch = loader.batch(index)
        spans = [span for row in order[3 * index : 3 * index + 3] for span in row]
        assert batch.ids.tolist() == [t for a, b in spans for t in range(a, b)]
        assert batch.targets.tolist() == [t + 1 for t in batch.ids.tolist()]
        assert batch.lengths.tolist() == [b - a for a, b in spans]
        assert batch.weights.eq(1).all()
        assert batch.ids.dtype == batch.targets.dtype == batch.cu_seqlens.dtype == torch.int64


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_every_epoch_has_every_target_once(shards, batch_size):
    loader = Loader(shards, seq_len=32, batch_size=batch_size, seed=2)
    epochs = batch_size  # so that they end with a batch
    batches = [loader.batch(i) for i in range(loader.num_rows * epochs // batch_size)]
    counts = Counter(torch.cat([batch.targets for batch in batches]).tolist())
    assert set(counts.values()) == {epochs}
    assert len(counts) == loader.num_targets


def test_epochs_and_seeds_have_their_own_order(shards):
    loader = Loader(shards, seq_len=32, batch_size=1)
    epochs = [
        [loader.batch(i + e * loader.num_rows).ids.tolist() for i in range(loader.num_rows)] for e in (0, 1)
    ]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert Loader(shards, seq_len=32, batch_size=1, seed=1).batch(0).ids.tolist() != epochs[0][0]


@pytest.mark.parametrize("mode", ["packed", "windows"])
def test_batches_do_not_depend_on_history_or_threads(shards, mode):
    options = {"seq_len": 40, "batch_size": 5, "seed": 3, "mode": mode}
    indices = [9, 0, 123_456_789, 9, 4]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(Loader(shards, **options).batch, indices))
    for index, batch in zip(indices, at_once, strict=True):
        fresh = Loader(shards, **options).batch(index)
        assert torch.equal(batch.ids, fresh.ids)
        assert torch.equal(batch.cu_seqlens, fresh.cu_seqlens)


@pytest.mark.parametrize("mode", ["packed", "windows"])
def test_splitting_a_batch_gives_the_same_rows(shards, mode):
    """Trap L1: (16, 1), (4, 4) and (1, 16) must be the same batch."""
    whole = Loader(shards, seq_len=24, batch_size=16, seed=3, mode=mode).batch(5)
    for rows in (4, 1):
        loader = Loader(shards, seq_len=24, batch_size=rows, seed=3, mode=mode)
        parts = [loader.batch(5 * 16 // rows + k) for k in range(16 // rows)]
        assert torch.equal(torch.cat([part.ids for part in parts]), whole.ids)
        assert torch.equal(torch.cat([part.lengths for part in parts]), whole.lengths)


def test_documents_are_isolated(shards):
    """Trap L11: no sequence holds tokens of two documents."""
    loader = Loader(shards, seq_len=64, batch_size=8)
    document_of = np.repeat(np.arange(shards.num_documents), shards.lengths())
    for batch in loader.epoch():
        for a, b in pairwise(batch.cu_seqlens):
            assert len(set(document_of[torch.cat([batch.ids[a:b], batch.targets[a:b]])])) == 1


def test_windows_are_random_crops_of_the_stream(shards):
    loader = Loader(shards, seq_len=50, batch_size=4, seed=7, mode="windows")
    batch = loader.batch(3)
    assert batch.lengths.tolist() == [50] * 4
    ids = batch.ids.view(4, 50)
    assert ids.diff().eq(1).all()
    assert torch.equal(batch.targets.view(4, 50), ids + 1)
    starts = torch.cat([loader.batch(i).ids.view(4, 50)[:, 0] for i in range(2000)])
    last = shards.num_tokens - 50
    assert starts.min() >= 0
    assert starts.max() < last
    assert starts.double().mean() / last == pytest.approx(0.5, abs=0.02)  # 8000 draws: 6 standard errors


@pytest.mark.parametrize(("mode", "seq_len"), [("packed", 50), ("windows", 50), ("windows", 7)])
def test_an_evaluation_epoch_has_every_target_once(shards, mode, seq_len):
    loader = Loader(shards, seq_len=seq_len, batch_size=4, mode=mode)
    batches = list(loader.epoch())
    targets = torch.cat([batch.targets for batch in batches])
    assert len(batches) == loader.num_batches_per_epoch
    assert len(targets) == len(targets.unique()) == loader.num_targets
    if mode == "windows":
        assert targets.tolist() == list(range(1, shards.num_tokens))


def test_best_fit_wastes_little(tmp_path):
    lengths = np.random.default_rng(0).geometric(1 / 300, 5000).tolist()
    loader = Loader(corpus(tmp_path / "set", lengths), seq_len=1024, batch_size=1)
    assert loader.num_targets / (loader.num_rows * 1024) > 0.995


def test_bad_arguments_are_refused(tmp_path, shards):
    for options, message in [
        ({"seq_len": 0}, "seq_len must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"mode": "random"}, "mode must be 'packed' or 'windows', got \"random\""),
        (
            {"mode": "windows", "seq_len": 10**6},
            "tokens are too few, windows of 1000000 need 1000001 or more",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            Loader(shards, **{"seq_len": 8, "batch_size": 2, **options})
    with pytest.raises(ValueError, match="index must not be negative"):
        Loader(shards, seq_len=8, batch_size=2).batch(-1)
    with pytest.raises(ValueError, match="no document has two"):
        Loader(corpus(tmp_path / "ones", [1, 1]), seq_len=8, batch_size=2)
