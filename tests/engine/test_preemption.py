"""Requests in caches that are too small for them: some are put back and go on later, with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray

from tempa.engine import Completion, Engine, Request, Sampling
from tempa.engine.scheduler import Scheduler
from tempa.model import Decoder, ModelConfig, Transformer
from tempa.tokenizer import Tokenizer

Build = Callable[..., Transformer]
Prompts = Callable[..., list[list[int]]]
Tokens = Callable[[list[list[Completion]]], list[list[list[int]]]]

BLOCK = 4
KINDS = ["plain", "hook", "constraint", "combine", "embeds", "prefix_kv", "watched"]


def room_for(model: Transformer, num_blocks: int) -> int:
    c: ModelConfig = model.config
    return num_blocks * BLOCK * c.depth * 2 * c.num_kv_heads * c.head_dim * 4


def tight(model: Transformer, num_blocks: int, **more: Any) -> Engine:
    return Engine(model, block_size=BLOCK, cache_bytes=room_for(model, num_blocks), **more)


def assert_same(found: list[list[Completion]], expected: list[list[Completion]]) -> None:
    for group, other in zip(found, expected, strict=True):
        for one, two in zip(group, other, strict=True):
            np.testing.assert_array_equal(one.ids, two.ids)
            np.testing.assert_array_equal(one.logps, two.logps)
            assert (one.text, one.finish_reason, one.top) == (two.text, two.finish_reason, two.top)


class EveryThird:
    """Allows a third of the tokens, another one after each token."""

    def __init__(self) -> None:
        self.taken = 0

    def fill(self, words: NDArray[np.int32]) -> None:
        words[:] = sum(1 << token for token in range(self.taken % 3, 23, 3))

    def accept(self, token: int) -> None:
        self.taken += token + 1


def doubled(ids: list[int]) -> list[int]:
    """Puts in some tokens behind every multiple of five."""
    return [ids[-1] % 7 + 1] * (ids[-1] % 4) if ids[-1] % 5 == 0 else []


def request_of(kind: str, rng: np.random.Generator, model: Transformer) -> Request:
    def prompt(longest: int = 24) -> list[int]:
        # Few different beginnings, so that requests share blocks.
        return [int(rng.integers(3))] * int(rng.integers(1, longest)) + rng.integers(0, 23, 2).tolist()

    ids = prompt()
    config = model.config
    generator = torch.Generator().manual_seed(len(ids))
    extra: dict[str, Any] = {
        "plain": {},
        "hook": {"hook": doubled},
        "constraint": {"constraint": EveryThird},
        "combine": {"others": [prompt(), prompt()], "combine": lambda x: x[0] + x[1] - 0.5 * x[2]},
        "embeds": {"inputs_embeds": torch.randn(len(ids), config.width, generator=generator)},
        "prefix_kv": {
            "prefix_kv": torch.randn(
                config.depth, 2, 6, config.num_kv_heads, config.head_dim, generator=generator
            )
        },
        "watched": {},
    }[kind]
    sampling = Sampling(
        max_new_tokens=int(rng.integers(1, 30)),
        n=int(rng.integers(1, 5)),
        seed=int(rng.integers(1000)),
        repetition_penalty=float(rng.choice([1.0, 1.3])),
        stop=("ab", "q") if kind == "watched" else (),
        stop_ids=(int(rng.integers(23)),),
    )
    return Request(prompt=ids, sampling=sampling, top_logps=int(rng.integers(3)), **extra)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_blocks=st.integers(16, 60),
    step_tokens=st.sampled_from([3, 2048]),
    name=st.sampled_from(["modern", "windowed", "grouped"]),
)
def test_random_requests_are_the_same_in_a_small_cache(
    seed: int, num_blocks: int, step_tokens: int, name: str, build: Build, tokenizer: Tokenizer
) -> None:
    model, rng = build(name), np.random.default_rng(seed)
    requests = []
    engine = tight(model, num_blocks, tokenizer=tokenizer, step_tokens=step_tokens)
    for kind in rng.choice(KINDS, 12).tolist():
        requests.append(request_of(kind, rng, model))
        try:
            engine.cancel(engine.submit(requests[-1]))
        except ValueError:  # three prompts may be too much for the smallest caches
            requests.pop()
    expected = Engine(model, tokenizer, block_size=BLOCK).generate(requests)
    assert_same(engine.generate(requests), expected)
    assert engine.cache_usage == 0
    engine._scheduler.sequences.kv.check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reuses_prefixes", [True, False])
def test_requests_of_each_kind_are_put_back_and_go_on(
    kind: str, reuses_prefixes: bool, build: Build, tokenizer: Tokenizer
) -> None:
    model, rng = build(), np.random.default_rng(5)
    requests = [request_of(kind, rng, model) for _ in range(10)]
    expected = Engine(model, tokenizer, block_size=BLOCK).generate(requests)
    engine = tight(model, 40 if kind == "combine" else 16, tokenizer=tokenizer)
    assert_same(engine.generate(requests), expected)
    assert engine.stats()["num_preempted"] > 0
    assert engine.cache_usage == 0


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_other_weights_go_on_with_the_same_bits(weights: Any, build: Build, prompts_of: Prompts) -> None:
    model, prompts = build(), prompts_of(9, 3, 14)
    sampling = Sampling(max_new_tokens=30, n=3)
    expected = Engine(model, block_size=BLOCK, weights=weights).generate(prompts, sampling)
    engine = tight(model, 16, weights=weights)
    assert_same(engine.generate(prompts, sampling), expected)
    assert engine.stats()["num_preempted"] > 0


def test_the_torch_forward_goes_on_too(
    monkeypatch: pytest.MonkeyPatch, build: Build, prompts_of: Prompts
) -> None:
    model, prompts = build(), prompts_of(9, 3, 14)
    sampling = Sampling(max_new_tokens=30, n=2, temperature=0)
    expected = Engine(model, block_size=BLOCK).generate(prompts, sampling)
    monkeypatch.setattr(Decoder, "supports", staticmethod(lambda model: False))
    engine = tight(model, 16)
    for group, other in zip(engine.generate(prompts, sampling), expected, strict=True):
        for one, two in zip(group, other, strict=True):
            assert one.ids.tolist() == two.ids.tolist()
            # Sums in another order.
            np.testing.assert_allclose(one.logps, two.logps, atol=1e-5)
    assert engine.stats()["num_preempted"] > 0


def test_blocks_that_nobody_gives_back_are_an_error_and_no_wait(build: Build, prompts_of: Prompts) -> None:
    engine = tight(build(), 16)
    sequences = engine.sequences()
    held, _ = sequences.admit([np.arange(20), np.arange(20)])
    with pytest.raises(ValueError, match="1 prompts do not fit the 6 cache blocks that are free"):
        engine.generate(prompts_of(30), Sampling(max_new_tokens=20))
    sequences.free(held)


def test_a_sample_that_is_put_back_finds_most_of_its_blocks(build: Build, prompts_of: Prompts) -> None:
    """Those of the prompt of 40 tokens are in use by the other samples."""
    engine = tight(build(), 16)
    engine.generate(prompts_of(40), Sampling(max_new_tokens=20, n=6))
    stats = engine.stats()
    assert stats["num_preempted"] > 0
    assert stats["num_hit"] / stats["num_queried"] > 0.7


def test_the_first_in_line_is_never_put_back(
    monkeypatch: pytest.MonkeyPatch, build: Build, prompts_of: Prompts
) -> None:
    original = Scheduler._preempt
    preempted: list[tuple[int, int]] = []

    def watched(self: Scheduler, sample: Any) -> None:
        line = [(one.job.ticket, one.index) for one in self._running]
        place = sample.job.ticket, sample.index
        assert line
        assert line == sorted(line)
        assert line[-1] < place
        assert all(place < (one.job.ticket, one.index) for one in self._preempted)
        preempted.append(place)
        original(self, sample)

    monkeypatch.setattr(Scheduler, "_preempt", watched)
    engine = tight(build(), 16)
    order: list[int] = []
    tickets = [
        engine.submit(Request(prompt=prompt, sampling=Sampling(max_new_tokens=40, n=2)))
        for prompt in prompts_of(9, 17, 5, 21, 2)
    ]
    while not engine.is_idle:
        order += [event.ticket for event in engine.step() if event.finish_reason is not None]
    assert preempted
    assert order == sorted(order)
    assert set(order) == set(tickets)


def test_samples_join_for_what_they_need_now(build: Build, prompts_of: Prompts) -> None:
    """Worst cases of 15 blocks each would run one by one."""
    engine = tight(build(), 16)
    for prompt in prompts_of(3, 2, 3, 2):
        engine.submit(Request(prompt=prompt, sampling=Sampling(max_new_tokens=57)))
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (4, 0)
    while engine.num_waiting == 0:
        engine.step()
    assert not engine.is_idle
    while not engine.is_idle:
        engine.step()
    assert engine.cache_usage == 0


def test_a_request_that_was_put_back_can_be_cancelled(build: Build, prompts_of: Prompts) -> None:
    engine = tight(build(), 16)
    tickets = [
        engine.submit(Request(prompt=prompt, sampling=Sampling(max_new_tokens=50, n=2)))
        for prompt in prompts_of(3, 5, 7)
    ]
    while not engine.stats()["num_preempted"]:
        engine.step()
    for ticket in reversed(tickets):
        engine.cancel(ticket)
        engine.step()
        engine._scheduler.sequences.kv.check()
    assert engine.is_idle
    assert engine.cache_usage == 0
    assert len(engine._scheduler._sampler) == 0


def test_a_request_fails_as_a_whole_also_where_it_was_put_back(
    build: Build, prompts_of: Prompts, tokenizer: Tokenizer
) -> None:
    model = build()
    first, second = prompts_of(9, 5)
    good = Request(prompt=first, sampling=Sampling(max_new_tokens=40, n=2))
    calls: list[int] = []

    def hook(ids: list[int]) -> list[int]:
        calls.append(len(ids))
        if engine.stats()["num_preempted"]:
            raise LookupError("no tool")
        return []

    bad = Request(prompt=second, sampling=Sampling(max_new_tokens=40, n=3), hook=hook)
    engine = tight(model, 16, tokenizer=tokenizer)
    tickets = [engine.submit(bad), engine.submit(good)]
    events = []
    while not engine.is_idle:
        events += engine.step()
    ends = {
        (event.ticket, event.sample): event.finish_reason
        for event in events
        if event.finish_reason is not None
    }
    assert ends == {
        **{(tickets[0], i): "error" for i in range(3)},
        **{(tickets[1], i): "length" for i in range(2)},
    }
    [expected] = Engine(model, block_size=BLOCK).generate([good])
    for i, completion in enumerate(expected):
        own = [event.token for event in events if (event.ticket, event.sample) == (tickets[1], i)]
        assert own == completion.ids.tolist()
    assert engine.cache_usage == 0


def test_what_was_put_back_goes_on_after_all_prefixes_were_forgotten(
    build: Build, prompts_of: Prompts, tokenizer: Tokenizer
) -> None:
    """As after a request whose logits are no numbers, here once something was put back."""
    model = build("grouped")
    with torch.no_grad():
        model.embedding.weight[22] = float("nan")
    sampling = Sampling(max_new_tokens=30, n=3, bad_ids=(22,))
    requests = [Request(prompt=[i % 22 for i in ids], sampling=sampling) for ids in prompts_of(9, 5, 3)]
    expected = Engine(model, block_size=BLOCK).generate(requests)
    engine = tight(model, 24, tokenizer=tokenizer)

    def poison(ids: list[int]) -> list[int]:
        return [22] if engine._scheduler._preempted else []

    bad = Request(prompt=[1], sampling=Sampling(max_new_tokens=60, bad_ids=(22,)), hook=poison)
    tickets = [engine.submit(request) for request in (bad, *requests)]
    drawn: dict[tuple[int, int], list[int | None]] = {}
    reasons: dict[int, str | None] = {}
    while not engine.is_idle:
        for event in engine.step():
            drawn.setdefault((event.ticket, event.sample), []).append(event.token)
            reasons[event.ticket] = event.finish_reason
    assert reasons == {tickets[0]: "error", **dict.fromkeys(tickets[1:], "length")}
    assert engine._scheduler.sequences._epoch == 1
    for ticket, group in zip(tickets[1:], expected, strict=True):
        for i, completion in enumerate(group):
            assert drawn[ticket, i] == completion.ids.tolist()
    assert engine.cache_usage == 0
