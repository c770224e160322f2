"""Texts to shards: the ids of `encode_batch`, whatever the batches, threads and files."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempa.data.documents import Document, read_documents, write_documents
from tempa.data.shards import Shards, ShardWriter, write_shards
from tempa.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat", "", "naïve 🙂 <|endoftext|>\n", "猫がマットの上に座った"] * 30


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocab_size=320)


def files_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def by_arrays(directory, texts, tokenizer, **options):
    """The reference: ids as arrays, ends inserted, both handed to the writer."""
    ids, offsets = tokenizer.encode_batch(texts)
    ids = np.insert(ids, offsets[1:], np.uint32(tokenizer.eot_id))
    with ShardWriter(directory, tokenizer.sha256, tokenizer.vocab_size, **options) as writer:
        writer.add(ids, offsets + np.arange(len(offsets)))
    return directory


@given(
    texts=st.lists(st.text(max_size=40), min_size=1, max_size=40),
    num_threads=st.integers(1, 3),
    max_shard_tokens=st.integers(1, 200),
)
def test_files_are_those_of_arrays(tmp_path_factory, tokenizer, texts, num_threads, max_shard_tokens):
    folder = tmp_path_factory.mktemp("shards")
    options = {"max_shard_tokens": max_shard_tokens}
    expected = by_arrays(folder / "arrays", texts, tokenizer, **options)
    write_shards(folder / "direct", iter(texts), tokenizer, num_threads=num_threads, **options)
    assert files_of(folder / "direct") == files_of(expected)


def test_batches_and_threads_leave_no_trace(tmp_path, tokenizer):
    texts = [f"{i} " + "the dog " * (i % 900) for i in range(3000)]  # several batches of several tasks
    expected = files_of(by_arrays(tmp_path / "arrays", texts, tokenizer))
    done = []
    write_shards(tmp_path / "direct", texts, tokenizer, progress=done.append)
    assert files_of(tmp_path / "direct") == expected
    assert len(done) > 2
    assert done[-1] == sum(len(text.encode()) for text in texts)
    assert done == sorted(done)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_ids_are_as_wide_as_the_vocabulary_needs(tmp_path, vocab_size, dtype):
    characters = map(chr, [*range(0x20, 0xD800), *range(0xE000, 0x12000)])
    text = "".join(next(characters) for _ in range(vocab_size - 1))
    tokenizer = Tokenizer.from_characters(text, special_tokens=["<|endoftext|>"])
    assert tokenizer.vocab_size == vocab_size
    ids = write_shards(tmp_path / "shards", [text[-3:]], tokenizer).document(0)
    assert ids.dtype == dtype
    assert ids.tolist() == [vocab_size - 4, vocab_size - 3, vocab_size - 2, vocab_size - 1]


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "parquet"])
def test_files_of_every_kind_go_to_shards(tmp_path, tokenizer, suffix):
    path = tmp_path / f"texts.{suffix}"
    if suffix == "txt":
        path.write_text(TEXTS[2], encoding="utf-8", newline="")
    elif suffix == "jsonl":
        write_documents(path, [Document(text, "") for text in TEXTS])
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"text": TEXTS}), path)
    texts = [document.text for document in read_documents(path)]
    shards = write_shards(tmp_path / "shards", (text for text in texts), tokenizer)
    end = tokenizer.eot_id
    found = [shards.document(i).tolist() for i in range(shards.num_documents)]
    assert found == [[*tokenizer.encode(text), end] for text in texts]


def test_text_never_becomes_special_and_a_tokenizer_without_end_adds_none(tmp_path, tokenizer):
    ids = write_shards(tmp_path / "one", ["<|endoftext|>"], tokenizer).document(0)
    assert (ids == tokenizer.eot_id).tolist() == [False] * (len(ids) - 1) + [True]
    characters = Tokenizer.from_characters("<|endoftext|>", special_tokens=())
    shards = write_shards(tmp_path / "two", ["text", "end"], characters)
    assert [characters.decode(shards.document(i)) for i in range(2)] == ["text", "end"]
    marked = Tokenizer.from_characters("ab", special_tokens=["<|endoftext|>", "<stop>"])
    assert write_shards(tmp_path / "three", ["a"], marked, end_token="<stop>").document(0).tolist() == [0, 3]


def test_a_text_that_cannot_be_encoded_is_named_and_nothing_appears(tmp_path):
    characters = Tokenizer.from_characters("ab")
    with pytest.raises(ValueError, match=r"document 2: character .c. \(U\+0063\) is not in"):
        write_shards(tmp_path / "shards", ["a", "b", "c"], characters)
    with ShardWriter(tmp_path / "counted", characters.sha256, characters.vocab_size) as writer:
        assert writer.encode(characters, ["ab", "a"]) == 3
        with pytest.raises(ValueError, match="document 3: character"):
            writer.encode(characters, ["a", "c"])
        assert (writer.num_documents, writer.num_tokens) == (2, 3)
    assert Shards(tmp_path / "counted").lengths().tolist() == [2, 1]
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        write_shards(tmp_path / "shards", ["a\ud800"], characters)
    with pytest.raises(ValueError, match="no document was added"):
        write_shards(tmp_path / "shards", [], characters)
    with pytest.raises(TypeError, match="got one str"):
        write_shards(tmp_path / "shards", "ab", characters)
    with pytest.raises(ValueError, match=r"no special token '</s>'; the tokenizer has <\|endoftext\|>"):
        write_shards(tmp_path / "shards", ["a"], characters, end_token="</s>")
    assert [path.name for path in tmp_path.iterdir()] == ["counted"]


def test_shards_of_another_tokenizer_take_no_text(tmp_path, tokenizer):
    writer = ShardWriter(tmp_path / "shards", "ab" * 32, tokenizer.vocab_size)
    message = f"the shards are for tokenizer abababababab, this is {tokenizer.sha256[:12]}"
    with pytest.raises(ValueError, match=message):
        writer.encode(tokenizer, ["a"])
    writer.abort()


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    code = (
        "import resource, sys\n"
        "from tempa import Tokenizer, write_shards\n"
        "tokenizer = Tokenizer.train(['the cat sat on the mat '] * 9, vocab_size=270)\n"
        "texts = ('the cat sat on the mat ' * 400 for _ in range(int(sys.argv[1])))\n"
        "write_shards(sys.argv[2], texts, tokenizer, num_threads=1)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def peak(num_texts):
        command = [sys.executable, "-c", code, str(num_texts), str(tmp_path / str(num_texts))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout) * 1024

    assert peak(8_000) - peak(1_000) < 16 << 20  # of 64 MB more text
