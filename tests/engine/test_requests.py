"""What a request may bring: hooks, constraints, other prompts, embeddings, keys and values; and serving."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tempa.data.packed import Packed
from tempa.engine import Completion, Engine, Event, Request, Sampling
from tempa.engine.sequences import Sequences
from tempa.model import KvCache, Transformer
from tempa.ops import scaled
from tempa.tokenizer import Tokenizer

Build = Callable[..., Transformer]
Prompts = Callable[..., list[list[int]]]
Tokens = Callable[[list[list[Completion]]], list[list[list[int]]]]

GREEDY = Sampling(max_new_tokens=12, temperature=0)


def greedy(model: Transformer, prompt: list[int], steps: int) -> list[int]:
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(logits_after(model, ids).argmax()))
    return ids[len(prompt) :]


@torch.no_grad()
def logits_after(model: Transformer, ids: list[int]) -> torch.Tensor:
    return model.logits(model.hidden(Packed.from_rows([np.array(ids)])))[-1]


def test_a_hook_puts_tokens_in_after_a_marker(build: Build, prompts_of: Prompts) -> None:
    model = build()
    [prompt] = prompts_of(6)
    free = greedy(model, prompt, 12)
    marker = free[3]
    first = free.index(marker)

    def hook(ids: list[int]) -> list[int]:
        return [7, 8, 9] if ids.count(marker) == 1 and ids[-1] == marker else []

    [[completion]] = Engine(model).generate([Request(prompt=prompt, sampling=GREEDY, hook=hook)])
    begun = [*free[: first + 1], 7, 8, 9]
    rest = greedy(model, prompt + begun, 12 - len(begun))
    assert completion.ids.tolist() == begun + rest
    put_in = [i for i, logp in enumerate(completion.logps) if math.isnan(logp)]
    assert put_in == [first + 1, first + 2, first + 3]


def test_a_hook_cannot_exceed_the_limit(build: Build, tokens: Tokens) -> None:
    request = Request(prompt=[1], sampling=Sampling(max_new_tokens=4), hook=lambda ids: [3] * 9)
    [[completion]] = Engine(build()).generate([request])
    assert completion.ids.tolist()[1:] == [3, 3, 3]
    assert completion.finish_reason == "length"


class Alternating:
    """Allows even and odd tokens in turns."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def fill(self, words: NDArray[np.int32]) -> None:
        words[:] = 0x55555555 if len(self.taken) % 2 == 0 else np.int32(np.uint32(0xAAAAAAAA).view(np.int32))

    def accept(self, token: int) -> None:
        self.taken.append(token)


def test_a_constraint_decides_what_may_be_drawn_for_each_sample(
    build: Build, prompts_of: Prompts, tokens: Tokens
) -> None:
    sampling = Sampling(max_new_tokens=9, n=3)
    free, bound = prompts_of(4, 7)
    engine = Engine(build())
    expected = tokens(engine.generate([free], sampling))
    found = engine.generate([
        Request(prompt=free, sampling=sampling),
        Request(prompt=bound, sampling=sampling, constraint=Alternating),
    ])  # fmt: skip
    assert tokens(found)[:1] == expected
    for completion in found[1]:
        assert [token % 2 for token in completion.ids.tolist()] == [0, 1] * 4 + [0]


class Dead(Alternating):
    def fill(self, words: NDArray[np.int32]) -> None:
        words[:] = 0 if self.taken else -1


def test_a_sample_that_may_draw_nothing_fails_alone(build: Build, tokens: Tokens) -> None:
    engine = Engine(build())
    ticket = engine.submit(Request(prompt=[1, 2], sampling=GREEDY, constraint=Dead))
    other = engine.submit(Request(prompt=[3], sampling=GREEDY))
    events = served(engine)
    assert [event.finish_reason for event in events[ticket]] == [None, "error"]
    assert events[ticket][-1].token is None
    assert [event.token for event in events[other]] == greedy(engine.model, [3], 12)
    with pytest.raises(ValueError, match="after 1 tokens there was none to draw"):
        engine.generate([Request(prompt=[1, 2], sampling=GREEDY, constraint=Dead)])


@pytest.mark.parametrize("step_tokens", [3, 1000])
def test_the_logits_of_several_prompts_are_combined(
    step_tokens: int, build: Build, prompts_of: Prompts
) -> None:
    model = build()
    first, second, third = prompts_of(9, 4, 14)
    engine = Engine(model, block_size=4, step_tokens=step_tokens)
    [mean, contrast] = engine.generate([
        Request(prompt=first, others=[second, third], sampling=GREEDY),
        Request(prompt=first, others=[second], combine=lambda x: x[0] - 0.5 * x[1], sampling=GREEDY),
    ])  # fmt: skip
    ids: list[int] = []
    for token in mean[0].ids.tolist():
        each = torch.stack([logits_after(model, prompt + ids) for prompt in (first, second, third)])
        assert int(each.log_softmax(-1).mean(0).argmax()) == token
        ids.append(token)
    ids = []
    for token in contrast[0].ids.tolist():
        mixed = logits_after(model, first + ids) - 0.5 * logits_after(model, second + ids)
        assert int(mixed.argmax()) == token
        ids.append(token)
    assert engine.cache_usage == 0


def test_samples_of_several_prompts_fork_them_all(build: Build, prompts_of: Prompts, tokens: Tokens) -> None:
    first, second = prompts_of(9, 4)
    engine = Engine(build(), block_size=4)

    def generate(sampling: Sampling) -> list[list[list[int]]]:
        return tokens(engine.generate([Request(prompt=first, others=[second], sampling=sampling)]))

    together = generate(Sampling(max_new_tokens=8, seed=3, n=4))[0]
    assert together == [generate(Sampling(max_new_tokens=8, seed=3 + i))[0][0] for i in range(4)]


@pytest.mark.parametrize("name", ["modern", "gpt2", "windowed"])
def test_embeddings_of_tokens_give_what_the_tokens_give(
    name: str, build: Build, prompts_of: Prompts, tokens: Tokens
) -> None:
    model = build(name)
    prompts = prompts_of(11, 5)
    embeds = model.embedding.weight.detach()[torch.tensor(prompts[0])]
    engine = Engine(model, block_size=4)
    expected = tokens(engine.generate(prompts, GREEDY))
    for _ in range(2):
        found = engine.generate([
            Request(prompt=[0] * 11, inputs_embeds=embeds, sampling=GREEDY),
            Request(prompt=prompts[1], sampling=GREEDY),
        ])  # fmt: skip
        assert tokens(found) == expected
    other = Request(prompt=[0] * 11, inputs_embeds=embeds.flip(0), sampling=GREEDY)
    assert tokens(engine.generate([other])) != expected[:1]


def test_keys_and_values_stand_before_the_prompt(build: Build, prompts_of: Prompts, tokens: Tokens) -> None:
    """Those of real tokens do what the tokens would."""
    model = build()
    before, prompt = prompts_of(7, 5)
    engine = Engine(model, block_size=4)
    sequences = engine._current().sequences
    (handle,), _ = sequences.admit([np.array(before)])
    sequences.advance(np.array([handle]), np.array([7]), np.array(before))
    # Block by block as the table lists them.
    blocks = sequences._tables[0, :2].astype(np.int64)
    kept = sequences.cache.blocks[:, :, blocks].transpose(3, 4).flatten(2, 3)[:, :, :7].clone()
    sequences.free(np.array([handle]))
    for _ in range(2):
        [[completion]] = engine.generate([Request(prompt=prompt, prefix_kv=kept, sampling=GREEDY)])
        assert completion.ids.tolist() == greedy(model, before + prompt, 12)
    request = Request(prompt=prompt, prefix_kv=kept, sampling=GREEDY)
    for dtype in (torch.bfloat16, torch.int8):
        [[rounded]] = Engine(model, block_size=4, cache_dtype=dtype).generate([request])
        # As when all is computed, keys and values are rounded.
        np.testing.assert_allclose(rounded.logps[0], completion.logps[0], atol=0.1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"inputs_embeds": torch.zeros(2, 16)}, r"inputs_embeds should have shape \(3, 16\), got \(2, 16\)"),
        ({"inputs_embeds": torch.full((3, 16), math.nan)}, "not finite"),
        ({"prefix_kv": torch.zeros(2, 2, 4, 2, 9)}, "prefix_kv should have shape"),
        ({"prefix_kv": torch.zeros(3)}, "prefix_kv should have shape"),
        ({"prefix_kv": torch.zeros(2, 2, 61, 2, 8)}, "leaves no room"),
        ({"others": [[1], []]}, "prompt 0, other 1 is empty"),
        ({"others": [[1] * 64]}, "prompt 0, other 0 has 64 tokens and leaves no room"),
    ],
)
def test_parts_that_do_not_fit_the_model_are_refused(
    more: dict[str, object], message: str, build: Build
) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(build()).generate([Request(prompt=[1, 2, 3], **more)])


def test_requests_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="top_logps must be 0 to 1000, got -1"):
        Request(prompt=[1], top_logps=-1)
    with pytest.raises(ValueError, match="combine needs other prompts"):
        Request(prompt=[1], combine=lambda logits: logits[0])


def served(engine: Engine) -> dict[int, list[Event]]:
    events: dict[int, list[Event]] = defaultdict(list)
    while not engine.is_idle:
        for event in engine.step():
            events[event.ticket].append(event)
    assert engine.step() == []
    return events


def test_events_tell_what_generate_gives(build: Build, prompts_of: Prompts, tokenizer: Tokenizer) -> None:
    model = build()
    prompts = prompts_of(3, 20, 9)
    samplings = [
        Sampling(max_new_tokens=9, seed=i, n=1 + i, stop=("ab", "q"), stop_ids=(2,)) for i in range(3)
    ]
    expected = Engine(model, tokenizer).generate(prompts, samplings)
    engine = Engine(model, tokenizer, block_size=4, max_batch=2)
    tickets = [
        engine.submit(Request(prompt=prompt, sampling=sampling))
        for prompt, sampling in zip(prompts, samplings, strict=True)
    ]
    events = served(engine)
    for ticket, group in zip(tickets, expected, strict=True):
        for i, completion in enumerate(group):
            own = [event for event in events[ticket] if event.sample == i]
            assert [event.token for event in own] == completion.ids.tolist()
            assert "".join(event.text for event in own) == completion.text
            assert [event.finish_reason for event in own][:-1] == [None] * (len(own) - 1)
            assert own[-1].finish_reason == completion.finish_reason
    assert engine.cache_usage == 0


def test_the_likeliest_tokens_come_with_each_one(build: Build, prompts_of: Prompts) -> None:
    model = build()
    [prompt] = prompts_of(5)
    request = Request(prompt=prompt, sampling=Sampling(max_new_tokens=3, temperature=0), top_logps=4)
    [[completion], [plain]] = Engine(model).generate([request, Request(prompt=prompt, sampling=GREEDY)])
    assert plain.top == ()
    expected = logits_after(model, prompt).log_softmax(-1).topk(4)
    assert [token for token, _ in completion.top[0]] == expected.indices.tolist()
    np.testing.assert_allclose([logp for _, logp in completion.top[0]], expected.values, atol=1e-5)
    assert completion.top[0][0] == (completion.ids[0], pytest.approx(completion.logps[0]))


def test_requests_hear_of_a_step_that_failed(
    build: Build, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(build(), tokenizer, max_batch=1)
    tickets = [engine.submit(Request(prompt=[1 + i], sampling=GREEDY)) for i in range(3)]
    assert [event.finish_reason for event in engine.step()] == [None]

    def failing(*arguments: object, **more: object) -> None:
        raise RuntimeError("no power")

    with monkeypatch.context() as patch:
        patch.setattr(Sequences, "advance", failing)
        with pytest.raises(RuntimeError, match="no power"):
            engine.step()
    assert sorted((event.ticket, event.finish_reason) for event in engine.step()) == [
        (ticket, "error") for ticket in tickets
    ]
    assert engine.step() == []
    again = engine.submit(Request(prompt=[1], sampling=GREEDY))
    assert [event.token for event in served(engine)[again]] == greedy(engine.model, [1], 12)


def test_a_request_that_is_cancelled_leaves_nothing_behind(build: Build, tokenizer: Tokenizer) -> None:
    engine = Engine(build(), tokenizer, block_size=4, max_batch=4)
    tickets = [engine.submit(Request(prompt=[1, 2, 3 + i], sampling=Sampling(n=3))) for i in range(3)]
    engine.step()
    engine.step()
    assert engine.num_running == 4
    assert engine.num_waiting == 2
    for ticket in [*tickets, *tickets, 99]:
        engine.cancel(ticket)
    assert engine.is_idle
    assert engine.cache_usage == 0
    assert engine.step() == []


def fused_step(model: Transformer) -> None:
    """Torch does not count this change in `_version`."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(model.parameters(), lr=0.1, fused=True).step()


def through_data(model: Transformer) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.5)


@pytest.mark.parametrize("change", [fused_step, through_data])
@pytest.mark.parametrize("weights", ["auto", "bfloat16"])
def test_a_change_of_weights_that_torch_does_not_count_is_seen(
    change: Callable[[Transformer], None], weights: Any, build: Build, prompts_of: Prompts, tokens: Tokens
) -> None:
    """Trap P10: nothing is computed with weights, or from prefixes, of before."""
    model = build()
    engine = Engine(model, block_size=4, weights=weights)
    [prompt] = prompts_of(20)
    before = tokens(engine.generate([prompt], GREEDY))
    change(model)
    after = tokens(engine.generate([prompt], GREEDY))
    assert after == tokens(Engine(model, block_size=4, weights=weights).generate([prompt], GREEDY))
    assert after != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_the_cache_has_the_dtype_that_is_asked_for(
    build: Build, prompts_of: Prompts, dtype: torch.dtype
) -> None:
    model, prompts = build(), prompts_of(7, 5)
    engine = Engine(model, cache_dtype=dtype)
    completions = engine.generate(prompts, GREEDY)
    assert engine.sequences().cache.blocks.dtype == dtype
    exact = Engine(model).generate(prompts, GREEDY)
    # Rounded keys and values move log-probabilities of a random model by less than a tenth.
    for [ours], [theirs] in zip(completions, exact, strict=True):
        np.testing.assert_allclose(ours.logps[0], theirs.logps[0], atol=0 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_a_model_that_the_decoder_does_not_take_may_have_a_cache_of_bytes(
    build: Build, prompts_of: Prompts, dtype: torch.dtype
) -> None:
    model, prompts = build().bfloat16(), prompts_of(7, 5)
    engine = Engine(model, block_size=4, cache_dtype=dtype)
    completions = engine.generate(prompts, GREEDY)
    assert engine.sequences().cache.blocks.dtype == dtype
    again = engine.generate(prompts, GREEDY)
    assert [one.ids.tolist() for [one] in again] == [one.ids.tolist() for [one] in completions]
    exact = Engine(model, block_size=4).generate(prompts, GREEDY)
    for [ours], [theirs] in zip(completions, exact, strict=True):
        np.testing.assert_allclose(ours.logps[:2], theirs.logps[:2], atol=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.float8_e4m3fn], ids=str)
def test_what_is_not_finite_can_be_scrubbed_from_a_cache(build: Build, dtype: torch.dtype) -> None:
    config = build().config
    cache = KvCache(config, num_blocks=3, block_size=4, dtype=dtype)
    rows = torch.randn(config.depth, 2, 6, config.num_kv_heads, config.head_dim)
    rows[0, 0, 2, 0, 0], rows[1, 1, 3, 0, 1] = torch.nan, torch.inf
    cache.write(torch.arange(6), rows)
    cache.scrub()
    sound = KvCache(config, num_blocks=3, block_size=4, dtype=dtype)
    sound.write(torch.arange(6), rows)
    for i in range(config.depth):
        layer, before = cache.layer(i), sound.layer(i)
        for pool, dirty in ((layer.keys, before.keys), (layer.values, before.values)):
            kept, expected = (scaled.unscaled(x, *layer.shape) for x in (pool, dirty))
            assert kept.isfinite().all()
            is_row = expected.isfinite().all(-1)
            assert torch.equal(kept[is_row], expected[is_row])


def test_rounded_weights_have_a_rounded_cache(build: Build) -> None:
    engine = Engine(build(), weights="int8")
    engine.generate([[1, 2]], GREEDY)
    assert engine.sequences().cache.blocks.dtype == torch.bfloat16


def test_a_cache_dtype_that_cannot_be_is_refused(build: Build) -> None:
    model = build()
    with pytest.raises(ValueError, match=r"cache_dtype must be .* got torch\.float16"):
        Engine(model, cache_dtype=torch.float16)
    with pytest.raises(ValueError, match="but the decoder keeps float32, bfloat16 or int8"):
        Engine(model, cache_dtype=torch.float8_e4m3fn).generate([[1]], GREEDY)
    engine = Engine(model.bfloat16(), cache_dtype=torch.float32)
    with pytest.raises(
        ValueError, match=r"cache_dtype is torch\.float32, but the model computes in torch\.bf"
    ):
        engine.generate([[1]], GREEDY)
