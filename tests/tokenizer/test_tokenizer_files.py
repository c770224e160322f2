"""Vocabulary files: what we save `tokenizers` reads, and what we cannot represent is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from tempa.tokenizer import Tokenizer

TEXT = "The cat sat on the mat; the dog didn't.\n\n  Zoë's 42 naïve 中文 🙂"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT * 4], vocab_size=300)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "qwen2"])
def test_saved_files_load_here_and_in_tokenizers(pattern: Any, tmp_path: Path) -> None:
    ours = Tokenizer.train([TEXT * 4], vocab_size=300, pattern=pattern)
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path) == ours
    assert Tokenizer.load(tmp_path / "tokenizer.json").sha256 == ours.sha256
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == ours.vocab_size
    assert {name: theirs.token_to_id(name) for name in ours.special_tokens} == ours.special_tokens
    text = TEXT + "<|endoftext|>" + TEXT
    ids = ours.encode(text, allowed_special=ours.special_tokens)
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == text


def test_character_tokenizers_load_in_tokenizers(tmp_path: Path) -> None:
    ours = Tokenizer.from_characters(TEXT)
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path) == ours
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = ours.encode(TEXT)
    assert theirs.encode(TEXT).ids == ids
    assert theirs.decode(ids) == TEXT


def test_files_that_tokenizers_saved_give_its_ids(tmp_path: Path) -> None:
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator(
        [TEXT * 4], vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.load(tmp_path)
    assert ours.encode(TEXT) == theirs.encode(TEXT).ids
    assert ours.special_tokens == {"<s>": 0, "</s>": 1}


def test_gpt2_is_the_same_from_both_kinds_of_file(gpt2: Tokenizer, tmp_path: Path) -> None:
    gpt2.save(tmp_path)
    assert Tokenizer.load(tmp_path) == gpt2
    assert gpt2.vocab_size == 50257
    assert gpt2.eot_id == 50256


def test_a_failed_save_keeps_the_earlier_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(OSError, match="file"):
        tokenizer.save(tmp_path / "file" / "below")
    tokenizer.save(tmp_path / "one.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "one.json"]


def test_ignored_merges_make_whole_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A7.2: a token that no merge makes counts only when merges are ignored for whole pieces."""
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    for ignore in (False, True):
        file = json.loads(path.read_text())
        file["model"]["vocab"]["ĠJapÃ³n"] = 300  # the bytes of " Japón" in the byte-level alphabet
        file["model"]["ignore_merges"] = ignore
        path.write_text(json.dumps(file))
        ours, theirs = Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))
        text = "Japón Japón"
        assert ours.encode(text) == theirs.encode(text).ids
        assert (300 in ours.encode(text)) == ignore


def edit(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(file: dict[str, Any]) -> None:
        for key in keys[:-1]:
            file = file[key]
        file[keys[-1]] = value

    return apply


def added(**settings: Any) -> Callable[[dict[str, Any]], None]:
    def apply(file: dict[str, Any]) -> None:
        file["added_tokens"][0] |= settings

    return apply


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def byte_level_after(*members: dict[str, Any], prefix: bool = False) -> dict[str, Any]:
    last = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [*members, last]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (edit("normalizer", value={"type": "BertNormalizer"}), "normalizer BertNormalizer is not supported"),
        (
            edit("normalizer", value={"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}),
            "only strings and runs of a character are replaced",
        ),
        (edit("truncation", value={"max_length": 5}), "truncation is not supported"),
        (edit("post_processor", value={"type": "TemplateProcessing"}), "TemplateProcessing: no list"),
        (edit("post_processor", value={"type": "Other"}), "post-processor Other is not supported"),
        (edit("pre_tokenizer", value={"type": "Whitespace"}), "has no ByteLevel"),
        (
            edit("pre_tokenizer", value=byte_level_after({"type": "BertPreTokenizer"})),
            "BertPreTokenizer",
        ),
        (edit("pre_tokenizer", value=byte_level_after(split(r"\h+"))), r"\\h is not supported"),
        (edit("pre_tokenizer", value=byte_level_after(split("(a"))), "not closed"),
        (edit("pre_tokenizer", value=byte_level_after(split("a"), prefix=True)), "add_prefix_space after"),
        (edit("decoder", value={"type": "WordPiece"}), "decoder must be ByteLevel, found WordPiece"),
        (edit("model", "type", value="Unigram"), "only BPE models are supported, found Unigram"),
        (edit("model", "dropout", value=0.1), "dropout"),
        (edit("model", "end_of_word_suffix", value="</w>"), "end_of_word_suffix"),
        (edit("model", "merges", value=["a t", "h e", "h e"]), "merge 2 repeats merge 1"),
        (edit("model", "merges", value=["th"]), "is not two tokens"),
        (edit("model", "merges", value=["q q"]), 'needs token "qq"'),
        (edit("model", "vocab", "qqqqq", value=1 << 30), "ids beyond"),
        (edit("model", "vocab", "qqqqq", value=0), "both have id 0"),
        (added(id=7), "has id 7"),
        (added(id=220, content="Ġ", special=False), "also a token of other bytes"),
    ],
)
def test_what_cannot_be_represented_is_refused(
    change: Callable[[dict[str, Any]], None], reason: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    with pytest.raises(ValueError, match=reason) as raised:
        Tokenizer.load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not json", '{"model": {"type": "BPE"}}', "\x00" * 10])
def test_other_files_are_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer\.json.*not a tokenizer\.json"):
        Tokenizer.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_wrong_gpt2_files_are_refused_by_name(gpt2_files: tuple[Path, Path], tmp_path: Path) -> None:
    bpe, encoder = gpt2_files
    with pytest.raises(ValueError, match=r"gpt2-vocab\.bpe: not a map from token to id"):
        Tokenizer.from_gpt2(bpe, bpe)
    with pytest.raises(FileNotFoundError, match="none"):
        Tokenizer.from_gpt2(tmp_path / "none", encoder)
    short = tmp_path / "vocab.bpe"
    short.write_text("#version: 0.2\nĠ t\nq\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.bpe.*is not two tokens"):
        Tokenizer.from_gpt2(short, encoder)
