"""`.model` files of sentencepiece: its ids, on models that it trains here."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from tempa.cli import run
from tempa.data.shards import Shards
from tempa.tokenizer import StreamEncoder, Tokenizer

SPECIAL_NAMES = ["<unk>", "<s>", "</s>", "[INST]"]
MODELS: dict[str, dict[str, Any]] = {
    "as the trainer has it": {},
    "llama": {
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "split_digits": True,
        "control_symbols": ["[INST]"],
    },
    "gemma": {
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["\n", "\n\n", "▁▁", "▁▁▁▁", "<table>", "the", "thermal", "é"],
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
    },
    "across words": {
        "split_by_whitespace": False,
        "split_by_unicode_script": False,
        "character_coverage": 0.98,
    },
    "no prefix": {"add_dummy_prefix": False, "max_sentencepiece_length": 4, "split_by_number": False},
    "only a prefix": {"remove_extra_whitespaces": False, "bos_id": -1, "eos_id": -1, "vocab_size": 420},
}
PARTS = [
    *("the", " ", "  ", "▁", "▁▁", "\n", "\n\n", "\t", "\r\n", "a", "aaa", "ing ", " return", "def", "()"),
    *("=", "==", "é", "naïve", "猫", "が好き", "🙂", "Ж", "\u00a0", "\0", "12", "3", "<table>", "thermal"),
    *("<0x41>", "    ", *SPECIAL_NAMES),
]


def train(texts: list[str], **options: Any) -> bytes:
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=file,
        minloglevel=2,
        **{"model_type": "bpe", "vocab_size": 900, "byte_fallback": True}
        | {"normalization_rule_name": "identity", "num_threads": 1}
        | options,
    )
    return file.getvalue()


@pytest.fixture(scope="session")
def corpus(docstrings: list[str]) -> list[str]:
    """Lines, some with runs of spaces that spread, and characters of several scripts."""
    lines = [line for text in docstrings for line in text.splitlines() if line]
    indented = [f"    {line}        # {line}" for line in lines[::20]]
    return lines + indented + ["naïve café", "猫が好き 猫", "слово за словом"] * 20


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def model(
    request: pytest.FixtureRequest, corpus: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    path.write_bytes(train(corpus, **request.param))
    return path


@pytest.fixture(scope="module")
def both(model: Path) -> tuple[Tokenizer, Any]:
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return Tokenizer.from_sentencepiece(model), theirs


def random_texts(count: int) -> list[str]:
    draw = random.Random(0)
    mixed = ["".join(draw.choices(PARTS, k=draw.randrange(12))) for _ in range(count)]
    blocks = [(0x20, 0x7F), (0x20, 0x24), (0xA0, 0x500), (0x3000, 0xA000), (0x1F300, 0x1F700)]
    foreign = ["".join(chr(draw.randrange(*draw.choice(blocks))) for _ in range(20)) for _ in range(count)]
    runs = [
        f"{before}{char * length}{after}"
        for char in " ▁a=é"
        for length in range(40)
        for before, after in (("", ""), ("x", "y"))
    ]
    return mixed + foreign + runs


def test_ids_and_text_equal_sentencepiece(
    both: tuple[Tokenizer, Any], corpus: list[str], docstrings: list[str]
) -> None:
    ours, theirs = both
    texts = [*random_texts(1500), *corpus[:1500], *docstrings]
    assert len(texts) > 4500
    rows = ours.encode_lists(texts, 1)
    for text, ids, expected in zip(texts, rows, theirs.encode(texts), strict=True):
        assert ids == expected, text
        if "▁" not in text:  # of which theirs takes away any number at the start
            assert ours.decode(ids) == theirs.decode(expected), text


def test_any_text_has_the_ids_of_sentencepiece(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both

    @given(st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=4))).map("".join))
    def check(text: str) -> None:
        assert ours.encode(text) == theirs.encode(text)

    check()


def test_vocabularies_have_the_same_entries(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    assert ours.vocab_size == theirs.vocab_size()
    for token in range(ours.vocab_size):
        piece = theirs.id_to_piece(token)
        if theirs.is_byte(token):
            assert ours.token_bytes(token) == bytes([int(piece[3:5], 16)])
        elif theirs.is_control(token) or theirs.is_unknown(token):
            assert ours.special_tokens[piece] == token
        elif piece not in ours.plain_tokens:
            assert ours.token_bytes(token).decode() == piece.replace("▁", " ")


def test_saved_files_keep_ids_here_and_in_tokenizers(both: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    ours, theirs = both
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path) == ours
    package = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in random_texts(700):
        if not any(name in text for name in ours.special_tokens):  # which `tokenizers` finds in any text
            assert package.encode(text, add_special_tokens=False).ids == theirs.encode(text), text


def test_streams_give_the_ids_of_the_whole(both: tuple[Tokenizer, Any]) -> None:
    ours, _ = both
    for text in random_texts(100):
        stream = StreamEncoder(ours)
        ids = [i for at in range(0, len(text), 3) for i in stream.push(text[at : at + 3])] + stream.finish()
        assert ids == ours.encode(text), text


def test_control_pieces_are_special_and_never_found_unasked(corpus: list[str], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(corpus, **MODELS["llama"]))
    ours = Tokenizer.from_sentencepiece(path)
    assert list(ours.special_tokens) == SPECIAL_NAMES
    special = ours.special_tokens["[INST]"]
    assert special not in ours.encode("[INST] hello")
    assert ours.encode("[INST] hello", allowed_special=["[INST]"])[0] == special


def test_commands_read_models(corpus: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, text = tmp_path / "tokenizer.model", tmp_path / "text.txt"
    model.write_bytes(train(corpus, **MODELS["llama"]))
    text.write_text("the cat sat on the mat")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert run(["tokenizer", "encode", "--tokenizer", str(model), "the cat"]) == 0
    assert capsys.readouterr().out.split() == [str(token) for token in theirs.encode("the cat")]
    assert run(["tokenizer", "compare", str(text), str(model)]) == 0
    assert str(model) in capsys.readouterr().out
    assert run(["tokenizer", "inspect", str(model)]) == 0
    assert "'[INST]' 3" in capsys.readouterr().out
    assert run(["tokenizer", "export", str(model), "--out", str(tmp_path / "hf")]) == 0
    assert Tokenizer.load(tmp_path / "hf") == Tokenizer.from_sentencepiece(model)
    assert run(["data", "encode", str(text), "--tokenizer", str(model), "--out", str(tmp_path / "ids")]) == 0
    assert Shards(tmp_path / "ids").document(0).tolist() == theirs.encode("the cat sat on the mat")
    assert run(["tokenizer", "export", str(model), "--out", str(tmp_path / "t"), "--format", "tiktoken"]) == 1


def test_user_defined_pieces_can_be_special(corpus: list[str], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(corpus, user_defined_symbols=["[INST]"]))
    with pytest.raises(ValueError, match=r'"\[INST\]", is user-defined, .* user_defined="special"'):
        Tokenizer.from_sentencepiece(path)
    ours = Tokenizer.from_sentencepiece(path, user_defined="special")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert ours.special_tokens["[INST]"] == theirs.piece_to_id("[INST]")
    assert ours.encode("the  cat sat ") == theirs.encode("the  cat sat ")
    with pytest.raises(ValueError, match="user_defined must be 'plain' or 'special', got 'both'"):
        Tokenizer.from_sentencepiece(path, user_defined="both")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "unigram"}, "only BPE models are supported, found unigram"),
        ({"model_type": "char", "vocab_size": 300, "hard_vocab_limit": False}, "found char"),
        ({"byte_fallback": False}, "without byte_fallback, characters that are not in the vocabulary"),
        ({"normalization_rule_name": "nmt_nfkc"}, 'the normalizer "nmt_nfkc" changes characters'),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix is not supported"),
        ({"control_symbols": ["§"]}, '"§", is a character, and not an ordinary piece'),
        (
            {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "user_defined_symbols": ["a b"]},
            '"a b", is user-defined and has a space',
        ),
    ],
)
def test_what_would_be_encoded_differently_is_refused(
    corpus: list[str], tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "other.model"
    path.write_bytes(train(corpus, **options))
    with pytest.raises(ValueError, match=rf"other\.model: .*{reason}"):
        Tokenizer.from_sentencepiece(path)


def number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(tag: int, value: int | bytes) -> bytes:
    """One field on the wire: a number, or bytes with their length."""
    if isinstance(value, int):
        return number(tag << 3) + number(value)
    return number(tag << 3 | 2) + number(len(value)) + value


def piece(text: str, score: float, kind: int = 1) -> bytes:
    return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + field(3, kind))


def handmade(*pieces: bytes, more: bytes = b"") -> bytes:
    """A model of all bytes and these pieces, which neither adds nor removes spaces unless `more` says so."""
    start = piece("<unk>", 0, 2) + b"".join(piece(f"<0x{byte:02X}>", 0, 6) for byte in range(256))
    trainer, normalizer = field(3, 2) + field(35, 1), field(3, 0) + field(4, 0) + more
    return start + b"".join(pieces) + field(2, trainer) + field(3, normalizer)


def random_vocabulary(draw: random.Random) -> list[bytes]:
    """Pieces of a few characters with scores in any order; repetitions of one may all have the same."""
    letters = draw.choice(["ab", "abc", "a▁", "ab▁"])
    texts = {"".join(draw.choices(letters, k=draw.randrange(2, 7))) for _ in range(draw.randrange(1, 14))}
    repeated = draw.choice(letters)
    texts |= {repeated * length for length in draw.sample(range(2, 10), draw.randrange(6))}
    scores = dict(zip(sorted(texts), draw.sample(range(1, 100), len(texts)), strict=True))
    if draw.random() < 0.5:
        scores |= {text: 100 for text in texts if set(text) == {repeated}}
    pieces = [piece(text, -score) for text, score in scores.items()]
    pieces += [piece(char, -200) for char in sorted({*letters, "▁"})]
    draw.shuffle(pieces)
    return pieces


@pytest.mark.parametrize("seed", range(4))
def test_vocabularies_that_nobody_trained_have_the_ids_of_sentencepiece(seed: int, tmp_path: Path) -> None:
    path, draw = tmp_path / "tokenizer.model", random.Random(seed)
    for _ in range(100):
        prefix, squeeze = draw.randrange(2), draw.randrange(2)
        path.write_bytes(handmade(*random_vocabulary(draw), more=field(3, prefix) + field(4, squeeze)))
        ours = Tokenizer.from_sentencepiece(path)
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
        texts = ["".join(draw.choices("abc ▁z", k=draw.randrange(60))) for _ in range(40)]
        texts += ["".join(draw.choices("ab ", k=400)), "a" * 300, " " * 300]
        assert ours.encode_lists(texts) == theirs.encode(texts)


def test_repetitions_of_one_score_are_merged_as_sentencepiece_does(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    spaces = [piece("▁" * length, -1e9) for length in (2, 3, 4, 8, 7, 16)]
    path.write_bytes(handmade(*spaces, piece("▁", -9), piece("a", -9), piece("▁a", -1)))
    ours = Tokenizer.from_sentencepiece(path)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for length in range(120):
        for text in (" " * length, f"a{' ' * length}a", f"{' ' * length}a{' ' * (length // 2)}b{' ' * 5}"):
            assert ours.encode(text) == theirs.encode(text), text


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([piece("a", -3), piece("ab", -1)], '"ab", is made from "b", which is not a piece'),
        (
            [piece(text, -9) for text in "abc"] + [piece("ab", -1), piece("bc", -1)],
            r'\["ab", "bc"\] have the same score, -1: which is merged first depends on the text',
        ),
        (
            [piece("a", -9), piece("aa", -1), piece("aaa", -1), piece("aaaa", -2)],
            r'\["aaa", "aa"\] have the same score',
        ),
        ([piece("a", 0), piece("a", -1)], 'pieces 257 and 258 are both "a"'),
        ([piece("", 0)], 'piece 257, "", is empty'),
        ([piece("ab", 0, 5)], 'piece 257, "ab", is unused'),
        ([piece("a" * 1025, 0)], "has more than 1,024 bytes"),
        ([piece("ab", float("nan"))], "has no score"),
        ([piece("ab", 0, 9)], r"not a sentencepiece model: byte \d+: no pieces are of type 9"),
    ],
)
def test_handmade_models_are_refused_with_the_reason(
    pieces: list[bytes], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(handmade(*pieces))
    with pytest.raises(ValueError, match=reason):
        Tokenizer.from_sentencepiece(path)


def test_settings_that_no_trainer_writes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(handmade(piece("a", -1), more=field(5, 0)))
    with pytest.raises(ValueError, match="escape_whitespaces=false is not supported"):
        Tokenizer.from_sentencepiece(path)
    path.write_bytes(handmade(piece("a", -1)) + field(5, field(2, b"rules")))
    with pytest.raises(ValueError, match="a denormalizer is not supported"):
        Tokenizer.from_sentencepiece(path)


def test_damaged_files_are_errors_that_name_the_byte(corpus: list[str], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    good = train(corpus, **MODELS["llama"])
    for length in random.Random(0).sample(range(len(good) - 1), 150):
        path.write_bytes(good[:length])
        with pytest.raises(ValueError, match=r"tokenizer\.model: (not a sentencepiece model: |only BPE)"):
            Tokenizer.from_sentencepiece(path)
    for data, reason in [
        (b"", "it has no pieces"),
        (b"\x89PNG\r\n\x1a\n", "byte 2: 8 bytes should follow, but only 6 are left"),
        (good[:1000] + b"\xff" * 20, r"byte \d+: "),
        (
            b"\x0a\xff\xff\xff\xff\x0f" + good,
            r"byte 6: 4294967295 bytes should follow, but only \d+ are left",
        ),
    ]:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"not a sentencepiece model: {reason}"):
            Tokenizer.from_sentencepiece(path)
    with pytest.raises(FileNotFoundError):
        Tokenizer.from_sentencepiece(tmp_path / "missing.model")


def test_altered_files_never_end_the_process(corpus: list[str], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    good, draw, messages = train(corpus, **MODELS["llama"]), random.Random(0), []
    for _ in range(150):
        data = bytearray(good)
        for _ in range(draw.randrange(1, 8)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            Tokenizer.from_sentencepiece(path).encode("the cat")
        except ValueError as error:
            messages.append(str(error))
    assert messages
    assert all(message.startswith(f"{path}: ") for message in messages)
