import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from tempa.align.sequences import (
    packed,
    records_of_step,
    render_answers,
    response_logps,
    response_offsets,
    split_by_tokens,
)
from tempa.chat import render

PROMPT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]


def test_traps_l5_l6_only_the_answer_and_its_end_are_trained(tokenizer):
    """The first token of the answer and the end token are in the loss, all before them is not."""
    (row,) = render_answers(tokenizer, [PROMPT], ["four"])
    batch = packed([row])
    assert tokenizer.decode(batch.targets[batch.weights > 0].numpy()) == "four<|end|>"


def test_traps_l7_l8_specials_come_once(tokenizer):
    (row,) = render_answers(tokenizer, [PROMPT], ["four"])
    text = tokenizer.decode(row.ids)
    assert text.startswith("<|system|>")
    assert text.count("<|end|>") == 5
    assert text.endswith("four<|end|>")
    assert "<|endoftext|>" not in text


def test_trap_l9_the_prompt_is_a_prefix_of_the_whole(tokenizer):
    """Also where a merge would cross the border if both were encoded as one text."""
    prompt = [{"role": "user", "content": "the c"}]
    (row,) = render_answers(tokenizer, [prompt], ["at"])
    prefix = render(tokenizer, prompt, add_generation_prompt=True).ids
    assert row.ids[: len(prefix)].tolist() == prefix.tolist()
    assert row.mask.tolist() == [0] * len(prefix) + [1] * (len(row.ids) - len(prefix))


@given(
    num_records=st.integers(1, 20),
    batch_size=st.integers(1, 50),
    seed=st.integers(0, 3),
    epochs=st.integers(1, 3),
)
def test_every_record_comes_once_an_epoch(num_records, batch_size, seed, epochs):
    steps = -(-epochs * num_records // batch_size)
    stream = [i for step in range(steps) for i in records_of_step(num_records, batch_size, step, seed)]
    assert len(stream) == steps * batch_size
    for epoch in range(epochs):
        assert sorted(stream[epoch * num_records : (epoch + 1) * num_records]) == list(range(num_records))


def test_the_order_changes_with_seed_and_epoch():
    orders = {tuple(records_of_step(50, 50, step, seed)) for step in range(2) for seed in range(2)}
    assert len(orders) == 4


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 12))
def test_runs_cover_all_in_order_within_the_budget(lengths, budget):
    runs = split_by_tokens(lengths, budget)
    assert [i for run in runs for i in range(len(lengths))[run]] == list(range(len(lengths)))
    for run in runs:
        assert sum(lengths[run]) <= budget or run.stop - run.start == 1


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_response_logps_are_those_of_the_whole_batch(tokenizer, model, temperature):
    rows = render_answers(tokenizer, [PROMPT, PROMPT[:2]], ["four", "the cat sat"])
    batch = packed(rows)
    chosen = response_logps(model, batch, temperature=temperature)
    torch.testing.assert_close(chosen, model.logps(batch, temperature=temperature)[batch.weights > 0])
    lengths = [int(row.mask.sum()) for row in rows]
    assert response_offsets(batch).tolist() == [0, lengths[0], sum(lengths)]


def test_temperature_divides_the_logits(tokenizer, model):
    """Trap P9: what is scored is the distribution that was sampled."""
    batch = packed(render_answers(tokenizer, [PROMPT], ["four"]))
    expected = (model.logits(model.hidden(batch)) / 0.5).log_softmax(-1)
    expected = expected.gather(1, batch.targets[:, None]).squeeze(1)[batch.weights > 0]
    torch.testing.assert_close(response_logps(model, batch, temperature=0.5), expected)
