"""The chat template and its mask (ch4 S5, S6; traps L5 to L10, L13)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempa.chat import Message, Rendered, read_template, render, render_batch
from tempa.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["what is two plus two? four. thank you!\n" * 9], vocab_size=300)
SPECIALS = TOKENIZER.special_tokens
CHAT: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "what is two plus two?"},
    {"role": "assistant", "content": " four.\n"},
    {"role": "user", "content": "thank you!"},
    {"role": "assistant", "content": ""},
]

CHATS = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "user", "assistant"]),
        content=st.text() | st.sampled_from([*SPECIALS, "a<|end|><|assistant|>b"]),
    ),
    min_size=1,
    max_size=6,
)


def by_definition(messages: list[Message]) -> Rendered:
    """The template as the contract writes it, one turn after the other."""
    ids: list[int] = []
    mask: list[int] = []
    for message in messages:
        content = TOKENIZER.encode(message["content"])
        is_trained = int(message["role"] == "assistant")
        ids += [SPECIALS[f"<|{message['role']}|>"], *content, SPECIALS["<|end|>"]]
        mask += [0, *[is_trained] * len(content), is_trained]
    return Rendered(np.array(ids, np.uint32), np.array(mask, np.uint8))


def same(a: Rendered, b: Rendered) -> bool:
    return a.ids.tolist() == b.ids.tolist() and a.mask.tolist() == b.mask.tolist()


def test_the_template_is_turns_and_nothing_else() -> None:
    """L7, L8: one end a turn, nothing before the first turn."""
    text = TOKENIZER.decode(render(TOKENIZER, CHAT).ids)
    assert text == (
        "<|system|>Be brief.<|end|><|user|>what is two plus two?<|end|><|assistant|> four.\n<|end|>"
        "<|user|>thank you!<|end|><|assistant|><|end|>"
    )


@given(CHATS)
def test_ids_and_mask_follow_the_definition(chat: list[Message]) -> None:
    """L5, L10, ch4 S6: the mask covers assistant content and its end, verbatim, token for token."""
    assert same(render(TOKENIZER, chat), by_definition(chat))


def test_the_end_of_an_answer_is_trained() -> None:
    """L6: the model learns to stop, also after an empty answer."""
    rendered = render(TOKENIZER, CHAT)
    trained = rendered.ids[rendered.mask == 1]
    assert TOKENIZER.decode(trained) == " four.\n<|end|><|end|>"
    assert (rendered.ids.dtype, rendered.mask.dtype) == (np.uint32, np.uint8)


@given(CHATS)
def test_each_rendering_is_a_prefix_of_the_next(chat: list[Message]) -> None:
    """L9: what was rendered, or generated, before is never rendered otherwise."""
    whole = render(TOKENIZER, chat)
    for k in range(1, len(chat)):
        part = render(TOKENIZER, chat[:k])
        assert whole.ids[: len(part.ids)].tolist() == part.ids.tolist()
        assert whole.mask[: len(part.ids)].tolist() == part.mask.tolist()
        if chat[k]["role"] == "assistant":
            prompt = render(TOKENIZER, chat[:k], add_generation_prompt=True).ids
            assert whole.ids[: len(prompt)].tolist() == prompt.tolist()


def test_the_generation_prompt_is_not_trained() -> None:
    rendered = render(TOKENIZER, CHAT, add_generation_prompt=True)
    assert rendered.ids[-1] == SPECIALS["<|assistant|>"]
    assert rendered.mask[-1] == 0


@given(CHATS)
def test_content_never_makes_a_special_token(chat: list[Message]) -> None:
    ids = render(TOKENIZER, chat).ids
    assert np.isin(ids, list(SPECIALS.values())).sum() == 2 * len(chat)


@given(st.lists(CHATS, max_size=5), st.booleans())
def test_a_batch_is_its_conversations(chats: list[list[Message]], prompt: bool) -> None:
    batch = render_batch(TOKENIZER, chats, add_generation_prompt=prompt, num_threads=2)
    assert len(batch) == len(chats)
    for i, chat in enumerate(chats):
        assert same(batch[i], render(TOKENIZER, chat, add_generation_prompt=prompt))
    with pytest.raises(IndexError):
        batch[len(chats)]


def test_a_batch_does_not_depend_on_threads() -> None:
    chats = [CHAT[:k] for k in range(1, 6)] * 20_000
    one, four = (render_batch(TOKENIZER, chats, num_threads=threads) for threads in (1, 4))
    assert (one.ids == four.ids).all()
    assert (one.mask == four.mask).all()
    assert (one.offsets == four.offsets).all()


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "conversation 0 has no messages"),
        ([{"role": "tool", "content": "x"}], 'message 0: unknown role "tool"; expected one of system, user'),
        ([*CHAT, {"role": "user", "content": 3}], "message 5: content must be a str, got int"),
        ([{"role": "user", "content": None}], "message 0: content must be a str, got NoneType"),
        ([{"role": "user"}], "message 0: content is missing"),
        ([{"content": "x"}], "message 0: role is missing"),
        (["hello"], "message 0: expected a dict with role and content, got str"),
        ([{"role": "user", "content": "a\ud800"}], "message 0: text has a lone surrogate at character 1"),
    ],
)
def test_bad_messages_are_named(messages: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        render(TOKENIZER, messages)


def test_the_batch_names_the_conversation() -> None:
    with pytest.raises(ValueError, match="conversation 1 has no messages"):
        render_batch(TOKENIZER, [CHAT, []])


def test_a_tokenizer_without_the_template_tokens_says_which() -> None:
    plain = Tokenizer.train(["abc"], vocab_size=256, special_tokens=())
    with pytest.raises(ValueError, match=r"chat needs it: no special token \"<\|system\|>\""):
        render(plain, CHAT)
    ready = plain.with_special_tokens(["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"])
    assert len(render(ready, CHAT).ids)


def test_character_tokenizers_render_and_name_unknown_characters() -> None:
    tokenizer = Tokenizer.from_characters("abc")
    assert (
        tokenizer.decode(render(tokenizer, [{"role": "user", "content": "cab"}]).ids) == "<|user|>cab<|end|>"
    )
    with pytest.raises(ValueError, match=r'conversation 0, message 0: character "x"'):
        render(tokenizer, [{"role": "user", "content": "x"}])


def test_the_template_of_a_model_can_be_read(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    with pytest.raises(FileNotFoundError):
        read_template(tmp_path)
    config.write_text("{}")
    assert read_template(tmp_path) is None
    config.write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert read_template(config) == "{{ messages }}"
    several = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    config.write_text(json.dumps({"chat_template": several}))
    assert read_template(tmp_path, "tool_use") == "b"
    with pytest.raises(ValueError, match="no chat template 'rag'; there are default, tool_use"):
        read_template(tmp_path, "rag")
    (tmp_path / "chat_template.jinja").write_text("c")
    assert read_template(tmp_path) == "c"
    config.write_text("[")
    with pytest.raises(ValueError, match="not a tokenizer configuration"):
        read_template(tmp_path, "rag")
