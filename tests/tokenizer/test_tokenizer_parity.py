"""Ids equal those of `tokenizers` and `tiktoken` on the same vocabulary."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from tempa.tokenizer import Tokenizer

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# Anchors A7: what passes demos and fails on corpora.
PROBES = [
    "",
    " ",
    "\n",
    "a",
    " a  b   c ",
    "don't DON'T I'll we'VE 'tis ''s it'ſ \u212a's",
    'line\r\nline\r\n\r\n  indented\n\n\n\ttabs\t\t"It',
    "\n   \n(",
    "   \n\n   \n  x",
    "trailing   ",
    "nel\u0085vt\u000bls\u2028ps\u2029nbsp\u00a0zwsp\u200bend",
    "²³Ⅷ ٣٤٥ 123456789 1½ 3.14159",
    "中文字符和English混排，全角。　全角空格",
    "日本語のテキスト、カタカナ。 한국어 텍스트",
    "العربية עברית हिन्दी ไทย",
    "e\u0301 n\u0303 a\u0300\u0301",
    "🙂🙂 👩‍👩‍👧‍👦 🇫🇷 ❤️",
    "<|endoftext|> <|end|>",
    "automatically autom atically http://x.y/z?q=1&r=2#f",
    "def f(x):\n    return x**2  # comment\n\n\nclass A: pass",
    "a" * 15 + " " + "b" * 16 + " " + "c" * 64 + " " + "d" * 65,
    "=" * 100 + "\n" + "-" * 33 + "\r\n" + " " * 129 + "x",
    "\ufeffbom \ufffd \U0010ffff \x00\x01\x7f",
    "x" * 65_535 + " " + "y" * 65_536,
]

# Text dense in what patterns treat specially, beside all of Unicode.
TRICKY = st.text(
    st.one_of(
        st.sampled_from(" \t\n\r\u0085\u00a0\u3000''sStTdmlLvVrReEſK12²Ⅷab éß中文字🙂\u200d\u0301.,-_(<|>)"),
        st.characters(codec="utf-8"),
    )
)


@pytest.fixture(scope="module")
def corpus(shared_data: Path) -> list[str]:
    plays = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8").split("\n\n")
    sums = [
        json.loads(line)["answer"]
        for line in (shared_data / "gsm8k-test.jsonl").read_text("utf-8").splitlines()
    ]
    names = [unicodedata.name(chr(i), "") + " " + chr(i) * 3 for i in range(0x20, 0xD800, 7)]
    return plays + sums + names + PROBES


@pytest.fixture(scope="module")
def cl100k(gpt2: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """GPT-2's merges behind the cl100k pattern."""
    folder = tmp_path_factory.mktemp("cl100k")
    gpt2.save(folder)
    path = folder / "tokenizer.json"
    file = json.loads(path.read_text(encoding="utf-8"))
    split = {"type": "Split", "pattern": {"Regex": CL100K}, "behavior": "Isolated", "invert": False}
    file["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [split, file["pre_tokenizer"] | {"use_regex": False}],
    }
    path.write_text(json.dumps(file), encoding="utf-8")
    tokenizer = Tokenizer.load(path)
    assert tokenizer.pattern == "cl100k"
    return tokenizer


def tiktoken_like(tokenizer: Tokenizer, pattern: str) -> tiktoken.Encoding:
    """The same tokens for tiktoken, whose ranks are ids, with any pattern."""
    specials = tokenizer.special_tokens
    ids = set(range(tokenizer.vocab_size)) - set(specials.values())
    ranks = {tokenizer.token_bytes(token): token for token in ids}
    return tiktoken.Encoding("same", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)


def hf_like(tokenizer: Tokenizer, folder: Path) -> tokenizers.Tokenizer:
    tokenizer.save(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_gpt2_ids_equal_both_packages(
    gpt2: Tokenizer, hf_gpt2: tokenizers.Tokenizer, corpus: list[str]
) -> None:
    tik = tiktoken_like(gpt2, GPT2)
    for text in corpus:
        ids = gpt2.encode(text)
        assert ids == hf_gpt2.encode(text).ids, text[:80]
        assert ids == tik.encode_ordinary(text), text[:80]
        assert gpt2.decode(ids) == text


def test_cl100k_ids_equal_both_packages(cl100k: Tokenizer, corpus: list[str], tmp_path: Path) -> None:
    hf, tik = hf_like(cl100k, tmp_path), tiktoken_like(cl100k, CL100K)
    for text in corpus:
        text = text.replace("<|endoftext|>", "<|end|>")  # `tokenizers` finds specials in any text
        ids = cl100k.encode(text)
        assert ids == hf.encode(text).ids, text[:80]
        assert ids == tik.encode_ordinary(text), text[:80]


def test_gpt2_ids_equal_tokenizers_on_any_text(gpt2: Tokenizer, hf_gpt2: tokenizers.Tokenizer) -> None:
    @given(TRICKY)
    def check(text: str) -> None:
        assert gpt2.encode(text) == hf_gpt2.encode(text).ids

    check()


def test_ids_equal_tiktoken_on_any_text(gpt2: Tokenizer, cl100k: Tokenizer) -> None:
    pairs = [(gpt2, tiktoken_like(gpt2, GPT2)), (cl100k, tiktoken_like(cl100k, CL100K))]

    @given(TRICKY)
    def check(text: str) -> None:
        for ours, tik in pairs:
            assert ours.encode(text) == tik.encode_ordinary(text)

    check()


def test_specials_equal_tiktoken_when_allowed(gpt2: Tokenizer) -> None:
    tik = tiktoken_like(gpt2, GPT2)
    text = "one<|endoftext|><|endoftext|> two"
    assert gpt2.encode(text, allowed_special=gpt2.special_tokens) == tik.encode(text, allowed_special="all")


def test_decoding_equals_tokenizers_for_any_ids(gpt2: Tokenizer, hf_gpt2: tokenizers.Tokenizer) -> None:
    @given(st.lists(st.integers(0, gpt2.vocab_size - 1)))
    def check(ids: list[int]) -> None:
        assert gpt2.decode(ids) == hf_gpt2.decode(ids, skip_special_tokens=False)

    check()
