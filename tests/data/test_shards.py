"""Shards: the round trip, and every way a file can be wrong."""

import json
import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempa.data.shards import Shards, ShardWriter

FINGERPRINT = "0123456789abcdef" * 4


def write(directory, documents, *, vocab_size=1000, **options):
    offsets = np.cumsum([0, *map(len, documents)])
    ids = np.concatenate([np.asarray(document, np.uint32) for document in documents])
    with ShardWriter(directory, FINGERPRINT, vocab_size, **options) as writer:
        writer.add(ids, offsets)
    return directory


@pytest.fixture
def directory(tmp_path):
    return write(tmp_path / "shards", [range(5), [], range(100, 117), [7]], max_shard_tokens=8)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=30), max_shard_tokens=st.integers(1, 100))
def test_documents_come_back_from_any_cut_into_files(
    tmp_path_factory, vocab_size, dtype, lengths, max_shard_tokens
):
    directory = tmp_path_factory.mktemp("shards") / "set"
    stream = np.random.default_rng(0).integers(0, vocab_size, sum(lengths), dtype=np.uint32)
    offsets = np.cumsum([0, *lengths])
    with ShardWriter(directory, FINGERPRINT, vocab_size, max_shard_tokens=max_shard_tokens) as writer:
        half = len(lengths) // 2
        writer.add(stream[: offsets[half]], offsets[: half + 1])
        writer.add(stream[offsets[half] :], offsets[half:] - offsets[half])
    shards = Shards(directory)
    assert (shards.num_tokens, shards.num_documents) == (len(stream), len(lengths))
    assert (shards.fingerprint, shards.vocab_size) == (FINGERPRINT, vocab_size)
    assert shards.lengths().tolist() == lengths
    assert shards.tokens(0, len(stream)).dtype == dtype
    for i, (start, stop) in enumerate(pairwise(offsets)):
        assert np.array_equal(shards.document(i), stream[start:stop])
        assert np.array_equal(shards.tokens(start, len(stream)), stream[start:])


def test_arrays_are_read_only_views_that_outlive_the_shards(directory):
    document = Shards(directory).document(2)
    assert document.base is not None
    assert np.shares_memory(document, document[3:])
    assert document.tolist() == list(range(100, 117))
    with pytest.raises(ValueError, match="read-only"):
        document[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        document.flags.writeable = True


def test_ranges_outside_the_stream_are_refused(directory):
    shards = Shards(directory)
    assert shards.tokens(23, 23).tolist() == []
    for call in (
        lambda: shards.document(4),
        lambda: shards.document(-1),
        lambda: shards.tokens(0, 24),
        lambda: shards.tokens(3, 2),
        lambda: shards.tokens(-1, 2),
    ):
        with pytest.raises(ValueError, match=r"document|tokens|start"):
            call()


def test_shards_survive_pickling(directory):
    assert np.array_equal(pickle.loads(pickle.dumps(Shards(directory))).document(0), range(5))


def test_a_shard_of_another_tokenizer_is_refused(directory):
    Shards(directory, tokenizer_fingerprint=FINGERPRINT)
    with pytest.raises(ValueError, match="made by tokenizer 0123456789ab, not by ffff"):
        Shards(directory, tokenizer_fingerprint="f" * 64)
    with pytest.raises(ValueError, match=r"64 hexadecimal digits, got .gpt2."):
        Shards(directory, tokenizer_fingerprint="gpt2")


def test_a_flipped_bit_is_noticed_in_any_byte(directory):
    path = directory / "shard-00001.bin"
    good = path.read_bytes()
    for byte in range(len(good)):
        data = bytearray(good)
        data[byte] ^= 1 << byte % 8
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"shard-00001\.bin.*make it again with `tempa data build`"):
            Shards(directory)


def test_a_file_of_any_other_length_is_noticed(directory):
    path = directory / "shard-00001.bin"
    good = path.read_bytes()
    for data in [good[:length] for length in range(len(good))] + [good + b"\0"]:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"shard-00001\.bin.*(too few|truncated or appended)"):
            Shards(directory, verify=False)


def test_foreign_missing_and_exchanged_files_are_named(directory):
    one, two = directory / "shard-00000.bin", directory / "shard-00001.bin"
    data = one.read_bytes()
    one.write_bytes(b"GIF89a" + bytes(200))
    with pytest.raises(ValueError, match=r"shard-00000\.bin: not a tempa shard"):
        Shards(directory)
    one.write_bytes(two.read_bytes())
    with pytest.raises(ValueError, match=r"shard-00000\.bin: is not the file that manifest\.json describes"):
        Shards(directory)
    one.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        Shards(directory)
    assert caught.value.filename == str(one)
    one.write_bytes(data[:8] + b"\x02" + data[9:])
    with pytest.raises(ValueError, match=r"shard format 2, this version of tempa reads format 1"):
        Shards(directory)


def test_a_wrong_manifest_is_named(directory):
    path = directory / "manifest.json"
    good = path.read_text()
    for text, message in [
        ("{", "not a shard manifest"),
        (good.replace("tempa-shards", "other"), "reads tempa-shards 1, the file is other 1"),
        (good.replace('"num_tokens": 23', '"num_tokens": 24'), "totals are not those"),
        (good.replace(FINGERPRINT, "f" * 64), r"not the file that manifest\.json describes"),
        (json.dumps({**json.loads(good), "shards": []}), "totals are not those"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Shards(directory)
    path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        Shards(directory)
    assert caught.value.filename == str(path)


def test_nothing_appears_when_writing_fails(tmp_path):
    with (
        pytest.raises(ValueError, match="id 1000 at position 1 is outside the vocabulary of 1000"),
        ShardWriter(tmp_path / "new", FINGERPRINT, 1000) as writer,
    ):
        writer.add(np.array([1, 1000], np.uint32), np.array([0, 2]))
    with (
        pytest.raises(ValueError, match="no document was added"),
        ShardWriter(tmp_path / "new", FINGERPRINT, 10),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused(tmp_path):
    writer = ShardWriter(tmp_path / "new", FINGERPRINT, 1000)
    for offsets, message in [
        ([0, 1], "offsets end at 1"),
        ([1, 2], "start at 0"),
        ([0, 2, 1, 2], "decrease at row 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            writer.add(np.array([1, 2], np.uint32), np.array(offsets))
    with pytest.raises(TypeError):
        writer.add(np.array([1.0]), np.array([0, 1]))
    writer.abort()
    with pytest.raises(ValueError, match="closed"):
        writer.finish()
    for options in ({"vocab_size": 0}, {"vocab_size": 2**33}, {"vocab_size": 5, "max_shard_tokens": 0}):
        with pytest.raises(ValueError, match=next(reversed(options))):
            ShardWriter(tmp_path / "new", FINGERPRINT, **options)


def test_existing_shards_are_replaced_only_on_request(directory):
    with pytest.raises(ValueError, match="shards exist already"):
        write(directory, [[1]])
    write(directory, [[1]], overwrite=True)
    assert Shards(directory).num_tokens == 1
    assert [path.name for path in directory.parent.iterdir()] == ["shards"]


def test_other_directories_are_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("keep")
    with pytest.raises(ValueError, match="not a shard directory"):
        write(tmp_path / "home", [[1]], overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").exists()


def test_a_full_disk_is_reported_and_leaves_earlier_shards(small_disk):
    write(small_disk / "first", [range(1000)])
    with pytest.raises(OSError, match="no space left on device") as caught:
        write(small_disk / "second", [np.zeros(2_000_000)])
    assert "shard-00000.bin" in caught.value.filename
    assert [path.name for path in small_disk.iterdir()] == ["first"]
    assert Shards(small_disk / "first").num_tokens == 1000


def test_a_killed_writer_leaves_nothing_under_the_name_and_the_next_one_cleans_up(tmp_path):
    code = (
        "import os, sys, numpy as np; from tempa.data.shards import ShardWriter\n"
        f"writer = ShardWriter(sys.argv[1], {FINGERPRINT!r}, 1000)\n"
        "writer.add(np.arange(900, dtype=np.uint32), np.array([0, 900]))\n"
        "os.kill(os.getpid(), 9)"
    )
    target = tmp_path / "shards"
    assert subprocess.run([sys.executable, "-c", code, target], check=False).returncode == -9
    assert not target.exists()
    write(target, [[1, 2]])
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
