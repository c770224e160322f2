"""Files in the shapes that published models have give the ids of `tokenizers`, whatever the shape.

The vocabulary is GPT-2's; around it stands what the files of the models have.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from tempa.tokenizer import Tokenizer

File = dict[str, Any]

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NEMO = O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> File:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def byte_level(use_regex: bool, prefix: bool = False) -> File:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def sequence(*members: File) -> File:
    return {"type": "Sequence", "pretokenizers": list(members)}


def token(content: str, number: int, **rules: bool) -> File:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content} | plain | rules


def template(*before: tuple[str, int]) -> File:
    pieces: list[File] = [{"SpecialToken": {"id": name, "type_id": 0}} for name, _ in before]
    text = {"Sequence": {"id": "A", "type_id": 0}}
    tokens = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in before}
    pair: list[File] = [text, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": [*pieces, text],
        "pair": [*pieces, *pair],
        "special_tokens": tokens,
    }


def llama3(file: File) -> None:
    file["pre_tokenizer"] = sequence(split(LLAMA3), byte_level(False))
    file["added_tokens"] = [token(f"<|reserved_{i}|>", 50258 + i) for i in range(300)]
    file["post_processor"] = {
        "type": "Sequence",
        "processors": [byte_level(True), template(("<|reserved_0|>", 50258), ("<|reserved_7|>", 50265))],
    }
    file["model"]["ignore_merges"] = True
    file["model"]["vocab"]["ĠJapÃ³n"] = 50257


def qwen2(file: File) -> None:
    file["normalizer"] = {"type": "NFC"}
    file["pre_tokenizer"] = sequence(split(QWEN2), byte_level(False))
    file["added_tokens"] += [
        token("<think>", 50257, special=False),
        token("</think>", 50258, special=False),
        token("café\u0301", 50259, special=False, normalized=True),
    ]


def o200k(file: File) -> None:
    file["pre_tokenizer"] = sequence(split(O200K), byte_level(False))


def nemo(file: File) -> None:
    file["pre_tokenizer"] = sequence(split(NEMO), byte_level(False))
    file["post_processor"] = template(("<|endoftext|>", 50256))


def possessive(file: File) -> None:
    """As tiktoken writes cl100k; to `tokenizers` the plus after a count is no mark of possession."""
    regex = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    )
    file["pre_tokenizer"] = sequence(split(regex, "Removed", invert=True), byte_level(False))


def smollm(file: File) -> None:
    file["normalizer"] = {"type": "Sequence", "normalizers": []}
    file["pre_tokenizer"] = sequence({"type": "Digits", "individual_digits": True}, byte_level(True))


def deepseek(file: File) -> None:
    file["pre_tokenizer"] = sequence(
        split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), byte_level(False)
    )


def falcon(file: File) -> None:
    file["pre_tokenizer"] = sequence(
        {"type": "Punctuation", "behavior": "Contiguous"},
        byte_level(True),
        {"type": "Digits", "individual_digits": False},
        split("[0-9][0-9][0-9]"),
    )


def neox(file: File) -> None:
    file["normalizer"] = {"type": "NFC"}
    file["added_tokens"] += [
        token(" " * i, 50255 + i, special=False, normalized=True) for i in range(2, 25)
    ] + [token("|||IP|||", 50280, special=False), token("\n\n", 50281, special=False)]


def roberta(file: File) -> None:
    file["pre_tokenizer"] = byte_level(True, prefix=True)
    file["added_tokens"] += [
        token("<mask>", 50257, lstrip=True),
        token("<s>", 50258),
        token("word", 4775, single_word=True, rstrip=True, special=False),
    ]
    file["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["<|endoftext|>", 50256],
        "cls": ["<s>", 50258],
        "trim_offsets": True,
        "add_prefix_space": True,
    }


def cutters(file: File) -> None:
    """Every behavior of a split, one after the other."""
    file["pre_tokenizer"] = sequence(
        split(r"[\r\n]+", "MergedWithPrevious"),
        split(r"\w+", "MergedWithNext"),
        split(r"-", "Removed"),
        split(r"[,.]", "Contiguous"),
        {"type": "WhitespaceSplit"},
        byte_level(False),
    )


def whitespace(file: File) -> None:
    delimiter = {"type": "CharDelimiterSplit", "delimiter": "."}
    file["pre_tokenizer"] = sequence({"type": "Whitespace"}, delimiter, byte_level(False))


def normalizers(file: File) -> None:
    """Compatibility forms, case, strings, and tokens that are looked for in what comes out."""
    file["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Strip", "strip_left": False, "strip_right": True},
            {"type": "NFKD"},
            {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"String": "word"}, "content": "two words"},
            {"type": "NFKC"},
            {"type": "Prepend", "prepend": "_"},
        ],
    }
    file["added_tokens"].append(token("ÉCOLE", 50257, special=False))


def holes(file: File) -> None:
    """A7.3: `tokenizers` renumbers added tokens after a gap, unless they are in the vocabulary too."""
    file["added_tokens"] = [token("<|endoftext|>", 50256), token("<|far|>", 60000)]
    file["model"]["vocab"]["<|far|>"] = 60000


SHAPES: list[Callable[[File], None]] = [
    llama3, qwen2, o200k, nemo, possessive, smollm, deepseek, falcon, neox, roberta, cutters, whitespace,
    normalizers, holes,
]  # fmt: skip

TEXTS = [
    "",
    "a word, sword words word  x <mask> y  <mask>z",
    "<think>let me see</think>\n\n<|endoftext|>  <|reserved_7|><s>",
    "cafe\u0301\u0301 café\u0301 \u1e9b\u0323 ﬁ Å",
    " Japón Japón\n\n  \n ab12345 678-9,10.,x  don't DON'T ÉCOLEs it'S",
    "if x:\n    return [1,\t2]  # no\r\n\r\n//\n/a HTMLParser iPhone's",
    "中文字符和English混排，全角。日本語のテキスト한국어 ²³Ⅷ ٣٤٥ é1",
    "|||IP||| <|far|> 🙂👩‍👩‍👧 \u0085\u00a0\u3000  ",
]

TRICKY = st.lists(
    st.one_of(
        st.sampled_from(
            ["<think>", "<|endoftext|>", "<mask>", " word", "word", "  ", "\n\n", "\r\n", "'s", "'LL", "<s>"]
        ),
        st.text(
            st.sampled_from(" \t\n\r\u0085\u00a0\u3000'sTlLK12²Ⅷab éß中文字🙂\u200d\u0301.,-_(<|>)/"),
            max_size=6,
        ),
        st.text(st.characters(codec="utf-8"), max_size=4),
    )
).map("".join)


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: shape.__name__)
def both(
    request: pytest.FixtureRequest, gpt2: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """One file read by us and by `tokenizers`."""
    folder = tmp_path_factory.mktemp("shape")
    gpt2.save(folder)
    path = folder / "tokenizer.json"
    file = json.loads(path.read_text(encoding="utf-8"))
    request.param(file)
    path.write_text(json.dumps(file), encoding="utf-8")
    return Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))


def ids_of(hf: tokenizers.Tokenizer, text: str) -> list[int]:
    found: list[int] = hf.encode(text, add_special_tokens=False).ids
    return found


def test_ids_equal_tokenizers(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, hf = both
    for text in TEXTS:
        assert ours.encode(text, allowed_special=ours.special_tokens) == ids_of(hf, text), text


def test_ids_equal_tokenizers_on_any_text(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, hf = both

    @given(TRICKY)
    def check(text: str) -> None:
        assert ours.encode(text, allowed_special=ours.special_tokens) == ids_of(hf, text)

    check()


def test_templates_add_what_tokenizers_adds(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, hf = both
    for text in TEXTS:
        expected = hf.encode(text).ids
        assert ours.encode(text, allowed_special="all", add_special_tokens=True) == expected
        around = len(expected) - len(ids_of(hf, text))
        assert ours.count(text, allowed_special="all", add_special_tokens=True) == len(expected)
        if around:
            with pytest.raises(ValueError, match="max_tokens must be at least"):
                ours.encode(text, add_special_tokens=True, max_tokens=around - 1)
        hf.enable_truncation(around + 3)
        short = ours.encode(text, allowed_special="all", add_special_tokens=True, max_tokens=around + 3)
        assert short == hf.encode(text).ids
        hf.no_truncation()


def test_places_are_in_the_normalized_text(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, _ = both
    for text in TEXTS:
        placed = ours.encode_with_offsets(text, unit="byte", allowed_special="all")
        assert placed.text == ours.normalize(text, allowed_special="all")
        assert placed.ids.tolist() == ours.encode(text, allowed_special="all")
        data = placed.text.encode()
        found = zip(placed.ids.tolist(), placed.starts, placed.ends, strict=True)
        assert all(data[a:b].strip() == ours.token_bytes(i).strip() for i, a, b in found)


def test_saving_keeps_the_shape(both: tuple[Tokenizer, tokenizers.Tokenizer], tmp_path: Path) -> None:
    ours, _ = both
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again == ours
    hf = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        assert again.encode(text, allowed_special=ours.special_tokens) == ids_of(hf, text), text
