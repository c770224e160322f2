"""The tokenizer by itself: round trips, specials, threads, streaming, bad input."""

from __future__ import annotations

import copy
import pickle
import random
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempa.tokenizer import DEFAULT_SPECIALS, StreamDecoder, Tokenizer

TEXT = (
    "It's the end, isn't it? 12345 naïve café — 東京へ行く。\r\n"
    "\tif x == 1:\n        return 'ß' 🙂👩\u200d👩\u200d👧\u0085 \u3000"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT * 3, "the cat and the hat " * 5], vocab_size=340)


@given(st.text())
def test_decoding_gives_the_text_back(text: str) -> None:
    tokenizer = Tokenizer.train([TEXT], vocab_size=280)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_empty_text_has_no_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""
    ids, offsets = tokenizer.encode_batch([])
    assert len(ids) == 0
    assert offsets.tolist() == [0]


def test_a_batch_equals_single_texts_for_any_number_of_threads(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices(TEXT, k=rng.choice([0, 1, 50, 5000]))) for _ in range(400)]
    expected = [tokenizer.encode(text) for text in texts]
    for num_threads in (1, 2, 7, None):
        ids, offsets = tokenizer.encode_batch(texts, num_threads)
        assert (ids.dtype, offsets.dtype) == (np.uint32, np.int64)
        assert [ids[a:b].tolist() for a, b in pairwise(offsets)] == expected


@pytest.mark.parametrize("num_threads", [1, 2])
def test_texts_of_several_blocks_are_one_batch(tokenizer: Tokenizer, num_threads: int) -> None:
    texts = [f"{i} é " + TEXT * (400_000 // len(TEXT)) for i in range(16)] + ["x", ""]
    expected = [tokenizer.encode(text) for text in texts]
    ids, offsets = tokenizer.encode_batch(texts, num_threads)
    assert [ids[a:b].tolist() for a, b in pairwise(offsets)] == expected
    assert tokenizer.encode_lists(texts, num_threads) == expected
    assert tokenizer.count_batch(texts, num_threads).tolist() == [len(row) for row in expected]
    for bad, error in (("\ud800", ValueError), (5, TypeError)):
        with pytest.raises(error):
            tokenizer.encode_batch([*texts, bad], num_threads)  # type: ignore[list-item]


def test_a_text_of_a_later_block_is_named_by_its_place_in_the_batch() -> None:
    characters = Tokenizer.from_characters("a")
    for call in (characters.encode_batch, characters.encode_lists, characters.count_batch):
        with pytest.raises(ValueError, match='text 5: character "b"'):
            call(["a" * 1_000_000] * 5 + ["b"], 1)


def test_no_threads_are_refused_for_no_texts_too(tokenizer: Tokenizer) -> None:
    for call in (tokenizer.encode_batch, tokenizer.encode_lists, tokenizer.count_batch):
        for texts in ([], ["a"]):
            with pytest.raises(ValueError, match="num_threads must be at least 1"):
                call(texts, 0)


@pytest.mark.parametrize(
    "kind", ["one letter", "letters", "spaces", "line ends", "dashes", "apostrophes", "é"]
)
def test_a_megabyte_of_anything_takes_linear_time(tokenizer: Tokenizer, kind: str) -> None:
    rng = random.Random(0)
    text = {
        "one letter": "a" * 1_000_000,
        "letters": "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000)),
        "spaces": " " * 1_000_000,
        "line ends": " \n" * 500_000,
        "dashes": "-" * 1_000_000,
        "apostrophes": "'" * 1_000_000,
        "é": "é" * 500_000,
    }[kind]
    start = time.process_time()
    ids = tokenizer.encode(text)
    # About 0.3 s here; a quadratic step would take minutes.
    assert time.process_time() - start < 10
    assert tokenizer.decode(ids) == text


def test_specials_have_the_last_ids(tokenizer: Tokenizer) -> None:
    first = tokenizer.vocab_size - len(DEFAULT_SPECIALS)
    assert tokenizer.special_tokens == {name: first + i for i, name in enumerate(DEFAULT_SPECIALS)}
    assert tokenizer.eot_id == first


def test_text_is_never_special_unless_allowed(tokenizer: Tokenizer) -> None:
    specials = tokenizer.special_tokens
    text = "a<|end|>b<|endoftext|>"
    assert not set(tokenizer.encode(text)) & set(specials.values())
    assert tokenizer.decode(tokenizer.encode(text)) == text
    allowed = tokenizer.encode(text, allowed_special={"<|end|>"})
    assert [i for i in allowed if i in specials.values()] == [specials["<|end|>"]]
    both = tokenizer.encode(text, allowed_special=specials)
    assert both == [
        *tokenizer.encode("a"),
        specials["<|end|>"],
        *tokenizer.encode("b"),
        specials["<|endoftext|>"],
    ]
    assert tokenizer.encode_batch([text], allowed_special=specials)[0].tolist() == both
    assert tokenizer.decode(both, skip_special=True) == "ab"


def test_an_unknown_special_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"no special token \"<\|x\|>\".*it has <\|endoftext\|>"):
        tokenizer.encode("a", allowed_special={"<|x|>"})


def test_a_lone_surrogate_is_named_by_its_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="lone surrogate at character 2"):
        tokenizer.encode("ab\ud800c")
    with pytest.raises(ValueError, match="lone surrogate at character 0"):
        tokenizer.encode_batch(["fine", "\udfff"])


@pytest.mark.parametrize("bad", [-1, 340, 2**31, 2**32, 2**70])
def test_an_id_outside_the_vocabulary_is_named(tokenizer: Tokenizer, bad: int) -> None:
    with pytest.raises(ValueError, match=f"no token {bad}"):
        tokenizer.decode([1, bad])
    with pytest.raises(ValueError, match=f"no token {bad}"):
        tokenizer.token_bytes(bad)
    with pytest.raises(ValueError, match=f"no token {bad}"):
        StreamDecoder(tokenizer).push(bad)


def test_ids_may_come_as_any_integer_array(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for kind in (np.uint32, np.int64, np.int32, np.uint16):
        assert tokenizer.decode(np.array(ids, dtype=kind)) == TEXT
    assert tokenizer.decode(np.array(ids, dtype=np.uint32)[::-1][::-1]) == TEXT
    with pytest.raises(TypeError):
        tokenizer.decode(np.array(ids, dtype=np.float32))  # type: ignore[arg-type]


def test_bytes_and_ids_are_inverse(tokenizer: Tokenizer) -> None:
    for token in range(tokenizer.vocab_size):
        assert tokenizer.token_to_id(tokenizer.token_bytes(token)) == token
    assert tokenizer.token_to_id("no such token") is None


@given(st.lists(st.integers(0, 339)))
def test_streamed_pieces_join_to_the_decoded_whole(ids: list[int]) -> None:
    tokenizer = Tokenizer.train([TEXT * 3, "the cat and the hat " * 5], vocab_size=340)
    ids = [i for i in ids if i < tokenizer.vocab_size]
    stream = StreamDecoder(tokenizer)
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


def test_a_stream_waits_for_whole_characters(tokenizer: Tokenizer) -> None:
    byte_ids = [tokenizer.token_to_id(bytes([byte])) for byte in "é🙂".encode()]
    stream = StreamDecoder(tokenizer)
    assert [stream.push(i) for i in byte_ids if i is not None] == ["", "é", "", "", "", "🙂"]
    assert stream.flush() == ""
    assert byte_ids[0] is not None
    assert stream.push(byte_ids[0]) == ""
    assert stream.flush() == "\N{REPLACEMENT CHARACTER}"


def test_a_stream_can_skip_specials(tokenizer: Tokenizer) -> None:
    stream = StreamDecoder(tokenizer, skip_special=True)
    assert stream.push(tokenizer.eot_id) == ""
    assert StreamDecoder(tokenizer).push(tokenizer.eot_id) == "<|endoftext|>"


def test_characters_are_tokens_in_code_point_order() -> None:
    tokenizer = Tokenizer.from_characters("hello, wörld", special_tokens=())
    assert [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)] == sorted(set("hello, wörld"))
    assert tokenizer.decode(tokenizer.encode("wörld")) == "wörld"
    with pytest.raises(ValueError, match=r'"é" \(U\+00E9\) is not in the character vocabulary'):
        tokenizer.encode("hé")
    with pytest.raises(ValueError, match="text 1"):
        tokenizer.encode_batch(["hello", "xyz"])


def test_a_tokenizer_without_the_end_of_text_says_so() -> None:
    with pytest.raises(ValueError, match=r"<\|endoftext\|>.*it has none"):
        _ = Tokenizer.from_characters("ab", special_tokens=()).eot_id


def test_more_specials_come_after_the_last_id(tokenizer: Tokenizer) -> None:
    more = tokenizer.with_special_tokens(["<|tool|>"])
    assert more.special_tokens["<|tool|>"] == tokenizer.vocab_size
    assert more.encode(TEXT) == tokenizer.encode(TEXT)
    assert more != tokenizer
    for names, reason in [([""], "empty"), (["<|end|>"], "both"), (["x", "x"], "twice"), (["a"], "both")]:
        with pytest.raises(ValueError, match=reason):
            tokenizer.with_special_tokens(names)


def test_copies_are_equal(tokenizer: Tokenizer) -> None:
    for other in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert other == tokenizer
        assert hash(other) == hash(tokenizer)


def test_lists_hold_the_same_ids_as_arrays() -> None:
    tokenizer = Tokenizer.train(["low lower lowest été " * 9], vocab_size=280)
    texts = ["lowest", "", "été low", "x" * 1000]
    ids, offsets = tokenizer.encode_batch(texts)
    rows = [ids[a:b].tolist() for a, b in pairwise(offsets)]
    assert tokenizer.encode_lists(texts) == rows == [tokenizer.encode(text) for text in texts]
    assert all(type(token) is int for row in tokenizer.encode_lists(texts) for token in row)
