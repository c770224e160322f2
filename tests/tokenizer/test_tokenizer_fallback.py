"""Sentencepiece BPE with byte fallback, shaped as by Llama 2, Mistral and Gemma: the ids of `tokenizers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, trainers

from tempa.tokenizer import StreamDecoder, StreamEncoder, Tokenizer

CORPUS = [
    "The cat sat on the mat. The  dog   didn't: naïve café",
    "int main() {\n    return 0;\n}",
    "猫が好き 猫",
] * 9
TEXTS = [
    "",
    " ",
    "   ",
    "The cat",
    " The  cats sat\n\n on\tthe",
    "naïve 🙂 Ж 猫が好き",
    "▁The▁cat ▁",
    "The▁▁▁cat   cat",
    "<s>The cat</s> dog<s>",
    "<0x0A> <unk>",
    "a" * 3000,
]
TRICKY = st.lists(
    st.one_of(
        st.sampled_from(["The", " cat", "  ", "▁", "<s>", "</s>", "\n", "猫", "é", "🙂", "dog", " "]),
        st.text(max_size=3),
    )
).map("".join)


def llama2(file: dict[str, Any]) -> None:
    prepend = {"type": "Prepend", "prepend": "▁"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    file["normalizer"] = {"type": "Sequence", "normalizers": [prepend, replace]}
    file["decoder"]["decoders"].append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    file["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }


def mistral(file: dict[str, Any]) -> None:
    """As newer versions of transformers write it: the first space only, no cutting."""
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    file["pre_tokenizer"] = meta
    file["decoder"]["decoders"].append({"type": "Strip", "content": " ", "start": 1, "stop": 0})


def metaspace(file: dict[str, Any]) -> None:
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    file["pre_tokenizer"] = meta


def gemma(file: dict[str, Any]) -> None:
    file["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    file["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    number = max(file["model"]["vocab"].values()) + 1
    for i, content in enumerate(["\n\n", "▁▁▁"]):
        file["added_tokens"].append(
            {"id": number + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": False}
        )


def words(file: dict[str, Any]) -> None:
    """A token that spans words: text cannot be cut at spaces."""
    llama2(file)
    vocab = file["model"]["vocab"]
    vocab["s▁on"] = max(vocab.values()) + 1
    file["model"]["merges"].append(["s", "▁on"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    byte_names = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *byte_names], show_progress=False
    )
    words = [word for line in CORPUS for word in line.replace(" ", " ▁").split(" ")]
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    path = tmp_path_factory.mktemp("fallback") / "tokenizer.json"
    tokenizer.save(str(path))
    file = json.loads(path.read_text(encoding="utf-8"))
    file["added_tokens"] = file["added_tokens"][:3]
    for token in file["added_tokens"]:
        token["normalized"] = False
    file["normalizer"] = None
    path.write_text(json.dumps(file), encoding="utf-8")
    return path


@pytest.fixture(
    scope="module", params=[llama2, mistral, metaspace, gemma, words], ids=lambda shape: shape.__name__
)
def both(
    request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    file = json.loads(trained.read_text(encoding="utf-8"))
    request.param(file)
    path = tmp_path_factory.mktemp("shape") / "tokenizer.json"
    path.write_text(json.dumps(file), encoding="utf-8")
    return Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))


def test_ids_equal_tokenizers(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, hf = both
    for text in TEXTS:
        assert ours.encode(text, allowed_special="all", add_special_tokens=True) == hf.encode(text).ids, text

    @given(TRICKY)
    def check(text: str) -> None:
        expected = hf.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allowed_special="all") == expected

    check()


def test_decoding_equals_tokenizers(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, hf = both
    for text in TEXTS:
        ids = ours.encode(text, allowed_special="all", add_special_tokens=True)
        for skip in (False, True):
            assert ours.decode(ids, skip_special=skip) == hf.decode(ids, skip_special_tokens=skip), text
        stream = StreamDecoder(ours)
        assert "".join(map(stream.push, ids)) + stream.flush() == ours.decode(ids)


def test_saving_keeps_everything(both: tuple[Tokenizer, tokenizers.Tokenizer], tmp_path: Path) -> None:
    ours, hf = both
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path) == ours
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        assert again.encode(text).ids == hf.encode(text).ids


def test_invalid_bytes_become_their_tokens(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, _ = both
    ids = ours.encode(b"cat\xff\xfe cat", errors="bytes")
    assert ours.decode_bytes(ids).strip() == b"cat\xff\xfe cat"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda file: file["model"]["vocab"].pop("<0x41>"), "<0x41> is not in the vocabulary"),
        (
            lambda file: (file["model"]["merges"].clear(), file["model"]["vocab"].pop("▁")),
            "the sign of a space, but ▁ is not in the vocabulary",
        ),
        (lambda file: file.update(normalizer=None), "spaces must become"),
        (lambda file: file.update(decoder=None), "needs the decoder ByteFallback"),
        (lambda file: file.update(decoder={"type": "WordPiece"}), "decoder .*WordPiece.* is not supported"),
    ],
)
def test_what_cannot_be_represented_is_refused(
    change: Any, reason: str, trained: Path, tmp_path: Path
) -> None:
    file = json.loads(trained.read_text(encoding="utf-8"))
    llama2(file)
    change(file)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file), encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        Tokenizer.load(path)


def test_any_cutting_gives_the_ids_of_the_whole(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, _ = both

    @given(st.lists(TRICKY))
    def check(pieces: list[str]) -> None:
        stream = StreamEncoder(ours, allowed_special="all")
        ids = [i for piece in pieces for i in stream.push(piece)] + stream.finish()
        assert ids == ours.encode("".join(pieces), allowed_special="all")

    check()
