"""Learned merges equal those of `tokenizers`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tempa.tokenizer import DEFAULT_SPECIALS, Pattern, Tokenizer


def hf_train(texts: list[str], vocab_size: int, pattern: Pattern = "gpt2") -> tokenizers.Tokenizer:
    """`tokenizers` with the same alphabet, on whole documents."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    numbers = r"\p{N}{1,3}" if pattern == "cl100k" else r"\p{N}"
    regex = tokenizers.Regex(
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == "gpt2")
    steps = [] if pattern == "gpt2" else [pre_tokenizers.Split(regex, "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return tokenizer


def merges(tokenizer: Tokenizer, folder: Path) -> list[str]:
    tokenizer.save(folder)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    found: list[str] = model["merges"]
    return found


def hf_merges(tokenizer: tokenizers.Tokenizer) -> list[str]:
    return [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "qwen2"])
def test_merges_equal_tokenizers_on_docstrings(
    pattern: Pattern, tmp_path: Path, docstrings: list[str]
) -> None:
    texts = docstrings
    ours = Tokenizer.train(texts, vocab_size=256 + 2000, pattern=pattern, special_tokens=())
    theirs = hf_train(texts, 256 + 2000, pattern)
    assert merges(ours, tmp_path) == hf_merges(theirs)
    assert all(ours.encode(text) == theirs.encode(text).ids for text in texts)


def test_merges_equal_tokenizers_on_plays(shared_data: Path, tmp_path: Path) -> None:
    text = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    ours = Tokenizer.train([text], vocab_size=256 + 2000, special_tokens=())
    assert merges(ours, tmp_path) == hf_merges(hf_train([text], 256 + 2000))


def test_merges_equal_tokenizers_until_pairs_run_out(tmp_path: Path) -> None:
    """Runs of one letter overlap themselves, and ties are everywhere."""
    texts = [
        "aaaa aaaaa aaaaaa",
        "abab ababab bababa",
        "abc abcabc bcabca",
        "\n\n\n   \n\t\t x",
        "日本語日本 本日",
    ] * 3
    ours = Tokenizer.train(texts, vocab_size=2000, special_tokens=())
    assert merges(ours, tmp_path) == hf_merges(hf_train(texts, 2000))
    assert ours.vocab_size < 2000


def test_specials_leave_the_merges_alone(tmp_path: Path, docstrings: list[str]) -> None:
    texts = docstrings[:200]
    with_specials = Tokenizer.train(texts, vocab_size=400 + len(DEFAULT_SPECIALS))
    without = Tokenizer.train(texts, vocab_size=400, special_tokens=())
    assert merges(with_specials, tmp_path / "a") == merges(without, tmp_path / "b")
    assert with_specials.vocab_size == 405


def test_training_is_independent_of_threads_and_of_the_kind_of_iterable(docstrings: list[str]) -> None:
    texts = docstrings[:300]
    one = Tokenizer.train(texts, vocab_size=600, num_threads=1)
    assert one == Tokenizer.train(iter(texts), vocab_size=600, num_threads=5)
    assert one == Tokenizer.train(reversed(texts), vocab_size=600)


def test_rare_pairs_are_not_merged() -> None:
    assert Tokenizer.train(["ab" * 3], vocab_size=300, min_frequency=4).num_merges == 0
    assert Tokenizer.train(["ab " * 4], vocab_size=300, min_frequency=4).num_merges > 0


def test_progress_counts_bytes_and_then_merges() -> None:
    seen: list[tuple[str, int, int | None]] = []
    tokenizer = Tokenizer.train(["héllo " * 50], vocab_size=270, progress=lambda *step: seen.append(step))
    assert seen[0] == ("count", 350, None)
    assert seen[-1] == ("merge", tokenizer.num_merges, 9)


def test_interrupting_progress_stops_training() -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tokenizer.train(["text " * 10], vocab_size=270, progress=stop)


@pytest.mark.parametrize(
    ("texts", "options", "reason"),
    [
        ([], {}, "no text to train on"),
        ([""], {}, "no text to train on"),
        (["a"], {"vocab_size": 260}, "at least 261 for 256 bytes and 5 special tokens, got 260"),
        (["a"], {"pattern": "gpt5"}, 'unknown pattern "gpt5"'),
        (["a"], {"pattern": "characters"}, "from_characters"),
        (["a"], {"special_tokens": ["<|x|>", "<|x|>"]}, "given twice"),
        (["a"], {"num_threads": 0}, "num_threads must be at least 1"),
        (["a\ud800"], {}, "lone surrogate"),
    ],
)
def test_bad_training_input_is_named(texts: list[str], options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Tokenizer.train(texts, **({"vocab_size": 300} | options))  # type: ignore[arg-type]


def test_one_string_is_not_taken_for_documents() -> None:
    with pytest.raises(TypeError, match="put it in a list"):
        Tokenizer.train("abc", vocab_size=300)
