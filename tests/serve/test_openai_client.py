"""The client that most programs use drives everything that is offered."""

from __future__ import annotations

import json
import math

import pytest
from live_server import TOKENIZER
from openai import BadRequestError, NotFoundError

A, B = (str(TOKENIZER.token_to_id(letter)) for letter in "AB")
END = str(TOKENIZER.special_tokens["<|end|>"])
HELLO = [{"role": "user", "content": "hello"}]
COLOUR = {
    "type": "object",
    "properties": {"name": {"enum": ["red", "green"]}, "dark": {"type": "boolean"}},
    "required": ["name", "dark"],
    "additionalProperties": False,
}


def ask(live, messages=HELLO, **fields):
    return live.openai.chat.completions.create(model="tiny", messages=messages, **fields)


def test_models_are_listed(live) -> None:
    assert [model.id for model in live.openai.models.list()] == ["tiny"]
    assert live.openai.models.retrieve("tiny").id == "tiny"
    with pytest.raises(NotFoundError, match="no model 'big' here"):
        live.openai.models.retrieve("big")


def test_a_chat_has_its_usage_and_reason(live) -> None:
    answer = ask(live, max_tokens=7, seed=1)
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    # The turn of the user and its two marks, and that of the assistant.
    assert answer.usage.prompt_tokens == 1 + len("hello") + 1 + 1
    assert (answer.usage.completion_tokens, choice.finish_reason) == (7, "length")


def test_a_seed_repeats_an_answer_and_none_draws_anew(live) -> None:
    first, again, other = (ask(live, max_tokens=20, seed=seed) for seed in (5, 5, None))
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.choices[0].message.content != other.choices[0].message.content


def test_a_stream_says_what_the_whole_answer_says(live) -> None:
    whole = ask(live, max_tokens=30, seed=3, n=4)
    texts, reasons = [""] * 4, [None] * 4
    last = None
    for chunk in ask(live, max_tokens=30, seed=3, n=4, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = reasons[choice.index] or choice.finish_reason
        last = chunk
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 4
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert last.usage == whole.usage


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_come_with_every_token(live, stream) -> None:
    answer = ask(live, max_tokens=6, seed=2, logprobs=True, top_logprobs=3, temperature=0, stream=stream)
    if stream:
        places = [one for chunk in answer for c in chunk.choices if c.logprobs for one in c.logprobs.content]
    else:
        places = answer.choices[0].logprobs.content
    assert len(places) == 6
    for place in places:
        likely = [top.logprob for top in place.top_logprobs]
        assert len(likely) == 3
        # Greedy: the token drawn is the likeliest.
        assert place.logprob == likely[0] >= likely[1] >= likely[2]
        assert place.bytes == place.top_logprobs[0].bytes


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_is_kept_by_a_model_that_knows_nothing(live, stream) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": COLOUR, "strict": True}}
    answer = ask(live, response_format=form, n=4, seed=0, max_tokens=200, stream=stream)
    texts = [""] * 4
    for chunk in answer if stream else [answer]:
        for choice in chunk.choices:
            texts[choice.index] += (choice.delta if stream else choice.message).content or ""
    for text in texts:
        colour = json.loads(text)
        assert set(colour) == {"name", "dark"}
        assert colour["name"] in ("red", "green")
        assert isinstance(colour["dark"], bool)


def test_a_json_object_begins_as_one(live) -> None:
    answer = ask(live, response_format={"type": "json_object"}, max_tokens=20)
    assert answer.choices[0].message.content.lstrip()[0] == "{"


def test_a_completion_takes_texts_and_ids_and_tells_offsets(live) -> None:
    answer = live.openai.completions.create(
        model="tiny", prompt=["hello", "a"], n=2, max_tokens=9, logprobs=2, seed=4
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for choice in answer.choices:
        logps = choice.logprobs
        assert len(logps.tokens) == len(logps.token_logprobs) == len(logps.text_offset) == 9
        assert all(len(top) <= 2 and all(map(math.isfinite, top.values())) for top in logps.top_logprobs)
        assert logps.text_offset == sorted(logps.text_offset)
    ids = live.openai.completions.create(
        model="tiny", prompt=TOKENIZER.encode("hello"), n=2, max_tokens=9, seed=4
    )
    assert [c.text for c in ids.choices] == [c.text for c in answer.choices[:2]]
    pieces = live.openai.completions.create(
        model="tiny", prompt="hello", n=2, max_tokens=9, seed=4, stream=True
    )
    texts = ["", ""]
    for piece in pieces:
        for choice in piece.choices:
            texts[choice.index] += choice.text
    assert texts == [c.text for c in ids.choices]


def test_a_bias_and_penalties_change_what_is_drawn(live) -> None:
    text = ask(live, max_tokens=5, logit_bias={A: 100}).choices[0].message.content
    assert text == "AAAAA"
    penalised = ask(live, max_tokens=5, logit_bias={A: 50, B: 49}, temperature=0, presence_penalty=2)
    assert set(penalised.choices[0].message.content) == {"A", "B"}


def test_a_stop_string_ends_the_text_before_it(live) -> None:
    bias = {A: 100, B: 99.5}
    answer = ask(live, max_tokens=50, logit_bias=bias, stop=["BA"], seed=1).choices[0]
    assert answer.finish_reason == "stop"
    assert set(answer.message.content) <= {"A", "B"}
    assert "BA" not in answer.message.content


def test_a_token_that_ends_the_turn_is_not_part_of_it(live) -> None:
    answer = ask(live, max_tokens=50, logit_bias={END: 100}, logprobs=True)
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content, choice.logprobs.content) == ("stop", "", [])
    assert answer.usage.completion_tokens == 1


def test_an_error_names_the_field(live) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(live, top_p=2)
    assert caught.value.param == "top_p"
    assert caught.value.type == "invalid_request_error"
