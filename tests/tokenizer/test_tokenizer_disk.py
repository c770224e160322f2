"""Saving on a disk that is full: one error that names the file, and what was there stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tempa.tokenizer import PackageTokenizer, Tokenizer


@pytest.fixture(scope="module")
def large() -> Tokenizer:
    """Its tokenizer.json takes more than the small disk has."""
    words = [f"{a}{b}{c}{d} " for a in "abcd" for b in "efgh" for c in "ijkl" for d in "mnop"]
    base = Tokenizer.train(words * 3, vocab_size=600, special_tokens=())
    return base.with_plain_tokens([f"<{i}>" for i in range(9000)])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_keeps_the_earlier_tokenizer(small_disk: Path, large: Tokenizer) -> None:
    small = Tokenizer.train(["a b"], vocab_size=300)
    small.save(small_disk)
    before = files(small_disk)
    with pytest.raises(OSError, match="no space left on device") as caught:
        large.save(small_disk)
    assert caught.value.filename == str(small_disk / "tokenizer.json")
    assert files(small_disk) == before
    assert Tokenizer.load(small_disk) == small


def test_of_two_files_none_is_exchanged_alone(small_disk: Path) -> None:
    small = Tokenizer.train(["the cat sat"] * 9, vocab_size=262, special_tokens=())
    merges, ids = small_disk / "merges.txt", small_disk / "vocab.json"
    small.save_gpt2(merges, ids)
    before = files(small_disk)
    # Room for the merges of the other, which are few, but not for its ids.
    room = len(before["vocab.json"]) // 2
    filler = small_disk / "filler"
    filler.write_bytes(bytes((1 << 20) - room - 3 * 4096))
    other = Tokenizer.train(["the dog ran"] * 9, vocab_size=262, special_tokens=())
    with pytest.raises(OSError, match="no space left on device") as caught:
        other.save_gpt2(merges, ids)
    assert caught.value.filename in (str(merges), str(ids))
    filler.unlink()
    assert files(small_disk) == before
    assert Tokenizer.from_gpt2(merges, ids).encode("the cat") == small.encode("the cat")


def test_rank_files_and_those_of_the_package_are_whole_or_not_there(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(1 << 20))
    ranks = Tokenizer.train(["the cat sat"] * 9, vocab_size=262, special_tokens=())
    vocab = {"[UNK]": 0} | {f"word{i}": i + 1 for i in range(1000)}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocab}
    model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    package = PackageTokenizer(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    for save, name in ((ranks.save_tiktoken, "ranks.tiktoken"), (package.save, "tokenizer.json")):
        with pytest.raises(OSError, match="no space left on device") as caught:
            save(small_disk / name)
        assert caught.value.filename == str(small_disk / name)
        assert [path.name for path in small_disk.iterdir()] == ["filler"]
