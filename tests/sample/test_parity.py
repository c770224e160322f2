"""The compiled sampler beside the reference: the same tokens, whatever the settings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tempa.sample import Sampler, Settings


@st.composite
def rows(draw: st.DrawFn) -> NDArray[np.float32]:
    """Rows with ties, gaps of -inf, and spreads from nearly flat to far beyond what has mass."""
    vocab, seed = draw(st.integers(1, 300)), draw(st.integers(0, 2**32))
    random = np.random.default_rng(seed)
    row = random.normal(0, draw(st.sampled_from([0.01, 1.0, 5.0, 60.0])), vocab)
    if draw(st.booleans()):
        row = np.round(row)
    row[random.random(vocab) < draw(st.sampled_from([0, 0, 0.5]))] = -np.inf
    row[random.integers(vocab)] = 1.5  # one is always there
    return row.astype(np.float32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.float32], Settings, list[int], list[int]]:
    """A row, settings where any field may be on, a prompt and an output."""
    row = draw(rows())
    ids = st.integers(0, len(row) - 1)

    def sometimes(values: st.SearchStrategy[object], otherwise: object) -> object:
        return draw(values) if draw(st.booleans()) else otherwise

    spared = int(np.argmax(row))  # so that a token is left
    some_ids = st.lists(ids, max_size=5).map(lambda some: tuple(i for i in some if i != spared))
    settings = Settings(
        temperature=draw(st.sampled_from([0.0, 0.01, 0.5, 1.0, 1.0, 2.5, 1e6])),
        top_k=sometimes(st.integers(1, 350), 0),
        top_p=sometimes(st.floats(1e-6, 1), 1.0),
        min_p=sometimes(st.floats(1e-9, 1), 0.0),
        top_n_sigma=sometimes(st.floats(0.01, 5), 0.0),
        typical_p=sometimes(st.floats(0.01, 1), 1.0),
        repetition_penalty=sometimes(st.floats(0.5, 3, width=32), 1.0),
        presence_penalty=sometimes(st.floats(-3, 3, width=32), 0.0),
        frequency_penalty=sometimes(st.floats(-3, 3, width=32), 0.0),
        bias=sometimes(st.dictionaries(ids, st.floats(-9, 9, width=32), max_size=5), {}),
        allowed_ids=sometimes(st.lists(ids, min_size=1, max_size=9).map(lambda some: (*some, spared)), None),
        bad_ids=sometimes(some_ids, ()),
        stop_ids=sometimes(some_ids, ()),
        min_new_tokens=sometimes(st.integers(0, 9), 0),
        stop_ramp=sometimes(st.floats(-1, 1, width=32), 0.0),
    )
    return row, settings, draw(st.lists(ids, max_size=12)), draw(st.lists(ids, max_size=12))


@given(case=cases(), masked=st.booleans(), seed=st.integers(0, 2**64 - 1))
def test_every_combination_draws_the_token_of_the_reference(case, masked: bool, seed: int) -> None:
    row, settings, prompt, output = case
    mask = None
    if masked:
        bits = np.random.default_rng(seed).random(-(-len(row) // 32) * 32) < 0.7
        bits[np.argmax(row)] = True
        mask = np.packbits(bits, bitorder="little").view(np.int32)[None]
    sampler = Sampler(len(row))
    handle = sampler.add(settings, prompt=prompt, seed=seed)
    sampler.append(handle, output)
    x = reference.edit(row, settings, prompt, output, None if mask is None else mask[0])
    got = sampler.distribution([handle], row[None], mask=mask)[0]
    draws = sampler.step([handle], row[None], mask=mask, top_n=3)
    bits = reference.random_bits(seed, len(prompt) + len(output))
    assert draws.ids[0] == reference.draw(x, settings, bits)
    assert sampler.output(handle).tolist() == [*output, draws.ids[0]]
    np.testing.assert_allclose(np.exp(draws.kept_logps[0]), got[draws.ids[0]], rtol=1e-4)
    plain = dataclasses.replace(settings, top_k=0, top_p=1, min_p=0, top_n_sigma=0, typical_p=1)
    if settings.temperature == 0:
        plain = dataclasses.replace(plain, temperature=1)
    else:
        left = reference.masses(reference.levels(x, settings.temperature)) * reference.kept(x, settings)
        np.testing.assert_allclose(got, (left / left.sum()).astype(float), rtol=1e-6, atol=1e-9)
    with np.errstate(divide="ignore"):
        full = np.log(reference.probabilities(x, plain))
    np.testing.assert_allclose(draws.logps[0], full[draws.ids[0]], rtol=1e-5, atol=1e-5)
    order = np.lexsort((np.arange(len(x)), -x))[:3]
    order = order[x[order] > -np.inf]
    assert draws.top_ids[0, : len(order)].tolist() == order.tolist()
    assert (draws.top_ids[0, len(order) :] == -1).all()


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(temperature=0.7, top_k=20),
        Settings(temperature=1.3, top_p=0.83),
        Settings(min_p=0.03),
        Settings(temperature=2.0, top_n_sigma=1.1),
        Settings(typical_p=0.6),
        Settings(temperature=0.8, top_k=40, top_p=0.9, min_p=0.02, typical_p=0.9),
    ],
)
def test_the_distribution_is_the_one_of_the_papers(settings: Settings) -> None:
    # Without ties and far from borders, double precision keeps the same tokens.
    rows = np.random.default_rng(1).normal(0, 2, (20, 500)).astype(np.float32)
    sampler = Sampler(500)
    handles = [sampler.add(settings) for _ in rows]
    expected = [reference.probabilities(row, settings) for row in rows]
    np.testing.assert_allclose(sampler.distribution(handles, rows), expected, rtol=2e-5, atol=1e-9)
