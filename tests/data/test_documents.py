"""Reading documents: what counts as one, and what each kind of bad input says."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempa.data.documents import Document, corpus_files, read_documents


def texts(*args, **kwargs):
    return [document.text for document in read_documents(*args, **kwargs)]


def test_a_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("first\r\nsécond".encode())
    assert list(read_documents(path)) == [Document("first\r\nsécond", str(path))]


def test_a_directory_is_read_in_sorted_order_and_other_files_are_ignored(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("b")
    (tmp_path / "c.jsonl").write_text('{"text": "c1"}\n\n{"text": "c2"}\n')
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "readme.md").write_text("no")
    assert texts(tmp_path) == ["a", "c1", "c2", "b"]
    assert [path.name for path in corpus_files([tmp_path])] == ["a.txt", "c.jsonl", "b.txt"]


def test_a_pattern_stands_for_its_matches_in_order(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b-2.txt", "a-1.txt", "b-1.txt", "below/b-3.txt"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    assert [path.name for path in corpus_files(tmp_path / "b-*.txt")] == ["b-1.txt", "b-2.txt"]
    assert [path.name for path in corpus_files(tmp_path / "**" / "b-[13].txt")] == ["b-1.txt", "b-3.txt"]
    with pytest.raises(FileNotFoundError, match=r"c-\*.txt"):
        corpus_files(tmp_path / "c-*.txt")


def test_sources_name_line_and_row_counted_from_one(tmp_path):
    lines, table = tmp_path / "a.jsonl", tmp_path / "b.parquet"
    lines.write_text('\n{"text": "x"}')
    pq.write_table(pa.table({"text": ["y", "z"], "id": [1, 2]}), table)
    assert [d.source for d in read_documents([lines, table])] == [f"{lines}:2", f"{table}:1", f"{table}:2"]


def test_parquet_text_of_any_string_type_is_read(tmp_path):
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary()):
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table({"body": pa.array(["ä", ""]).cast(kind)}), path)
        assert texts(path, field="body") == ["ä", ""]


def test_byte_order_marks_are_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhi")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "ho"}')
    assert texts(tmp_path) == ["hi", "ho"]


def test_progress_adds_up_to_the_bytes_of_the_files(tmp_path):
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n\n')
    seen = []
    texts(tmp_path, progress=seen.append)
    assert sum(seen) == sum(path.stat().st_size for path in corpus_files(tmp_path))


LINES = "".join(json.dumps({"text": f"document {i} " * 40}) + "\n" for i in range(3000)).encode()


def compressed(data, suffix):
    if suffix == ".gz":
        return gzip.compress(data, mtime=0)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_hold_the_documents_that_plain_ones_hold(tmp_path, suffix):
    half = LINES.index(b"\n", len(LINES) // 2) + 1
    (tmp_path / "plain.jsonl").write_bytes(LINES)
    members = compressed(LINES[:half], suffix) + compressed(LINES[half:], suffix)
    (tmp_path / f"packed.jsonl{suffix}").write_bytes(members)
    (tmp_path / f"packed.txt{suffix}").write_bytes(compressed("naïve\r\n".encode(), suffix))
    (tmp_path / f"packed.parquet{suffix}").write_bytes(b"is compressed inside")
    plain, packed = texts(tmp_path / "plain.jsonl"), texts(tmp_path / f"packed.jsonl{suffix}")
    assert packed == plain
    assert texts(tmp_path) == [*plain, "naïve\r\n", *plain]
    found = list(read_documents(tmp_path / f"packed.jsonl{suffix}"))
    assert found[2].source == f"{tmp_path}/packed.jsonl{suffix}:3"
    seen = []
    texts(tmp_path, progress=seen.append)
    assert sum(seen) == sum(path.stat().st_size for path in corpus_files(tmp_path))
    with pytest.raises(ValueError, match=rf"packed.parquet{suffix}: cannot tell its format from its name"):
        read_documents(tmp_path / f"packed.parquet{suffix}")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damage_in_the_last_compressed_file_is_named_before_the_first_document(tmp_path, suffix):
    good, path = compressed(LINES, suffix), tmp_path / f"z.jsonl{suffix}"
    (tmp_path / "a.jsonl").write_bytes(LINES)
    altered = bytearray(good)
    altered[len(good) // 2] ^= 0xFF
    wrong = [
        good[:5],
        good[: len(good) // 2],
        good[:-1],
        b'{"text": "plain"}',
        good + good[:-3],
        good + b"more",
    ]
    for data in [*wrong, bytes(altered)]:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"truncated or altered at or before byte [\d,]+ of") as caught:
            next(read_documents(tmp_path))
        assert str(caught.value).startswith(f"{path}: ")
        assert f"of {len(data):,}: " in str(caught.value)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"z.jsonl{suffix}: 0 bytes are no \w+ file"):
        next(read_documents(tmp_path))


def test_what_compressed_bytes_are_not_is_an_error_as_in_plain_files(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "fine"}\n{"text": \n'))
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz:2: not JSON"):
        texts(path)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"\xff"))
    with pytest.raises(ValueError, match=r"b\.txt\.gz: not UTF-8: byte 0xff at offset 0"):
        texts(tmp_path / "b.txt.gz")


def test_a_line_of_100_mb_is_one_document(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * 100_000_000 + b'"}')
    assert [len(text) for text in texts(path)] == [100_000_000]


def test_paths_are_checked_before_the_first_document(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read_documents(tmp_path / "none.txt")
    assert caught.value.filename == str(tmp_path / "none.txt")
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(ValueError, match=r"a\.csv: cannot tell its format"):
        read_documents(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"no \.txt, \.jsonl, \.parquet file"):
        read_documents(tmp_path)
    with pytest.raises(ValueError, match="no files given"):
        read_documents([])


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", b""), ("a.jsonl", b"\n\n"), ("b.jsonl", b'{"text": ""}')]
)
def test_an_empty_corpus_is_an_error_that_names_the_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: the corpus is empty"):
        texts(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', "not JSON: .* at character"),
        (b"[1]", "expected an object with field 'text', got a list"),
        (b'{"body": "a", "id": 1}', "no field 'text'; the fields are body, id"),
        (b'{"text": 3}', "'text' should be a string, got int"),
        (b'{"text": "a\xff"}', r"not UTF-8: byte 0xff at offset 11"),
        (b'{"text": "\\ud800"}', "'text' has an unpaired surrogate"),
        (b"[" * 200_000, "JSON is nested too deeply"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=rf"a\.jsonl:2: ({message})"):
        texts(path)


def test_invalid_utf8_is_replaced_on_request(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\xffb")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "c\xe2\x82d"}\n{"text": "\\ud800e\\ud83d\\ude00"}')
    assert texts(tmp_path, errors="replace") == ["a\ufffdb", "c\ufffdd", "\ufffde\U0001f600"]
    with pytest.raises(ValueError, match=r"a\.txt: not UTF-8: byte 0xff at offset 1;"):
        texts(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="errors must be"):
        read_documents(tmp_path, errors="ignore")


def test_bad_parquet_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 this is not a table")
    with pytest.raises(ValueError, match=r"a\.parquet: not a Parquet file"):
        texts(path)
    pq.write_table(pa.table({"body": ["a"]}), path)
    with pytest.raises(ValueError, match=r"a\.parquet: no column 'text'; the columns are body"):
        texts(path)
    pq.write_table(pa.table({"text": pa.array([b"\xff"])}), path)
    with pytest.raises(ValueError, match=r"a\.parquet:1: not UTF-8"):
        texts(path)
    pq.write_table(pa.table({"text": ["a", None]}), path)
    with pytest.raises(ValueError, match=r"a\.parquet:2: 'text' is null"):
        texts(path)


def test_json_lines_that_hold_line_separators_stay_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a\u2028b\x0bc"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert texts(path) == ["a\u2028b\x0bc"]
