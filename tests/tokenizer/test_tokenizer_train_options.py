"""The options of training: each does what it says, and what peers do where they have it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from tempa.tokenizer import Tokenizer

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def merges(tokenizer: Tokenizer) -> list[str]:
    found: list[str] = json.loads(tokenizer._core.to_json())["model"]["merges"]
    return found


def hf_train_with(
    train: Callable[[tokenizers.Tokenizer, trainers.BpeTrainer], None], **options: int
) -> list[str]:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(tokenizer, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False, **options))
    return [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


@pytest.mark.parametrize("most", [2, 3, 6])
def test_the_longest_token_is_as_long_as_asked(docstrings: list[str], most: int) -> None:
    """`tokenizers` means one more than the longest."""
    texts = docstrings
    ours = Tokenizer.train(texts, vocab_size=1256, special_tokens=(), max_token_length=most)
    assert max(len(ours.token_bytes(token)) for token in range(len(ours))) == most
    expected = hf_train_with(
        lambda tokenizer, trainer: tokenizer.train_from_iterator(texts, trainer),
        vocab_size=1256,
        min_frequency=2,
        max_token_length=most + 1,
    )
    assert merges(ours) == expected


def test_lines_learn_what_tokenizers_learns_from_files(docstrings: list[str], tmp_path: Path) -> None:
    text = "\r\n\n  \n".join(docstrings)
    file = tmp_path / "text.txt"
    file.write_bytes(text.encode())
    expected = hf_train_with(
        lambda tokenizer, trainer: tokenizer.train([str(file)], trainer), vocab_size=1256, min_frequency=2
    )
    ours = Tokenizer.train([text], vocab_size=1256, special_tokens=(), lines=True)
    assert merges(ours) == expected
    assert ours != Tokenizer.train([text], vocab_size=1256, special_tokens=())


def test_required_tokens_are_what_their_text_becomes(docstrings: list[str]) -> None:
    texts = docstrings[:300]
    required = [" hippopotamus", "zzzz", b"\xff\xfe", " the", "Ω" * 3]
    ours = Tokenizer.train(texts, vocab_size=700, required_tokens=required)
    for token in required:
        found = ours.token_to_id(token)
        assert found is not None
        if isinstance(token, str):
            assert ours.encode(token) == [found]
    assert ours.vocab_size == 700


def test_required_tokens_come_after_what_is_learned(docstrings: list[str]) -> None:
    texts = docstrings[:300]
    ours = Tokenizer.train(texts, vocab_size=705, required_tokens=["zzzz"])
    assert merges(ours) == [*merges(Tokenizer.train(texts, vocab_size=703)), "z z", "zz zz"]


def test_required_tokens_that_are_learned_anyway_change_nothing(docstrings: list[str]) -> None:
    texts = docstrings[:300]
    assert Tokenizer.train(texts, vocab_size=700, required_tokens=[" the"]) == Tokenizer.train(
        texts, vocab_size=700
    )


def test_training_further_goes_on_where_the_base_stopped(docstrings: list[str]) -> None:
    texts = docstrings
    base = Tokenizer.train(texts, vocab_size=500, special_tokens=())
    further = Tokenizer.train(texts, vocab_size=900, special_tokens=(), base=base)
    assert further == Tokenizer.train(texts, vocab_size=900, special_tokens=())


def test_training_further_is_the_same_from_a_rank_file(docstrings: list[str], tmp_path: Path) -> None:
    """There, pieces that are tokens need no merges."""
    base = Tokenizer.train(docstrings[:200], vocab_size=500, special_tokens=())
    base.save_tiktoken(tmp_path / "base.tiktoken")
    ranks = Tokenizer.from_tiktoken(tmp_path / "base.tiktoken", pattern="gpt2", special_tokens={})
    further, expected = (
        Tokenizer.train(docstrings, vocab_size=700, special_tokens=(), base=start) for start in (ranks, base)
    )
    assert [further.token_bytes(token) for token in range(700)] == [
        expected.token_bytes(token) for token in range(700)
    ]
    assert all(further.encode(text) == expected.encode(text) for text in docstrings[:50])


def test_training_further_keeps_ids_and_merges_of_the_base(docstrings: list[str]) -> None:
    base = Tokenizer.train(docstrings, vocab_size=600, pattern="qwen2")
    further = Tokenizer.train(["naïve café " * 50], vocab_size=640, base=base, special_tokens=["<|x|>"])
    assert further.pattern == "qwen2"
    assert [further.token_bytes(token) for token in range(600)] == [
        base.token_bytes(token) for token in range(600)
    ]
    assert merges(further)[: base.num_merges] == merges(base)
    assert further.special_tokens == base.special_tokens | {"<|x|>": further.vocab_size - 1}
    assert further.encode(" café") != base.encode(" café")
    assert len(further.encode(" café")) == 1


def test_merges_equal_rustbpe(docstrings: list[str], tmp_path: Path) -> None:
    """Its ids start with the bytes in order, which decides ties; so does the base."""
    rustbpe = pytest.importorskip("rustbpe")
    ranks = tmp_path / "bytes.tiktoken"
    ranks.write_text("".join(f"{b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256)))
    base = Tokenizer.from_tiktoken(ranks, pattern="gpt2", special_tokens={})
    ours = Tokenizer.train(docstrings, vocab_size=1256, special_tokens=(), base=base)
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter(docstrings), 1256, pattern=GPT2)
    assert [ours.token_bytes(token) for token in range(1256)] == [
        bytes(token) for token, _ in theirs.get_mergeable_ranks()
    ]


def test_no_merge_makes_the_name_of_a_special_token() -> None:
    ours = Tokenizer.train(["sep " * 50 + "step " * 9], vocab_size=300, special_tokens=["sep"])
    assert ours.decode(ours.encode("sep step")) == "sep step"
    assert ours.special_tokens["sep"] not in ours.encode("sep")


def test_counting_stops_at_the_memory_it_may_take(docstrings: list[str]) -> None:
    texts = docstrings
    with pytest.raises(ValueError, match=r"more than max_memory, which is 5000; raise it"):
        Tokenizer.train(texts, vocab_size=300, max_memory=5000)
    assert Tokenizer.train(texts, vocab_size=300, max_memory=10**9) == Tokenizer.train(texts, vocab_size=300)


def test_bad_options_are_named() -> None:
    base = Tokenizer.train(["low lower"], vocab_size=261)
    for options, reason in (
        ({"required_tokens": ["two words"]}, '"two words" is cut into 2 pieces by pattern gpt2'),
        ({"required_tokens": [""]}, "a required token needs bytes"),
        ({"required_tokens": ["x" * 50]}, "at least 310 for 256 bytes, 49 pieces of required tokens"),
        ({"base": base, "vocab_size": 260}, "at least 261 for the tokens of the base"),
        ({"base": base, "pattern": "qwen2"}, r"cuts text in its own way \(gpt2\)"),
        ({"base": Tokenizer.from_characters("ab")}, "from_characters"),
    ):
        with pytest.raises(ValueError, match=reason):
            Tokenizer.train(["a"], **({"vocab_size": 300} | options))  # type: ignore[arg-type]
