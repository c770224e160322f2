"""The compiled sampler against a slow reference that sorts everything, in double precision."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tempa import _core

STREAM = 0x73616D706C65


def distribution(
    row: NDArray[np.float32], temperature: float, top_k: int, top_p: float
) -> NDArray[np.float64]:
    """Temperature, then the top k by (logit descending, id ascending), then the fewest that hold top p."""
    order = np.lexsort((np.arange(len(row)), -row))
    p = np.exp((row.astype(np.float64) - row.max()) / temperature)
    if top_k:
        p[order[top_k:]] = 0
    if top_p < 1:
        sums = np.cumsum(p[order])
        p[order[np.searchsorted(sums, top_p * sums[-1]) + 1 :]] = 0
    return p / p.sum()


@given(
    rows=st.integers(1, 6),
    vocab=st.integers(1, 300),
    levels=st.sampled_from([3, 1000]),
    temperature=st.floats(0.1, 4),
    top_k=st.integers(0, 50),
    top_p=st.floats(0.01, 1),
    seed=st.integers(0, 2**63 - 1),
)
def test_draws_are_those_of_the_reference(
    rows: int, vocab: int, levels: int, temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    logits = np.random.default_rng(seed).integers(0, levels, (rows, vocab)).astype(np.float32) * (8 / levels)
    positions = np.arange(rows) + 17
    ids, logps = _core.sample(
        logits,
        np.full(rows, temperature, np.float32),
        np.full(rows, top_k, np.uint32),
        np.full(rows, top_p, np.float32),
        np.full(rows, seed, np.uint64),
        positions,
    )
    for row, token, logp, position in zip(logits, ids, logps, positions, strict=True):
        p = distribution(row, float(np.float32(temperature)), top_k, float(np.float32(top_p)))
        u = _core.random_uniform(seed, STREAM, int(position), 1)[0]
        below = p[:token].sum()
        # The masses are float32: borders move by about 1e-7, and ties at `top_p` may go either way.
        assert below - 1e-5 <= u <= below + p[token] + 1e-5
        full = distribution(row, float(np.float32(temperature)), 0, 1.0)
        np.testing.assert_allclose(logp, np.log(full[token]), atol=1e-5)
