from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_reference import plan as slow_plan

from tempa.ops.paged_plan import plan

# Tokens of a sequence, and how many of them are new, if it has so many: decoding, chunks, and odd ones.
SEQUENCES = st.lists(
    st.tuples(
        st.one_of(st.integers(1, 300), st.integers(1, 20_000), st.sampled_from([64, 65, 4096, 131_072])),
        st.one_of(st.just(1), st.integers(0, 40), st.integers(0, 2048)),
    ),
    max_size=40,
)


@given(
    sequences=SEQUENCES,
    group=st.sampled_from([1, 2, 4, 5, 8, 40]),
    num_kv_heads=st.integers(1, 16),
    resident=st.integers(1, 600),
    max_row_warps=st.sampled_from([1, 2, 4]),
    window=st.one_of(st.none(), st.integers(1, 5000)),
    sinks=st.integers(0, 200),
)
def test_the_plan_equals_the_reference(sequences, **options) -> None:
    lengths = np.array([length for length, _ in sequences], np.int64)
    counts = np.array([min(new, length) for length, new in sequences], np.int64)
    starts = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
    made, expected = plan(lengths, starts, **options), slow_plan(lengths, starts, **options)
    assert made.launches == expected.launches
    np.testing.assert_array_equal(made.items, expected.items)
    assert made.items.dtype == expected.items.dtype


def test_what_is_no_batch_is_refused() -> None:
    sizes = {"group": 4, "num_kv_heads": 2, "resident": 100}
    for lengths, starts, options, message in (
        ([5], [0, 6], {}, "sequence 0 of 5 tokens cannot have the new tokens 0 to 6"),
        ([5, 5], [0, 1], {}, "2 sequences need one start more than there are, got 2"),
        ([5, 5], [0, 3, 1], {}, "sequence 1 of 5 tokens cannot have the new tokens 3 to 1"),
        ([1 << 31], [0, 1], {}, "sequence 0 of 2147483648 tokens"),
        ([5], [0, 1], {"resident": 0}, "resident must be 1 to 2147483647, got 0"),
        ([5], [0, 1], {"max_row_warps": 3}, "max_row_warps must be 1, 2 or 4, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            plan(np.array(lengths), np.array(starts), **(sizes | options))
