"""What a call can ask for: specials, spans, bytes, places, limits, counts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from tempa.tokenizer import Tokenizer

TEXT = "The café's 12345 naïve — 東京へ。\r\n\tif x: return 'ß' 🙂👩\u200d👧"
SPECIALS = ["<|endoftext|>", "<|end|>"]
LOSSY = "\N{REPLACEMENT CHARACTER}"

# Text with specials in it, whole and broken.
WITH_SPECIALS = st.lists(
    st.one_of(st.sampled_from([*SPECIALS, "<|", "end", "|>", " "]), st.text(max_size=5))
).map("".join)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT * 3, "the cat and the hat " * 5], vocab_size=330, special_tokens=SPECIALS)


@pytest.fixture(scope="module")
def tik(tokenizer: Tokenizer) -> tiktoken.Encoding:
    specials = tokenizer.special_tokens
    ids = set(range(tokenizer.vocab_size)) - set(specials.values())
    return tiktoken.Encoding(
        "same",
        pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        mergeable_ranks={tokenizer.token_bytes(token): token for token in ids},
        special_tokens=specials,
    )


def test_allowed_and_disallowed_specials_are_those_of_tiktoken(
    tokenizer: Tokenizer, tik: tiktoken.Encoding
) -> None:
    """A7.5: tiktoken raises on specials in text; here that is a choice."""
    sets = st.one_of(st.just("all"), st.sets(st.sampled_from(SPECIALS)))

    @given(WITH_SPECIALS, sets, sets)
    def check(text: str, allowed: str | set[str], disallowed: str | set[str]) -> None:
        try:
            expected = tik.encode(text, allowed_special=allowed, disallowed_special=disallowed)  # type: ignore[arg-type]
        except ValueError:
            with pytest.raises(ValueError, match="the special token"):
                tokenizer.encode(text, allowed_special=allowed, disallowed_special=disallowed)  # type: ignore[arg-type]
        else:
            ids = tokenizer.encode(text, allowed_special=allowed, disallowed_special=disallowed)  # type: ignore[arg-type]
            assert ids == expected

    check()


def test_a_disallowed_special_is_named_with_its_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r'special token "<\|end\|>" is in the text at character 1'):
        tokenizer.encode("é<|end|>", disallowed_special="all")
    with pytest.raises(ValueError, match=r"text 1: .*at byte 2"):
        tokenizer.encode_batch(["", b"\xc3\xa9<|end|>\xff"], disallowed_special="all", errors="bytes")
    assert tokenizer.encode("<|end|>", allowed_special="all", disallowed_special="all") == [
        tokenizer.special_tokens["<|end|>"]
    ]


def test_specials_are_a_collection_or_all(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="a collection of names or"):
        tokenizer.encode("x", allowed_special="<|end|>")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no special token"):
        tokenizer.encode("x", disallowed_special={"<|x|>"})


@given(st.lists(st.tuples(WITH_SPECIALS, st.booleans())))
def test_spans_equal_their_parts(spans: list[tuple[str, bool]]) -> None:
    tokenizer = Tokenizer.train([TEXT], vocab_size=300, special_tokens=SPECIALS)
    parts = [tokenizer.encode(text, allowed_special="all" if trusted else ()) for text, trusted in spans]
    assert tokenizer.encode_spans(spans) == [i for part in parts for i in part]
    untrusted = tokenizer.encode_spans([(text, False) for text, _ in spans])
    assert not set(untrusted) & set(tokenizer.special_tokens.values())


def test_plain_tokens_are_found_in_any_text_unless_switched_off(tokenizer: Tokenizer) -> None:
    more = tokenizer.with_plain_tokens(["<think>", "cat"])
    think, cat = tokenizer.vocab_size, tokenizer.vocab_size + 1
    assert more.plain_tokens == {"<think>": think, "cat": cat}
    assert more.special_tokens == tokenizer.special_tokens
    expected = [*tokenizer.encode("a"), think, cat, *tokenizer.encode("s")]
    assert more.encode("a<think>cats") == expected
    assert more.encode("a<think>cats", added_tokens=False) == tokenizer.encode("a<think>cats")
    assert more.decode([think, cat], skip_special=True) == "<think>cat"
    with pytest.raises(ValueError, match="both"):
        more.with_plain_tokens(["cat"])
    for add in (more.with_plain_tokens, more.with_special_tokens):
        with pytest.raises(ValueError, match="is how files write token"):
            add(["Ġ"])
    with pytest.raises(ValueError, match="allowed_special must be empty"):
        more.encode("x", added_tokens=False, allowed_special="all")


def test_added_tokens_keep_their_kind_in_files(
    tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("plain")
    more = tokenizer.with_plain_tokens(["<think>"]).with_special_tokens(["<tool>"])
    more.save(folder)
    assert Tokenizer.load(folder) == more
    hf = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "<think>x<tool></think>"
    assert more.encode(text, allowed_special="all") == hf.encode(text).ids
    assert hf.decode(hf.encode(text).ids, skip_special_tokens=True) == "<think>x</think>"


SURROGATES = st.text(st.one_of(st.characters(codec=None), st.characters(categories=["Cs"])))


@given(SURROGATES)
def test_lone_surrogates_have_a_policy(text: str) -> None:
    """A7.6: tiktoken replaces what is no text, others raise; here the caller says which."""
    tokenizer = Tokenizer.train([TEXT], vocab_size=280, special_tokens=SPECIALS)
    replaced = tokenizer.encode(text, errors="replace")
    assert tokenizer.decode(replaced) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    raw = tokenizer.encode(text, errors="bytes")
    assert tokenizer.decode_bytes(raw) == text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"a\xf5\x80\x80\x80b", b"\xe2\x82", b"ok \xf0\x9f\x99", b"\xc3\xa9\xc3", b"\xed\xa0\x80"],
)
def test_bytes_that_are_not_utf8_have_a_policy(tokenizer: Tokenizer, data: bytes) -> None:
    """A7.6: truncated tails and leads of 0xF5 to 0xFF."""
    with pytest.raises(ValueError, match="not UTF-8 at byte"):
        tokenizer.encode(data)
    assert tokenizer.encode(data, errors="replace") == tokenizer.encode(data.decode(errors="replace"))
    assert tokenizer.decode_bytes(tokenizer.encode(data, errors="bytes")) == data


def test_invalid_bytes_are_pieces_of_their_own(tokenizer: Tokenizer) -> None:
    @given(
        st.lists(
            st.one_of(st.text(min_size=1).map(str.encode), st.sampled_from([b"\xff", b"\xe2\x82", b"\xf8"]))
        )
    )
    def check(parts: list[bytes]) -> None:
        data = b"".join(parts)
        ids = tokenizer.encode(data, errors="bytes")
        assert tokenizer.decode_bytes(ids) == data
        assert tokenizer.encode_batch([data], errors="bytes")[0].tolist() == ids

    check()
    assert tokenizer.encode(b"the\xff\xff cat", errors="bytes") == [
        *tokenizer.encode("the"),
        *(tokenizer.token_to_id(b"\xff"),) * 2,
        *tokenizer.encode(" cat"),
    ]


def test_utf8_bytes_are_text(tokenizer: Tokenizer) -> None:
    for errors in ("strict", "replace", "bytes"):
        assert tokenizer.encode(TEXT.encode(), errors=errors) == tokenizer.encode(TEXT)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="errors must be"):
        tokenizer.encode("x", errors="ignore")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        tokenizer.encode(3)  # type: ignore[arg-type]


def test_places_in_characters_are_those_of_tokenizers(gpt2: Tokenizer, hf_gpt2: tokenizers.Tokenizer) -> None:
    @given(st.text(max_size=30))
    def check(text: str) -> None:
        placed = gpt2.encode_with_offsets(text)
        theirs = hf_gpt2.encode(text)
        assert placed.ids.tolist() == theirs.ids
        assert list(zip(placed.starts.tolist(), placed.ends.tolist(), strict=True)) == theirs.offsets

    check()


@given(WITH_SPECIALS)
def test_places_in_bytes_tile_the_text(text: str) -> None:
    tokenizer = Tokenizer.train([TEXT], vocab_size=300, special_tokens=SPECIALS)
    placed = tokenizer.encode_with_offsets(text, unit="byte", allowed_special="all")
    assert placed.ids.tolist() == tokenizer.encode(text, allowed_special="all")
    assert placed.text == text
    edges = [0, *placed.ends.tolist()]
    assert placed.starts.tolist() == edges[:-1]
    data = text.encode()
    assert edges[-1] == len(data)
    for token, (start, end) in zip(placed.ids.tolist(), pairwise(edges), strict=True):
        assert data[start:end] == tokenizer.token_bytes(token)


@given(st.lists(st.integers(0, 299)))
def test_decoded_tokens_have_their_places(ids: list[int]) -> None:
    tokenizer = Tokenizer.train([TEXT * 3], vocab_size=300, special_tokens=SPECIALS)
    ids = [i for i in ids if i < tokenizer.vocab_size]
    placed = tokenizer.decode_with_offsets(ids, unit="byte", skip_special=True)
    data = tokenizer.decode_bytes(ids, skip_special=True)
    pieces = [data[a:b] for a, b in zip(placed.starts, placed.ends, strict=True)]
    specials = tokenizer.special_tokens.values()
    assert pieces == [b"" if i in specials else tokenizer.token_bytes(i) for i in ids]
    chars = tokenizer.decode_with_offsets(ids)
    assert chars.text == tokenizer.decode(ids)
    for a, b, token in zip(chars.starts, chars.ends, ids, strict=True):
        text = tokenizer.token_bytes(token).decode(errors="ignore")
        assert text in chars.text[a:b]
    assert np.all(chars.starts[1:] <= chars.ends[:-1])


def test_a_limit_cuts_off_one_side(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for most in (0, 1, 5, len(ids), len(ids) + 1):
        assert tokenizer.encode(TEXT, max_tokens=most) == ids[:most]
        assert tokenizer.encode(TEXT, max_tokens=most, truncate="left") == ids[max(0, len(ids) - most) :]
    flat, offsets = tokenizer.encode_batch([TEXT, "", "the"], max_tokens=4)
    assert flat[: offsets[1]].tolist() == ids[:4]
    with pytest.raises(ValueError, match="max_tokens must be at least 0"):
        tokenizer.encode("x", max_tokens=-1)
    with pytest.raises(ValueError, match="truncate must be"):
        tokenizer.encode("x", truncate="middle")  # type: ignore[arg-type]


def test_counts_are_lengths(tokenizer: Tokenizer) -> None:
    texts = [TEXT, "", "<|end|>", "the cat " * 999]
    expected = [len(tokenizer.encode(text, allowed_special="all")) for text in texts]
    for num_threads in (1, 3):
        counts = tokenizer.count_batch(texts, num_threads, allowed_special="all")
        assert counts.tolist() == expected
    assert [tokenizer.count(text, allowed_special="all") for text in texts] == expected
