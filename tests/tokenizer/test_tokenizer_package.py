"""WordPiece and Unigram through the `tokenizers` package, behind our methods."""

from __future__ import annotations

import pickle
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tempa.tokenizer import PackageTokenizer, Tokenizer, load_tokenizer

TEXT = "The cats sat on the mats. [SEP] Zoë!"
CORPUS = ["the cat sat on the mat", "cats and mats", "zoe sat"] * 5


def bert() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    return tokenizer


def t5() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["<pad>", "</s>", "<unk>", "[SEP]"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


@pytest.fixture(params=[bert, t5], ids=["bert", "t5"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PackageTokenizer, tokenizers.Tokenizer]:
    theirs = request.param()
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert isinstance(ours, PackageTokenizer)
    theirs.no_truncation()
    theirs.no_padding()
    return ours, theirs


def test_ids_are_those_of_the_package(both: tuple[PackageTokenizer, tokenizers.Tokenizer]) -> None:
    ours, theirs = both
    assert ours.encode(TEXT, allowed_special="all", add_special_tokens=True) == theirs.encode(TEXT).ids
    bare = theirs.encode(TEXT, add_special_tokens=False).ids
    assert ours.encode(TEXT, allowed_special="all") == bare
    assert ours.count(TEXT, allowed_special="all") == len(bare)
    assert ours.decode(bare) == theirs.decode(bare, skip_special_tokens=False)
    ids, offsets = ours.encode_batch([TEXT, "", "cat"], allowed_special="all")
    rows = [ids[a:b].tolist() for a, b in pairwise(offsets)]
    assert rows == [bare, [], ours.encode("cat")]
    placed = ours.encode_with_offsets(TEXT, allowed_special="all")
    assert (
        list(zip(placed.starts, placed.ends, strict=True))
        == theirs.encode(TEXT, add_special_tokens=False).offsets
    )


def test_specials_are_plain_text_by_default(both: tuple[PackageTokenizer, tokenizers.Tokenizer]) -> None:
    ours, _ = both
    special = ours.special_tokens["[SEP]"]
    assert special not in ours.encode(TEXT)
    assert special in ours.encode(TEXT, allowed_special=ours.special_tokens)
    with pytest.raises(ValueError, match="all special tokens or none"):
        ours.encode(TEXT, allowed_special={"[SEP]"})


def test_limits_leave_room_for_the_template(both: tuple[PackageTokenizer, tokenizers.Tokenizer]) -> None:
    ours, theirs = both
    around = theirs.num_special_tokens_to_add(False)
    theirs.enable_truncation(around + 3)
    assert ours.encode(TEXT, allowed_special="all", add_special_tokens=True, max_tokens=around + 3) == (
        theirs.encode(TEXT).ids
    )
    ids = ours.encode(TEXT)
    assert ours.encode(TEXT, max_tokens=2) == ids[:2]
    assert ours.encode(TEXT, max_tokens=2, truncate="left") == ids[-2:]
    assert ours.encode(TEXT, max_tokens=0, truncate="left") == []


def test_a_vocabulary_can_be_looked_at_and_saved(
    both: tuple[PackageTokenizer, tokenizers.Tokenizer], tmp_path: Path
) -> None:
    ours, theirs = both
    assert len(ours) == ours.vocab_size == theirs.get_vocab_size()
    token = ours.encode("cat")[0]
    assert ours.token_to_id(ours.token_bytes(token).decode()) == token
    with pytest.raises(ValueError, match="no token 9999"):
        ours.token_bytes(9999)
    ours.save(tmp_path / "again")
    for again in (load_tokenizer(tmp_path / "again"), pickle.loads(pickle.dumps(ours))):
        assert again.sha256 == ours.sha256
        assert again.encode(TEXT) == ours.encode(TEXT)


def test_byte_level_files_stay_ours(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train([TEXT], vocab_size=280)
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path / "tokenizer.json") == tokenizer


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer\.json"):
        load_tokenizer(path)
    path.write_text('{"model": {"type": "Unigram", "vocab": 3}}')
    with pytest.raises(ValueError, match="tokenizers cannot read this file"):
        load_tokenizer(path)
    with pytest.raises(ValueError, match=r"found Unigram: tempa\.load_tokenizer"):
        Tokenizer.load(path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="pip install tokenizers"):
        load_tokenizer(path)
