from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tempa.data.packed import Packed
from tempa.engine import Completion, Engine, Request, Sampling
from tempa.engine.sequences import Sequences
from tempa.model import ModelConfig, Transformer
from tempa.tokenizer import Tokenizer

Build = Callable[..., Transformer]
Prompts = Callable[..., list[list[int]]]
Tokens = Callable[[list[list[Completion]]], list[list[list[int]]]]

# Keys and values of 2 layers with 2 heads of 8 float32.
BYTES_PER_TOKEN = 2 * 2 * 2 * 8 * 4
SHAPES = ["modern", "gpt2", "grouped", "windowed"]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_rollout_logps_equal_those_of_the_model(
    name: str, temperature: float, build: Build, prompts_of: Prompts
) -> None:
    """Traps P8 and P9, and ch2 M1: the cached decode is the full forward, temperature included."""
    model = build(name)
    prompts = prompts_of(1, 7, 16, 17, 30)
    results = Engine(model, block_size=4).generate(
        prompts, Sampling(max_new_tokens=20, temperature=temperature, top_k=9, top_p=0.9, n=3)
    )
    for prompt, group in zip(prompts, results, strict=True):
        for completion in group:
            batch = Packed.from_rows([np.concatenate([prompt, completion.ids])])
            expected = model.logps(batch, temperature=temperature)[len(prompt) - 1 : -1].detach().numpy()
            np.testing.assert_allclose(completion.logps, expected, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_generation_works_under_autocast_and_after_it(
    name: str, build: Build, prompts_of: Prompts, tokens: Tokens
) -> None:
    model = build(name)
    engine, prompts = Engine(model), prompts_of(5, 9)
    before = tokens(engine.generate(prompts, Sampling(max_new_tokens=12, seed=1)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        results = engine.generate(prompts, Sampling(max_new_tokens=12, seed=1))
        for prompt, [completion] in zip(prompts, results, strict=True):
            row = np.concatenate([prompt, completion.ids])
            scored = model.logps(Packed.from_rows([row]))[len(prompt) - 1 : -1]
            # Products of bf16 with 8 bits of mantissa, in another order.
            np.testing.assert_allclose(completion.logps, scored, atol=0.15)
    assert tokens(engine.generate(prompts, Sampling(max_new_tokens=12, seed=1))) == before


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_decoding_takes_the_argmax_of_a_full_forward(
    name: str, build: Build, prompts_of: Prompts
) -> None:
    model = build(name)
    [prompt] = prompts_of(5)
    [[completion]] = Engine(model).generate([prompt], Sampling(max_new_tokens=12, temperature=0))
    ids = prompt.copy()
    for _ in range(12):
        ids.append(int(model.logits(model.hidden(Packed.from_rows([np.array(ids)])))[-1].argmax()))
    assert completion.ids.tolist() == ids[5:]


def test_forked_samples_equal_separate_ones_with_their_seeds(
    build: Build, prompts_of: Prompts, tokens: Tokens
) -> None:
    engine = Engine(build(), block_size=4)
    [prompt] = prompts_of(10)
    together = engine.generate([prompt], Sampling(max_new_tokens=16, seed=5, n=6))
    apart = engine.generate([prompt] * 6, [Sampling(max_new_tokens=16, seed=5 + i) for i in range(6)])
    assert tokens(together)[0] == [group[0] for group in tokens(apart)]
    assert len({tuple(ids) for ids in tokens(together)[0]}) == 6


@pytest.mark.parametrize("settings", [{}, {"reuses_prefixes": False}, {"step_tokens": 1}, {"step_tokens": 5}])
def test_prefixes_in_the_cache_and_cuts_of_prompts_change_no_bit(
    settings: dict[str, Any], build: Build, prompts_of: Prompts
) -> None:
    model = build()
    shared, *ends = prompts_of(21, 1, 6, 17)
    prompts = [shared + end for end in ends] + [shared]
    sampling = Sampling(max_new_tokens=9, n=2, temperature=0.9)
    fresh = [Engine(model, block_size=4).generate([prompt], sampling)[0] for prompt in prompts]
    engine = Engine(model, block_size=4, **settings)
    for _ in range(2):
        for found, expected in zip(engine.generate(prompts, sampling), fresh, strict=True):
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one.ids, other.ids)
                np.testing.assert_array_equal(one.logps, other.logps)
    hit = engine.stats()["num_hit"]
    assert (hit == 0) == ("reuses_prefixes" in settings)


def test_a_prompt_of_another_namespace_hits_nothing(build: Build, prompts_of: Prompts) -> None:
    engine = Engine(build(), block_size=4)
    [prompt] = prompts_of(20)
    for namespace, hit in [(b"a", 0), (b"b", 0), (b"a", 19)]:
        before = engine.stats().get("num_hit", 0)
        engine.generate([Request(prompt=prompt, sampling=Sampling(max_new_tokens=2), namespace=namespace)])
        assert engine.stats()["num_hit"] - before == hit


def test_tokens_do_not_depend_on_the_batch_or_the_room_in_the_cache(
    build: Build, prompts_of: Prompts, tokens: Tokens
) -> None:
    model = build()
    prompts = prompts_of(3, 20, 1, 9, 33)
    samplings = [
        Sampling(max_new_tokens=5 + 7 * i, seed=10 * i, n=1 + i % 3, stop_ids=(i,)) for i in range(5)
    ]
    expected = tokens(Engine(model).generate(prompts, samplings))
    one_by_one = [tokens(Engine(model).generate([p], s))[0] for p, s in zip(prompts, samplings, strict=True)]
    assert one_by_one == expected
    # 18 blocks of 4: the longest sample alone needs 16, so most wait, and samples of one prompt part.
    tight = Engine(model, block_size=4, max_batch=2, cache_bytes=18 * 4 * BYTES_PER_TOKEN)
    assert tokens(tight.generate(prompts, samplings)) == expected


def test_samples_beyond_the_largest_batch_run_in_turns(
    build: Build, prompts_of: Prompts, tokens: Tokens
) -> None:
    engine, small = Engine(build()), Engine(build(), max_batch=3)
    sampling = Sampling(max_new_tokens=4, n=8)
    assert tokens(small.generate(prompts_of(4), sampling)) == tokens(engine.generate(prompts_of(4), sampling))


def test_generation_ends_at_a_stop_token_and_keeps_it(
    build: Build, prompts_of: Prompts, tokenizer: Tokenizer
) -> None:
    engine = Engine(build(), tokenizer)
    [prompt] = prompts_of(6)
    [[free]] = engine.generate([prompt], Sampling(max_new_tokens=30, seed=3))
    stop = int(free.ids[10])
    [[stopped]] = engine.generate([prompt], Sampling(max_new_tokens=30, seed=3, stop_ids=(stop,)))
    end = free.ids.tolist().index(stop)
    assert stopped.ids.tolist() == free.ids[: end + 1].tolist()
    assert stopped.text == tokenizer.decode(free.ids[:end])
    assert (stopped.finish_reason, free.finish_reason) == ("stop", "length")


def test_a_stop_string_across_tokens_ends_the_text_before_it(
    build: Build, prompts_of: Prompts, tokenizer: Tokenizer
) -> None:
    engine = Engine(build(), tokenizer)
    [prompt] = prompts_of(6)
    [[free]] = engine.generate([prompt], Sampling(max_new_tokens=30, seed=3))
    stop = free.text[8:11]
    [[stopped]] = engine.generate([prompt], Sampling(max_new_tokens=30, seed=3, stop=("nothing", stop)))
    assert stopped.text == free.text[: free.text.index(stop)]
    assert len(stopped.ids) == free.text.index(stop) + 3
    assert stopped.finish_reason == "stop"


def test_generation_ends_where_the_model_ends(build: Build, prompts_of: Prompts) -> None:
    [[completion]] = Engine(build()).generate(prompts_of(60), Sampling(max_new_tokens=100))
    assert len(completion.ids) == 4
    assert completion.finish_reason == "length"


@pytest.mark.parametrize("stop", [(), ("q",), ("ab", "abc", "zz")])
def test_streamed_pieces_are_the_text_of_generate(
    stop: tuple[str, ...], build: Build, prompts_of: Prompts, tokenizer: Tokenizer
) -> None:
    engine = Engine(build(), tokenizer)
    for seed, prompt in enumerate(prompts_of(1, 5, 9, 30)):
        sampling = Sampling(max_new_tokens=40, seed=seed, stop=stop, stop_ids=(3,))
        assert "".join(engine.stream(prompt, sampling)) == engine.generate([prompt], sampling)[0][0].text


def test_an_abandoned_stream_gives_its_blocks_back(
    build: Build, prompts_of: Prompts, tokens: Tokens, tokenizer: Tokenizer
) -> None:
    engine = Engine(build(), tokenizer)
    [prompt] = prompts_of(5)
    expected = tokens(engine.generate([prompt], Sampling(max_new_tokens=9)))
    assert engine.cache_usage == 0
    pieces = engine.stream(prompt, Sampling(max_new_tokens=9))
    next(pieces)
    assert engine.cache_usage > 0
    assert tokens(engine.generate([prompt], Sampling(max_new_tokens=9))) == expected  # while it is open
    pieces.close()
    assert engine.cache_usage == 0
    assert engine.is_idle


def test_an_interrupted_batch_leaves_the_engine_as_it_was(
    monkeypatch: pytest.MonkeyPatch, build: Build, prompts_of: Prompts, tokens: Tokens
) -> None:
    engine = Engine(build(), block_size=4)
    expected = tokens(engine.generate(prompts_of(5, 8), Sampling(max_new_tokens=9, n=4)))
    count = itertools.count()
    original = Sequences.advance

    def interrupted(*arguments: Any, **more: Any) -> torch.Tensor:
        if next(count) == 5:
            raise KeyboardInterrupt
        return original(*arguments, **more)

    monkeypatch.setattr(Sequences, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(prompts_of(5, 8), Sampling(max_new_tokens=9, n=4))
    assert tokens(engine.generate(prompts_of(5, 8), Sampling(max_new_tokens=9, n=4))) == expected


def test_an_engine_follows_the_weights_and_forgets_a_model_that_diverged(
    build: Build, prompts_of: Prompts, tokens: Tokens
) -> None:
    """Trap P10: rollouts come from the current weights."""
    model = build()
    engine = Engine(model)
    sampling = Sampling(max_new_tokens=8, temperature=0)
    before = engine.generate(prompts_of(5), sampling)
    good = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.final_norm.weight.fill_(float("nan"))
        for block in model.blocks:
            block.attention.qkv.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"prompt 0, sample 0: after 0 tokens .* logits are not finite"):
        engine.generate(prompts_of(5), sampling)
    with torch.no_grad():
        model.load_state_dict({name: -tensor for name, tensor in good.items()})
    assert tokens(engine.generate(prompts_of(5), sampling)) != tokens(before)
    model.load_state_dict(good)
    assert tokens(engine.generate(prompts_of(5), sampling)) == tokens(before)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_scores_are_the_model_logps_of_each_continuation(
    temperature: float, build: Build, prompts_of: Prompts
) -> None:
    model = build()
    prompt, *ends = prompts_of(6, 3, 1, 12)
    scores = Engine(model).score(prompt, [*ends, []], temperature=temperature)
    assert [len(score) for score in scores] == [3, 1, 12, 0]
    for end, score in zip(ends, scores, strict=False):
        batch = Packed.from_rows([np.array(prompt + end)])
        expected = model.logps(batch, temperature=temperature)[5:-1].detach().numpy()
        np.testing.assert_allclose(score, expected, atol=1e-5)


def test_no_prompt_gives_no_completion(build: Build, tokens: Tokens, tokenizer: Tokenizer) -> None:
    assert Engine(build()).generate([], Sampling()) == []


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ([], Sampling(), "prompt 0 is empty; begin with a token"),
        ([1, 23], Sampling(), "prompt 0 has id 23, outside the vocabulary of 23 tokens"),
        ([-1], Sampling(), "prompt 0 has id -1"),
        ([1] * 64, Sampling(), "prompt 0 has 64 tokens and leaves no room for a new one: the model takes 64"),
        ([1], Sampling(stop_ids=(99,)), "prompt 0: stop id 99 is outside"),
        ([1], Sampling(stop=("x",)), "prompt 0: stop strings need a tokenizer"),
        ([1], Sampling(), "prompt 0: a sample needs 4 cache blocks and 3 fit; raise cache_bytes"),
        ([[1]], Sampling(), "flat sequence of ids"),
    ],
)
def test_requests_that_cannot_run_are_refused_with_the_remedy(
    prompt: list[int], sampling: Sampling, message: str, build: Build
) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(build(), cache_bytes=3 * 16 * BYTES_PER_TOKEN).generate([prompt], sampling)


def test_other_misuse_is_refused(build: Build, tokens: Tokens, tokenizer: Tokenizer) -> None:
    engine = Engine(build())
    with pytest.raises(ValueError, match="1 prompts but 2 samplings"):
        engine.generate([[1]], [Sampling(), Sampling()])
    with pytest.raises(ValueError, match="needs a tokenizer"):
        engine.stream([1], Sampling())
    with pytest.raises(ValueError, match="one sample, got n = 2"):
        Engine(build(), tokenizer).stream([1], Sampling(n=2))
    with pytest.raises(ValueError, match="the tokenizer has 23 tokens, the model 22"):
        Engine(Transformer(ModelConfig(vocab_size=22)), tokenizer)
    with pytest.raises(ValueError, match="max_batch must be at least 1"):
        Engine(build(), max_batch=0)
    with pytest.raises(ValueError, match="needs a sampling"):
        engine.generate([[1]])
    with pytest.raises(ValueError, match="which has its own sampling"):
        engine.generate([Request(prompt=[1])], Sampling())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": -0.1}, "temperature must be 0 or a positive number, got -0.1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.1}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"n": 0}, "n must be"),
        ({"stop": ("",)}, "must not be empty"),
    ],
)
def test_sampling_out_of_range_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**wrong)
