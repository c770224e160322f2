"""Merging of shard directories: the same stream, nothing copied, nothing half-written."""

import numpy as np
import pytest

from tempa.data import merge
from tempa.data.merge import merge_shards
from tempa.data.shards import Shards, ShardWriter


def shard_directory(path, first, count, *, fingerprint="ab" * 32):
    with ShardWriter(path, fingerprint, 1000, max_shard_tokens=20) as writer:
        writer.add(np.arange(first, first + count, dtype=np.uint32), np.arange(0, count + 1, 5))
    return path


@pytest.fixture
def parts(tmp_path):
    return [shard_directory(tmp_path / "a", 0, 50), shard_directory(tmp_path / "b", 50, 30)]


def test_the_merged_stream_is_one_after_the_other(parts, tmp_path):
    shards = merge_shards(parts, tmp_path / "both")
    assert shards.tokens(0, 80).tolist() == list(range(80))
    assert shards.lengths().tolist() == [5] * 16
    again = merge_shards([tmp_path / "both", parts[0]], tmp_path / "more")
    assert again.tokens(70, 90).tolist() == [*range(70, 80), *range(10)]
    Shards(tmp_path / "more")  # checksums hold


def test_merged_files_take_no_space(parts, tmp_path):
    merge_shards(parts, tmp_path / "both")
    files = sorted((tmp_path / "both").glob("*.bin"))
    assert [file.name for file in files] == [f"shard-{i:05}.bin" for i in range(5)]
    assert all(file.stat().st_nlink == 2 for file in files)


def test_files_are_copied_where_they_cannot_be_linked(parts, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(merge.os, "link", refuse)
    merge_shards(parts, tmp_path / "both")
    assert Shards(tmp_path / "both").tokens(0, 80).tolist() == list(range(80))
    assert all(file.stat().st_nlink == 1 for file in (tmp_path / "both").glob("*.bin"))


def test_different_tokenizers_are_refused_by_name(parts, tmp_path):
    other = shard_directory(tmp_path / "other", 0, 10, fingerprint="cd" * 32)
    with pytest.raises(
        ValueError, match=r"other: .* by tokenizer cdcdcdcdcdcd, those of .*a by abababababab"
    ):
        merge_shards([*parts, other], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_damaged_part_leaves_what_was_there(parts, tmp_path):
    merge_shards(parts[:1], tmp_path / "both")
    file = next(parts[1].glob("*.bin"))
    content = bytearray(file.read_bytes())
    content[130] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=file.name):
        merge_shards(parts, tmp_path / "both", overwrite=True)
    assert Shards(tmp_path / "both").num_tokens == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "both"]


def test_a_failure_on_the_way_leaves_nothing(parts, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merge, "save_json", fail)
    with pytest.raises(OSError, match="No space left"):
        merge_shards(parts, tmp_path / "both")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_shards_are_replaced_only_on_request(parts, tmp_path):
    merge_shards(parts, tmp_path / "both")
    with pytest.raises(FileExistsError, match="exists already"):
        merge_shards(parts, tmp_path / "both")
    assert merge_shards([tmp_path / "both", *parts], tmp_path / "both", overwrite=True).num_tokens == 160
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_shards([], tmp_path / "none")
