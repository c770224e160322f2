"""What a request brings along may raise, and logits may be no numbers: its own request ends, and no other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tempa.engine import Engine, Event, Request, Sampling
from tempa.model import Transformer
from tempa.tokenizer import Tokenizer

Build = Callable[..., Transformer]
Prompts = Callable[..., list[list[int]]]

SAMPLING = Sampling(max_new_tokens=9, n=3, seed=4, bad_ids=(22,))


class TroubleError(Exception):
    pass


def raising(*arguments: object) -> Any:
    raise TroubleError("here")


class Late:
    """Raises at its fourth call, whatever it is."""

    def __init__(self, found: Any = None) -> None:
        self.found, self.calls = found, 0

    def __call__(self, given: Any) -> Any:
        self.calls += 1
        if self.calls == 4:
            raise TroubleError("late")
        return [] if self.found is None else self.found(given)


class Bound:
    """A constraint that allows everything and raises where it is told."""

    def __init__(self, fill: Callable[[Any], Any] = lambda _: None, accept: Any = lambda _: None) -> None:
        self._fill, self._accept = fill, accept

    def fill(self, words: NDArray[np.int32]) -> None:
        words[:] = -1
        self._fill(words)

    def accept(self, token: int) -> None:
        self._accept(token)


def half_filled(words: NDArray[np.int32]) -> None:
    words[:] = 0
    raise TroubleError("half")


OTHERS: dict[str, Any] = {"others": [[5, 6, 7]]}
FAILING: dict[str, tuple[Callable[[], dict[str, Any]], type[Exception]]] = {
    "hook": (lambda: {"hook": raising}, TroubleError),
    "hook, later": (lambda: {"hook": Late()}, TroubleError),
    "hook with no token": (lambda: {"hook": lambda ids: [99]}, ValueError),
    "hook with no number": (lambda: {"hook": lambda ids: [0.5]}, TypeError),
    "combine": (lambda: {**OTHERS, "combine": raising}, TroubleError),
    "combine, later": (lambda: {**OTHERS, "combine": Late(lambda logits: logits[0])}, TroubleError),
    "combine of another shape": (lambda: {**OTHERS, "combine": lambda logits: logits}, ValueError),
    "combine without a tensor": (lambda: {**OTHERS, "combine": lambda logits: None}, AttributeError),
    "constraint": (lambda: {"constraint": raising}, TroubleError),
    "constraint that fills": (lambda: {"constraint": lambda: Bound(fill=half_filled)}, TroubleError),
    "constraint that fills, later": (lambda: {"constraint": lambda: Bound(fill=Late())}, TroubleError),
    "constraint that accepts": (lambda: {"constraint": lambda: Bound(accept=raising)}, TroubleError),
}
# What is read for token 22 is no number, so neither are logits after it, of this request alone.
NOT_FINITE: dict[str, dict[str, Any]] = {
    "logits": {"prompt": [1, 2, 3, 4, 5, 22, 6]},
    "combined": {**OTHERS, "combine": lambda logits: logits[0] * math.nan},
}


def others_of(prompts_of: Prompts) -> list[Request]:
    first, second, third = ([token % 22 for token in ids] for ids in prompts_of(9, 21, 4, seed=3))
    return [
        Request(prompt=first, sampling=SAMPLING),
        Request(prompt=second, others=[first], sampling=Sampling(max_new_tokens=14, seed=9, bad_ids=(22,))),
        Request(prompt=third, sampling=Sampling(max_new_tokens=14, n=2, bad_ids=(22,)), constraint=Bound),
    ]


def events_of(engine: Engine, requests: list[Request]) -> list[list[Event]]:
    tickets = [engine.submit(request) for request in requests]
    events: dict[int, list[Event]] = defaultdict(list)
    while not engine.is_idle:
        for event in engine.step():
            events[event.ticket].append(event)
        assert engine._scheduler is not None
        engine._scheduler.sequences.kv.check()
    return [events[ticket] for ticket in tickets]


def told(events: list[Event]) -> list[tuple[object, ...]]:
    """Sample by sample: which of them write at the same time depends on the room."""
    ordered = sorted(events, key=lambda event: event.sample)
    return [(event.sample, event.token, event.logp, event.text, event.finish_reason) for event in ordered]


@pytest.fixture
def model(build: Build) -> Transformer:
    model = build("grouped")
    with torch.no_grad():
        model.embedding.weight[22] = math.nan
    return model


def bad_request(fields: dict[str, Any]) -> Request:
    return Request(**{"prompt": list(range(9)), "sampling": SAMPLING, **fields})


def assert_nothing_is_left(engine: Engine) -> None:
    assert engine._scheduler is not None
    assert (engine.cache_usage, engine.num_running, engine.num_waiting) == (0, 0, 0)
    assert (len(engine._scheduler._sampler), engine._jobs) == (0, {})


@pytest.mark.parametrize("name", [*FAILING, *NOT_FINITE])
@pytest.mark.parametrize("max_batch", [2, 512])
def test_others_are_the_same_beside_a_request_that_fails(
    name: str, max_batch: int, model: Transformer, prompts_of: Prompts, tokenizer: Tokenizer
) -> None:
    fields, kind = FAILING[name] if name in FAILING else (lambda: NOT_FINITE[name], type(None))
    expected = events_of(Engine(model, tokenizer, block_size=4), others_of(prompts_of))
    engine = Engine(model, tokenizer, block_size=4, max_batch=max_batch)
    for at in (0, 2):
        requests = others_of(prompts_of)
        requests.insert(at, bad_request(fields()))
        found = events_of(engine, requests)
        own = found.pop(at)
        assert [told(events) for events in found] == [told(events) for events in expected]
        ends = [event for event in own if event.finish_reason is not None]
        assert sorted((event.sample, event.token, event.finish_reason) for event in ends) == [
            (i, None, "error") for i in range(3)
        ]
        assert {type(event.error) for event in ends} == {kind}
        assert_nothing_is_left(engine)


@pytest.mark.parametrize("name", FAILING)
def test_generate_raises_what_was_raised(name: str, model: Transformer, prompts_of: Prompts) -> None:
    fields, kind = FAILING[name]
    engine = Engine(model, block_size=4)
    with pytest.raises(kind) as caught:
        engine.generate([*others_of(prompts_of), bad_request(fields())])
    assert caught.value.__notes__ == ["in prompt 3"]
    assert_nothing_is_left(engine)


@pytest.mark.parametrize("name", NOT_FINITE)
def test_generate_names_the_sample_whose_logits_are_not_finite(
    name: str, model: Transformer, prompts_of: Prompts
) -> None:
    engine = Engine(model, block_size=4)
    with pytest.raises(ValueError, match=r"prompt 3, sample 0: after 0 tokens .* logits are not finite"):
        engine.generate([*others_of(prompts_of), bad_request(NOT_FINITE[name])])
    assert_nothing_is_left(engine)


def test_a_stream_raises_what_its_hook_raised(build: Build, tokenizer: Tokenizer) -> None:
    engine = Engine(build(), tokenizer)
    pieces = engine.stream(Request(prompt=[1, 2], hook=Late()))
    with pytest.raises(TroubleError, match="late"):
        list(pieces)
    assert_nothing_is_left(engine)


def test_tokens_drawn_before_a_failure_are_told(build: Build, tokenizer: Tokenizer) -> None:
    engine = Engine(build(), tokenizer)
    sampling = Sampling(max_new_tokens=9, temperature=0)
    [free] = events_of(engine, [Request(prompt=[1, 2], sampling=sampling)])
    [events] = events_of(engine, [Request(prompt=[1, 2], sampling=sampling, hook=Late())])
    assert told(events)[:-1] == told(free)[:4]
    assert str(events[-1].error) == "late"


def test_a_token_without_text_ends_its_own_request(build: Build) -> None:
    """A model may have more tokens than its tokenizer."""
    engine = Engine(build(), Tokenizer.from_characters("abcdefghij", special_tokens=()))
    beyond = Request(prompt=[1], sampling=Sampling(max_new_tokens=3, temperature=0, bias={22: 99}))
    within = Request(prompt=[1], sampling=Sampling(max_new_tokens=3, allowed_ids=(1, 2, 3)))
    failed, good = events_of(engine, [beyond, within])
    assert [(event.token, str(event.error)[:11]) for event in failed] == [(None, "no token 22")]
    assert good[-1].finish_reason == "length"
    assert_nothing_is_left(engine)


@pytest.mark.parametrize("field", [{"bias": {23: 1.0}}, {"bad_ids": (-1,)}, {"allowed_ids": (99,)}])
def test_settings_that_name_no_token_are_refused_before_they_wait(
    field: dict[str, Any], build: Build
) -> None:
    engine = Engine(build())
    with pytest.raises((ValueError, OverflowError)):
        engine.submit(Request(prompt=[1], sampling=Sampling(**field)))
    assert engine.is_idle


def test_a_hook_cannot_change_what_was_drawn(build: Build) -> None:
    engine = Engine(build())

    def hook(ids: list[int]) -> list[int]:
        ids.clear()
        return []

    sampling = Sampling(max_new_tokens=5)
    [[plain], [hooked]] = engine.generate([
        Request(prompt=[1], sampling=sampling), Request(prompt=[1], sampling=sampling, hook=hook)
    ])  # fmt: skip
    assert hooked.ids.tolist() == plain.ids.tolist()
