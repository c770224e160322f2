"""Streamed text has the ids of the whole text, however it is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempa.tokenizer import StreamEncoder, Tokenizer

TEXT = "The cat's mat: 12345 naïve.\n\n  Zoë 中文。HTMLParser iPhone's\r\n\tx = [1, 2]  # no\n/a 🙂" * 3

File = dict[str, Any]
PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "<think>",
                "<s>",
                "<mask>",
                " ",
                "  ",
                "\n",
                "\r\n",
                "\n\n",
                "'s",
                "'",
                "'LL",
                "cat",
                "CAT",
                "12",
                "。",
                "/",
            ]
        ),
        st.text(st.sampled_from(" \t\n\r\u0085\u00a0'sTlLK1²ab éß中🙂\u200d\u0301.,-_(<|>)/▁"), max_size=5),
        st.text(max_size=3),
    ),
    max_size=20,
)


def plain(_: File) -> None:
    pass


def added(file: File) -> None:
    """Added tokens with every rule, looked for in the text as it is."""
    start = max(file["model"]["vocab"].values()) + 1
    names = ["<think>", "<mask>", "cat12", "\n\n", "  ", "a b"]
    rules: list[File] = [
        {},
        {"lstrip": True, "rstrip": True},
        {"single_word": True},
        {},
        {"lstrip": True},
        {},
    ]
    file["added_tokens"] += [
        {"id": start + i, "content": name, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": i % 2 == 0, "special": False}
        | rule
        for i, (name, rule) in enumerate(zip(names, rules, strict=True))
    ]


def nfc(file: File) -> None:
    file["normalizer"] = {"type": "NFC"}
    file["pre_tokenizer"]["add_prefix_space"] = True


def custom(file: File) -> None:
    digits = {"type": "Digits", "individual_digits": True}
    file["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, file["pre_tokenizer"]]}


@pytest.fixture(
    scope="module",
    params=[
        ("gpt2", plain),
        ("cl100k", plain),
        ("qwen2", plain),
        ("o200k", plain),
        ("gpt2", added),
        ("o200k", added),
        ("gpt2", nfc),
        ("gpt2", custom),
    ],
    ids=lambda case: f"{case[0]}-{case[1].__name__}",
)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    pattern, change = request.param
    path = tmp_path_factory.mktemp("stream") / "tokenizer.json"
    Tokenizer.train([TEXT], vocab_size=340, pattern=pattern, special_tokens=["<s>"]).save(path)
    return changed(path, change)


def changed(path: Path, change: Callable[[File], None]) -> Tokenizer:
    file = json.loads(path.read_text(encoding="utf-8"))
    change(file)
    path.write_text(json.dumps(file), encoding="utf-8")
    return Tokenizer.load(path)


def streamed(tokenizer: Tokenizer, pieces: list[str], **options: Any) -> list[int]:
    stream = StreamEncoder(tokenizer, **options)
    ids = [i for piece in pieces for i in stream.push(piece)]
    return ids + stream.finish()


def test_any_cutting_gives_the_ids_of_the_whole(tokenizer: Tokenizer) -> None:
    @given(PIECES)
    def check(pieces: list[str]) -> None:
        whole = "".join(pieces)
        for allowed in ((), "all"):
            expected = tokenizer.encode(whole, allowed_special=allowed)  # type: ignore[arg-type]
            assert streamed(tokenizer, pieces, allowed_special=allowed) == expected
            assert streamed(tokenizer, list(whole), allowed_special=allowed) == expected

    check()
    assert streamed(tokenizer, list(TEXT)) == tokenizer.encode(TEXT)


def test_characters_come_at_once() -> None:
    tokenizer = Tokenizer.from_characters("abc ", special_tokens=["<s>"])
    stream = StreamEncoder(tokenizer)
    assert (stream.push("ab"), stream.num_pending, stream.push("c"), stream.finish()) == ([1, 2], 0, [3], [])

    @given(st.lists(st.sampled_from(["a", "b", "<s>", " "])))
    def check(pieces: list[str]) -> None:
        tokenizer = Tokenizer.from_characters("ab <s>", special_tokens=["<s> "])
        whole = "".join(pieces)
        expected = tokenizer.encode(whole, allowed_special="all")
        assert streamed(tokenizer, list(whole), allowed_special="all") == expected

    check()


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "qwen2", "o200k"])
def test_little_text_waits(pattern: Any) -> None:
    """Bounded buffers: words, sentences of scripts without spaces, and lines do not pile up."""
    tokenizer = Tokenizer.train([TEXT], vocab_size=300, pattern=pattern)
    for text in ("the cat sat ", "東京へ行く。", "x=1;y=2;", "word\n"):
        stream = StreamEncoder(tokenizer, allowed_special="all")
        waiting = []
        for char in text * 200:
            stream.push(char)
            waiting.append(stream.num_pending)
        assert max(waiting) < 60


def test_a_stream_can_be_used_again() -> None:
    tokenizer = Tokenizer.train([TEXT], vocab_size=300)
    stream = StreamEncoder(tokenizer)
    for _ in range(2):
        assert stream.push("the cat") + stream.finish() == tokenizer.encode("the cat")
