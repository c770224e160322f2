"""Rank files of tiktoken, GPT-2's two files, and `transformers`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from tempa.tokenizer import StreamEncoder, Tokenizer

TEXT = "The cat sat on the mat; the dog didn't.\n\n  Zoë's 42 naïve 中文 🙂 12345\n "
# tiktoken's own expressions: these are engines that read `{1,3}+` as possessive.
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
TRICKY = st.text(
    st.one_of(
        st.sampled_from(" \t\n\r\u0085\u00a0\u3000'sStTdmlLvVrReEſK12²Ⅷab éß中文字🙂\u200d\u0301.,-_(<|>)"),
        st.characters(codec="utf-8"),
    )
)


@pytest.fixture(scope="module")
def rank_file(gpt2: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks") / "gpt2.tiktoken"
    gpt2.save_tiktoken(path)
    return path


def encoding(path: Path, pattern: str, specials: dict[str, int]) -> tiktoken.Encoding:
    ranks = load_tiktoken_bpe(str(path))
    return tiktoken.Encoding("same", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)


def test_merges_come_back_from_ranks(rank_file: Path, gpt2: Tokenizer) -> None:
    ours = Tokenizer.from_tiktoken(rank_file, pattern="gpt2")
    assert (ours.vocab_size, ours.eot_id) == (gpt2.vocab_size, gpt2.eot_id)
    assert ours.num_merges == gpt2.num_merges
    assert json.loads(ours.to_json())["model"]["merges"] == json.loads(gpt2.to_json())["model"]["merges"]


@pytest.mark.parametrize("pattern", [CL100K, r"\p{N}{1,2}+|\p{L}+$|\s+|[^\s\p{N}]"])
def test_ids_equal_tiktoken_with_its_own_expression(rank_file: Path, pattern: str, tmp_path: Path) -> None:
    specials = {"<|endoftext|>": 50256, "<|far|>": 50300}
    ours = Tokenizer.from_tiktoken(rank_file, pattern=pattern, special_tokens=specials)
    theirs = encoding(rank_file, pattern, specials)
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    hf = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again == ours
    assert ours.pattern == ("cl100k_base" if pattern == CL100K else "custom")

    @given(TRICKY)
    def check(text: str) -> None:
        ids = ours.encode(text)
        assert ids == theirs.encode_ordinary(text)
        assert ids == hf.encode(text).ids
        stream = StreamEncoder(ours)
        assert [i for char in text for i in stream.push(char)] + stream.finish() == ids

    check()
    for text in ("a \n ", "a!\n\r \n", "\n\n", " ", "!\n", "12\n\n  ", "don't \u3000\n\t", "\u0301\n \n"):
        assert ours.encode(text) == theirs.encode_ordinary(text)
    text = f"{TEXT}<|far|>{TEXT}"
    assert ours.encode(text, allowed_special="all") == theirs.encode(text, allowed_special="all")
    assert ours.vocab_size == 50301
    with pytest.raises(ValueError, match="leaves this id out"):
        ours.decode([50299])


@given(st.lists(st.text("abc", min_size=2, max_size=6), unique=True), st.text("abc ", max_size=40))
def test_any_order_of_ranks_gives_the_ids_of_tiktoken(tokens: list[str], text: str) -> None:
    """Ranks that no training would give: tokens that need higher ranks, or that joins never make."""
    ranks = {bytes([i]): i for i in range(256)} | {t.encode(): 256 + i for i, t in enumerate(tokens)}
    pattern = r"[^ ]+| "
    theirs = tiktoken.Encoding("any", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ranks"
        path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
        ours = Tokenizer.from_tiktoken(path, pattern=pattern)
        ours.save_tiktoken(path)
        assert Tokenizer.from_tiktoken(path, pattern=pattern) == ours
    assert ours.encode(text) == theirs.encode_ordinary(text)


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        ("YQ== x\n", {}, "line 1: not a token in base 64 and its rank"),
        ("YQ==\n", {}, "line 1"),
        ("!!!! 1\n", {}, "line 1"),
        ("YQ== 0\nYg== 0\n", {}, "both have id 0"),
        ("YQ== 0\n", {}, "all 256 are needed"),
        ("YQ== 99999999\n", {}, "line 1"),
        ("YQ== 0\n", {"pattern": "gpt5"}, 'unknown pattern "gpt5"'),
        ("YQ== 0\n", {"pattern": "(a"}, "not closed"),
        ("YQ== 0\n", {"special_tokens": {"<s>": 0}}, "both have id 0"),
        ("YQ== 0\n", {"special_tokens": {"": 1}}, "cannot have id 1"),
    ],
)
def test_other_rank_files_are_refused(
    content: str, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "ranks"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason.replace("(", r"\(")):
        Tokenizer.from_tiktoken(path, **({"pattern": "gpt2"} | options))


def test_what_a_rank_file_cannot_say_is_refused(gpt2: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for change, reason in [("swap", "not in the order"), ("add", "never made from text here")]:
        gpt2.save(path)
        file = json.loads(path.read_text(encoding="utf-8"))
        if change == "swap":
            merges = file["model"]["merges"]
            merges[0], merges[1] = merges[1], merges[0]
        else:
            file["model"]["vocab"]["ĠJapÃ³n"] = 50257
        path.write_text(json.dumps(file), encoding="utf-8")
        with pytest.raises(ValueError, match=reason):
            Tokenizer.load(path).save_tiktoken(tmp_path / "ranks")
    with pytest.raises(ValueError, match="byte-level vocabularies only"):
        Tokenizer.from_characters("abc").save_tiktoken(tmp_path / "ranks")
    assert not (tmp_path / "ranks").exists()


def test_gpt2_files_come_back(gpt2: Tokenizer, tmp_path: Path) -> None:
    gpt2.save_gpt2(tmp_path / "merges.txt", tmp_path / "vocab.json")
    assert Tokenizer.from_gpt2(tmp_path / "merges.txt", tmp_path / "vocab.json") == gpt2
    hf = tokenizers.ByteLevelBPETokenizer.from_file(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
    )
    assert hf.encode(TEXT).ids == gpt2.encode(TEXT)


def test_what_gpt2_files_cannot_say_is_refused(gpt2: Tokenizer, tmp_path: Path) -> None:
    places = tmp_path / "merges.txt", tmp_path / "vocab.json"
    cl100k = Tokenizer.train([TEXT], vocab_size=280, pattern="cl100k", special_tokens=())
    for tokenizer, reason in [
        (gpt2.with_special_tokens(["<s>"]), "the added token"),
        (cl100k, "cannot hold the pattern"),
        (Tokenizer.from_characters("ab"), "cannot hold the pattern"),
    ]:
        with pytest.raises(ValueError, match=reason):
            tokenizer.save_gpt2(*places)
    assert not any(place.exists() for place in places)


def test_transformers_gets_the_same_ids(gpt2: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    ours = gpt2.with_special_tokens(["<|pad|>", "<|user|>"]).with_plain_tokens(["<think>"])
    theirs = ours.as_transformers(pad_token="<|pad|>")
    assert isinstance(theirs, transformers.PreTrainedTokenizerFast)
    text = f"{TEXT}<|user|><think>{TEXT}<|endoftext|>"
    ids = ours.encode(text, allowed_special="all")
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == text
    assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids, skip_special=True)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eot_id, ours.special_tokens["<|pad|>"])
    assert theirs.bos_token is None
    assert len(theirs) == ours.vocab_size
    with pytest.raises(ValueError, match="not a special token"):
        ours.as_transformers(bos_token="<think>")
    with pytest.raises(ValueError, match="no role"):
        ours.as_transformers(bos="<|user|>")


def test_cl100k_base_is_the_expression_of_tiktoken(rank_file: Path) -> None:
    by_name = Tokenizer.from_tiktoken(rank_file, pattern="cl100k_base", special_tokens={})
    assert by_name == Tokenizer.from_tiktoken(rank_file, pattern=CL100K, special_tokens={})
    assert by_name != Tokenizer.from_tiktoken(rank_file, pattern="cl100k", special_tokens={})
