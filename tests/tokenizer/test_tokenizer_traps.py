"""Where other tokenizers went wrong, one test for each trap: anchors A7.1 to A7.9."""

from __future__ import annotations

import json
import pickle
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers

from tempa.tokenizer import StreamEncoder, Tokenizer

PATTERNS = ["gpt2", "cl100k", "qwen2", "o200k"]


def load(gpt2: Tokenizer, folder: Path, **changes: Any) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """GPT-2's file with some of its parts changed, read by us and by `tokenizers`."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(gpt2.to_json()) | changes), encoding="utf-8")
    return Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))


@pytest.fixture(scope="module", params=PATTERNS)
def both(
    request: pytest.FixtureRequest, gpt2: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """GPT-2's merges behind each pattern, by us and by `tokenizers`."""
    trained = Tokenizer.train(["a"], vocab_size=257, pattern=request.param, special_tokens=["<s>"])
    cutting = json.loads(trained.to_json())["pre_tokenizer"]
    return load(gpt2, tmp_path_factory.mktemp("trap"), pre_tokenizer=cutting)


@pytest.mark.parametrize(
    "text",
    ['\t"It', "\n   \n(", "automatically autom|atically", "x = '''\n\t\"\"\"It's", "\u3000It", "\"It's"],
)
def test_a7_1_texts_that_pass_demos_and_fail_on_corpora(
    both: tuple[Tokenizer, tokenizers.Tokenizer], text: str
) -> None:
    ours, theirs = both
    assert ours.encode(text) == theirs.encode(text).ids


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_a7_2_a_token_that_no_merge_makes(gpt2: Tokenizer, tmp_path: Path, ignore_merges: bool) -> None:
    model = json.loads(gpt2.to_json())["model"] | {"ignore_merges": ignore_merges}
    model["vocab"]["ĠJapÃ³n"] = 50257
    ours, theirs = load(gpt2, tmp_path, model=model)
    assert ours.encode("a Japón") == theirs.encode("a Japón").ids
    assert (50257 in ours.encode("a Japón")) == ignore_merges


def test_a7_3_ids_after_a_gap_are_those_of_the_file(gpt2: Tokenizer, tmp_path: Path) -> None:
    added = json.loads(gpt2.to_json())["added_tokens"]
    added.append({**added[0], "id": 50276, "content": "<|endofprompt|>"})
    ours, theirs = load(gpt2, tmp_path, added_tokens=added)
    assert theirs.token_to_id("<|endofprompt|>") == 50257  # renumbered there
    assert ours.special_tokens["<|endofprompt|>"] == 50276
    ours.save(tmp_path / "again")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert again.token_to_id("<|endofprompt|>") == 50276


def test_a7_4_whole_documents_teach_merges_across_lines() -> None:
    text = "if x:\n    return\nif y:\n    return\n" * 9
    tokenizer = Tokenizer.train([text], vocab_size=300)
    assert any(b"\n " in tokenizer.token_bytes(token) for token in range(256, 295))


def test_a7_5_specials_in_text_are_text(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, theirs = both
    text = "a<|endoftext|>b"
    assert ours.eot_id in theirs.encode(text).ids
    assert ours.eot_id not in ours.encode(text)
    assert ours.decode(ours.encode(text)) == text


def test_a7_6_what_is_no_text_has_a_policy(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, _ = both
    for data in (b"caf\xc3", b"\xf5\x80\x80\x80", b"\xff\xfe", b"a\xe2\x82", b"\xf0\x9f\x99 b"):
        assert ours.decode_bytes(ours.encode(data, errors="bytes")) == data
        assert ours.encode(data, errors="replace") == ours.encode(data.decode(errors="replace"))
        with pytest.raises(ValueError, match="not UTF-8"):
            ours.encode(data)
    assert ours.encode("a\ud800", errors="replace") == ours.encode("a\N{REPLACEMENT CHARACTER}")
    assert ours.decode_bytes(ours.encode("a\ud800", errors="bytes")) == b"a\xed\xa0\x80"


@pytest.mark.parametrize("length", [14, 15, 16, 17, 63, 64, 65, 65_535, 65_536, 1_100_000])
def test_a7_7_pieces_of_every_length(both: tuple[Tokenizer, tokenizers.Tokenizer], length: int) -> None:
    ours, theirs = both
    for text in ("a" * length, f" {'é' * (length // 2)}\n", f"x{'-' * length}y"):
        assert ours.encode(text) == theirs.encode(text).ids
    letters = "".join(random.Random(length).choices("etaoin", k=min(length, 20_000)))
    assert ours.encode(letters) == theirs.encode(letters).ids


def test_a7_7_rare_characters(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, theirs = both
    kinds = {unicodedata.category(chr(i)): chr(i) for i in range(0x2FFFF) if not 0xD800 <= i < 0xE000}
    rare = ["\r\n", "\u0085", "\u000b", "\u2028", "²³Ⅷ", "'ſ", "\u212a's", "\u1680", "\ufeff", "\u200d"]
    rare += kinds.values()
    for one in rare:
        for text in (f"a{one}b", f" {one}{one} {one}", f"1{one}'s\n{one}"):
            assert ours.encode(text) == theirs.encode(text).ids, repr(text)


def test_a7_8_ids_do_not_depend_on_threads_chunks_or_what_came_before(gpt2: Tokenizer) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices(["the ", "cat", "\n", "东京", "é", " 12", "zq"], k=3000)) for _ in range(60)]
    expected = [gpt2.encode(text) for text in texts]
    again = pickle.loads(pickle.dumps(gpt2))  # with caches of its own
    for tokenizer in (gpt2, again):
        for num_threads in (1, 2, 5):
            order = rng.sample(range(len(texts)), len(texts))
            ids, offsets = tokenizer.encode_batch([texts[i] for i in order], num_threads)
            for at, i in enumerate(order):
                assert ids[offsets[at] : offsets[at + 1]].tolist() == expected[i]


def test_a7_8_models_that_normalize_do_so_first(gpt2: Tokenizer, tmp_path: Path) -> None:
    ours, theirs = load(gpt2, tmp_path, normalizer={"type": "NFC"})
    text = "cafe\u0301 가 ﬁ A\u030a"
    assert ours.encode(text) == theirs.encode(text).ids == gpt2.encode(unicodedata.normalize("NFC", text))


def test_a7_9_one_huge_document_is_cut_as_a_whole(gpt2: Tokenizer) -> None:
    specials = gpt2.special_tokens
    ranks = {
        gpt2.token_bytes(token): token for token in range(gpt2.vocab_size) if token not in specials.values()
    }
    theirs = tiktoken.Encoding(
        "same",
        pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        mergeable_ranks=ranks,
        special_tokens=specials,
    )
    # The special token lies across every usual size of a chunk in some of these.
    for shift in range(0, 14, 3):
        text = "x" * shift + ("the cat<|endoftext|>  \n" * 30_000)
        expected = theirs.encode(text, allowed_special="all")
        assert gpt2.encode(text, allowed_special="all") == expected
    stream = StreamEncoder(gpt2, allowed_special="all")
    size = 4096
    ids = [i for at in range(0, len(text), size) for i in stream.push(text[at : at + size])]
    assert ids + stream.finish() == expected
