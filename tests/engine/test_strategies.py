"""Strategies against exact enumeration of small worlds, and against the engine alone."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tempa.data.packed import Packed
from tempa.engine import Completion, Engine, Request, Sampling
from tempa.engine.strategies import (
    DraftModel,
    PromptLookup,
    beam_search,
    best_of,
    cascade,
    contrast,
    guide,
    majority,
    minimum_risk,
    mix,
    power_sample,
    speculate,
)
from tempa.model import Transformer

Build = Callable[..., Transformer]
Prompts = Callable[..., list[list[int]]]


@torch.no_grad()
def logps_of(model: Transformer, prompt: list[int], ids: Sequence[int]) -> NDArray[np.float64]:
    batch = Packed.from_rows([np.array([*prompt, *ids])])
    return model.logps(batch)[len(prompt) - 1 : -1].double().numpy()


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_with_as_many_beams_as_continuations_the_best_are_found(
    length_penalty: float, build: Build, prompts_of: Prompts
) -> None:
    model, [prompt] = build(), prompts_of(5)
    stop = 3
    found = beam_search(
        Engine(model, block_size=4), prompt, num_beams=23**2, max_new_tokens=3, stop_ids=(stop,),
        length_penalty=length_penalty,
    )  # fmt: skip
    open_ids = [one for one in range(23) if one != stop]
    continuations = [
        *([stop],), *([a, stop] for a in open_ids),
        *([a, b, c] for a, b in itertools.product(open_ids, repeat=2) for c in range(23)),
    ]  # fmt: skip
    logps = {tuple(ids): logps_of(model, prompt, ids).sum() for ids in continuations[:60]}
    for beam in found[:40]:
        logps.setdefault(tuple(beam.ids), logps_of(model, prompt, beam.ids).sum())
        assert beam.logp == pytest.approx(logps[tuple(beam.ids)], abs=1e-4)
        assert beam.score == pytest.approx(beam.logp / len(beam.ids) ** length_penalty)
    scores = {ids: logp / len(ids) ** length_penalty for ids, logp in logps.items()}
    best = max(scores, key=lambda ids: scores[ids])
    assert tuple(found[0].ids) == best
    assert [beam.score for beam in found] == sorted((beam.score for beam in found), reverse=True)


def test_one_beam_is_greedy_and_blocks_come_back(build: Build, prompts_of: Prompts) -> None:
    engine = Engine(build(), block_size=4)
    for prompt in prompts_of(1, 8, 21):
        [[greedy]] = engine.generate([prompt], Sampling(max_new_tokens=9, temperature=0))
        [beam] = beam_search(engine, prompt, num_beams=1, max_new_tokens=9)
        assert beam.ids == greedy.ids.tolist()
        assert len(beam_search(engine, prompt, num_beams=5, max_new_tokens=9)) == 5
    assert engine.cache_usage == 0
    with pytest.raises(ValueError, match="num_beams must be at least 1, got 0"):
        beam_search(engine, [1], num_beams=0)
    with pytest.raises(ValueError, match="the prompt is empty"):
        beam_search(engine, [])
    engine.submit(Request(prompt=[1]))
    with pytest.raises(RuntimeError, match="the engine is at work"):
        beam_search(engine, [1])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_guesses_from_the_prompt_change_no_token(
    temperature: float, build: Build, prompts_of: Prompts
) -> None:
    engine = Engine(build(), block_size=4)
    for seed, prompt in enumerate(prompts_of(2, 9, 30)):
        repeated = prompt[:6] * 5
        sampling = Sampling(max_new_tokens=20, temperature=temperature, seed=seed, top_k=6, stop_ids=(5,))
        [[plain]] = engine.generate([repeated], sampling)
        found, per_pass = speculate(engine, repeated, sampling, PromptLookup())
        assert found.ids.tolist() == plain.ids.tolist()
        np.testing.assert_array_equal(found.logps, plain.logps)
        assert found.finish_reason == plain.finish_reason
        assert 1 <= per_pass <= 6
    assert engine.cache_usage == 0


@dataclass
class Oracle:
    """Guesses right until it does not."""

    ids: list[int]
    start: int

    def propose(self, ids: list[int], count: int) -> tuple[list[int], None]:
        done = len(ids) - self.start
        guess = self.ids[done : done + count]
        return ([*guess[:-1], (guess[-1] + 1) % 23] if done % 2 else guess), None


def test_right_guesses_save_passes_and_wrong_ones_are_taken_back(build: Build, prompts_of: Prompts) -> None:
    engine, [prompt] = Engine(build(), block_size=4), prompts_of(7)
    sampling = Sampling(max_new_tokens=21, seed=4)
    [[plain]] = engine.generate([prompt], sampling)
    found, per_pass = speculate(engine, prompt, sampling, Oracle(plain.ids.tolist(), 7), num_drafts=4)
    assert found.ids.tolist() == plain.ids.tolist()
    assert per_pass > 3


def test_a_draft_model_does_not_change_the_distribution(build: Build, prompts_of: Prompts) -> None:
    """Of pairs of tokens, by chi-square; the draft model is another one."""
    model, [prompt] = build(), prompts_of(3)
    draft = build("gpt2")
    engine, smaller = Engine(model, block_size=4), Engine(draft, block_size=4)
    more = {"max_new_tokens": 2, "top_k": 4, "temperature": 0.7}
    count = 1000
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(count):
        drafts = DraftModel(smaller, Sampling(seed=seed + 10**6, top_k=6))
        found, _ = speculate(engine, prompt, Sampling(seed=seed, **more), drafts, num_drafts=1)
        counts[tuple(found.ids.tolist())] += 1
    expected = pairs(model, prompt, 0.7, 4)
    assert set(counts) <= set(expected)
    chi = sum((counts[pair] - count * p) ** 2 / (count * p) for pair, p in expected.items())
    # 15 degrees of freedom: above 45 once in 10,000.
    assert len(expected) == 16
    assert chi < 45


@torch.no_grad()
def pairs(
    model: Transformer, prompt: list[int], temperature: float, top_k: int
) -> dict[tuple[int, ...], float]:
    def after(ids: list[int]) -> dict[int, float]:
        logits = model.logits(model.hidden(Packed.from_rows([np.array(ids)])))[-1].double() / temperature
        kept = logits.topk(top_k)
        return dict(zip(kept.indices.tolist(), kept.values.softmax(0).tolist(), strict=True))

    return {
        (first, second): p * q
        for first, p in after(prompt).items()
        for second, q in after([*prompt, first]).items()
    }


class TableEngine:
    """Two tokens of a known joint distribution instead of a model."""

    tokenizer = None

    def __init__(self, joint: dict[tuple[int, int], float]) -> None:
        self.joint = np.zeros((2, 2))
        for pair, p in joint.items():
            self.joint[pair] = p

    def conditional(self, ids: Sequence[int]) -> NDArray[np.float64]:
        row = self.joint.sum(1) if not len(ids) else self.joint[ids[0]]
        return row / row.sum()

    def generate(self, prompts: list[Any], samplings: list[Sampling]) -> list[list[Completion]]:
        out = []
        for prompt, sampling in zip(prompts, samplings, strict=True):
            rng = np.random.default_rng(sampling.seed)
            ids, logps = prompt[1:].tolist(), []
            for _ in range(sampling.max_new_tokens):
                p = self.conditional(ids) ** (1 / sampling.temperature)
                p /= p.sum()
                ids.append(int(rng.choice(2, p=p)))
                logps.append(math.log(p[ids[-1]]))
            new = np.array(ids[len(prompt) - 1 :])
            out.append([Completion(new, np.array(logps, np.float32), "", "length")])
        return out

    def score_each(self, prompts: list[Any], continuations: list[Any]) -> list[NDArray[np.float32]]:
        return [
            np.log([self.conditional(ids[:i])[one] for i, one in enumerate(ids)]).astype(np.float32)
            for ids in continuations
        ]


def test_the_power_distribution_prefers_what_a_low_temperature_does_not() -> None:
    """Lecture L8: ab 0.40, ba 0.25, bb 0.25, aa 0."""
    a, b = 0, 1
    joint = {(a, b): 0.4, (b, a): 0.25, (b, b): 0.25, (a, a): 1e-12}
    engine: Any = TableEngine(joint)
    found = power_sample(engine, [[9]] * 600, alpha=4, max_new_tokens=2, block_tokens=2, num_steps=12)
    counts = Counter(tuple(one.ids.tolist()) for one in found)
    total = sum(p**4 for p in joint.values())
    for pair, p in joint.items():
        assert counts[pair] / 600 == pytest.approx(p**4 / total, abs=0.07)
    cold = engine.generate(
        [np.array([9])] * 600, [Sampling(max_new_tokens=2, temperature=0.25, seed=i) for i in range(600)]
    )
    assert sum(one.ids[0] == b for [one] in cold) > 300 > counts[b, a] + counts[b, b]


def test_power_samples_of_a_model_are_likelier_and_end_at_stops(build: Build, prompts_of: Prompts) -> None:
    model = build()
    engine = Engine(model, block_size=4)
    prompts = prompts_of(*[4] * 12)
    plain = [
        one for (one,) in engine.generate(prompts, [Sampling(max_new_tokens=8, seed=i) for i in range(12)])
    ]
    more = {"alpha": 3, "max_new_tokens": 8, "block_tokens": 4, "num_steps": 6, "stop_ids": (4,), "seed": 2}
    found = power_sample(engine, prompts, **more)
    for prompt, one in zip(prompts, found, strict=True):
        np.testing.assert_allclose(one.logps, logps_of(model, prompt, one.ids.tolist()), atol=1e-4)
        assert (one.finish_reason == "stop") == (4 in one.ids.tolist())
        assert 4 not in one.ids.tolist()[:-1]
    assert np.mean([one.logps.mean() for one in found]) > np.mean([one.logps.mean() for one in plain]) + 0.3
    again = power_sample(engine, prompts, **more)
    assert [one.ids.tolist() for one in again] == [one.ids.tolist() for one in found]
    with pytest.raises(ValueError, match="alpha must be a positive number, got 0"):
        power_sample(engine, prompts, alpha=0)


def test_no_risk_but_a_wrong_answer_is_the_majority() -> None:
    """ch3 F8 and F10: 0/1 risk gives the vote."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        votes = rng.integers(0, 4, rng.integers(1, 9)).tolist()
        answer, share = majority(votes, lambda vote: vote)
        assert minimum_risk(votes, lambda one, other: float(one != other)) == answer
        assert share == votes.count(answer) / len(votes) == max(map(votes.count, votes)) / len(votes)
    assert majority(["x", "y"], lambda _: None) == ("x", 0.0)
    assert minimum_risk([0, 10], lambda one, other: abs(one - other), [1, 3]) == 10
    assert best_of([3, 9, 9, 1], lambda value: value) == 9
    for choose in (lambda: best_of([], len), lambda: majority([], len)):
        with pytest.raises(ValueError, match="no candidate"):
            choose()
    with pytest.raises(ValueError, match="the score of candidate 1 is NaN"):
        best_of([1, 2], lambda value: math.nan if value == 2 else 0.0)
    with pytest.raises(ValueError, match="2 candidates but 1 weights"):
        minimum_risk([1, 2], lambda one, other: 0.0, [1])


def test_ways_to_combine_prompts_are_their_formulas(build: Build, prompts_of: Prompts) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 30) * 3
    first, second = logits.log_softmax(-1)
    torch.testing.assert_close(
        mix([1, 3])(logits).exp(), 0.25 * first.exp() + 0.75 * second.exp(), rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(guide(1)(logits), first)
    torch.testing.assert_close(guide(2.5)(logits), 2.5 * first - 1.5 * second)
    kept = contrast(0.2, 1.0)(logits)
    allowed = first.exp() >= 0.2 * first.exp().max()
    assert torch.equal(kept.isfinite(), allowed)
    torch.testing.assert_close(kept[allowed], (2 * logits[0] - logits[1])[allowed])
    with pytest.raises(ValueError, match="expected two prompts, got 3"):
        guide(2)(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="2 prompts but 3 weights"):
        mix([1, 1, 1])(logits)
    with pytest.raises(ValueError, match="must be finite and not negative"):
        mix([1, -1])
    with pytest.raises(ValueError, match="alpha must be above 0"):
        contrast(0)
    engine, [prompt, other] = Engine(build()), prompts_of(5, 8)
    sampling = Sampling(max_new_tokens=7, temperature=0)
    [[alone], [guided]] = engine.generate([
        Request(prompt=prompt, sampling=sampling),
        Request(prompt=prompt, others=[other], combine=guide(1.0), sampling=sampling),
    ])  # fmt: skip
    assert guided.ids.tolist() == alone.ids.tolist()


def test_a_cascade_asks_the_next_model_where_one_is_unsure(build: Build, prompts_of: Prompts) -> None:
    small, large = Engine(build("gpt2")), Engine(build())
    prompts = prompts_of(*range(1, 13))
    sampling = Sampling(max_new_tokens=6, temperature=0)
    first = [one for (one,) in small.generate(prompts, sampling)]
    last = [one for (one,) in large.generate(prompts, sampling)]
    sure = [float(np.exp(one.logps.mean())) for one in first]
    threshold = float(np.median(sure))
    found = cascade([small, large], prompts, sampling, threshold=threshold)
    for i, (completion, place) in enumerate(found):
        assert place == (0 if sure[i] >= threshold else 1)
        assert completion.ids.tolist() == (first, last)[place][i].ids.tolist()
    assert {place for _, place in found} == {0, 1}
    with pytest.raises(ValueError, match="needs an engine"):
        cascade([], prompts, sampling, threshold=0.5)
    with pytest.raises(ValueError, match="one sample, got n = 2"):
        cascade([small], prompts, Sampling(n=2), threshold=0.5)
