"""Traps of deduplication that other tools fell into (list B5), one test each.

Those of B5 that are elsewhere, in test_duplicates.py: `test_the_s_curve_is_the_formula`,
`test_recall_is_that_of_the_s_curve_and_precision_is_one` and
`test_short_and_unspaced_texts_neither_all_collide_nor_all_vanish`; in test_pieces.py:
`test_stretches_are_cut_between_characters`; in test_build.py, for corruption after a restart:
`test_a_build_that_is_killed_goes_on_and_gives_the_same_shards` and
`test_a_damaged_work_directory_is_mended_and_one_of_another_build_refused`.
"""

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempa import _core
from tempa.data.documents import Document, read_documents, write_documents
from tempa.data.duplicates import Duplicates, dedup, write_index
from tempa.data.pieces import Pieces

ONLY_NEAR = Duplicates(exact=False)


def sentence(seed, num_words=80):
    return " ".join(f"w{i}" for i in np.random.default_rng(seed).integers(0, 5000, num_words))


def documents(texts):
    return [Document(text, str(i)) for i, text in enumerate(texts)]


def kept_texts(texts, settings=ONLY_NEAR):
    return [document.text for document in dedup(documents(texts), settings)]


def in_process(code, threads="2"):
    environment = {**os.environ, "RAYON_NUM_THREADS": threads}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    return done.stdout.decode()


def test_trap_b5_a_cluster_of_thousands_takes_little_memory_and_no_hours():
    """B5: memory when clusters are collected, and hours of clustering on one core."""
    pytest.importorskip("resource", reason="getrusage of POSIX")
    code = (
        "import resource, time\n"
        "from tempa import _core\n"
        "from tempa.data.duplicates import Duplicates\n"
        "page = ' '.join(f'w{i}' for i in range(100))\n"
        "texts = [f'{page} x{i}' for i in range(20_000)]\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, start = peak(), time.process_time()\n"
        "first, cluster = _core.near_duplicates(texts, Duplicates().options())\n"
        "assert not first.any() and not cluster.any()\n"
        "print((peak() - before) * 1024, time.process_time() - start)\n"
    )
    num_bytes, seconds = map(float, in_process(code).split())
    # 2 bytes a hash and 12 more, as the manual says, and what a process needs anyway.
    assert num_bytes < 20_000 * (2 * 128 + 12) * 2 + (32 << 20)
    assert seconds < 20


def test_trap_b5_one_of_each_cluster_is_kept():
    """B5: tools that remove all copies instead of all but one."""
    pages = [sentence(i) for i in range(20)]
    texts = [f"{page} copy {i}" for i in range(3) for page in pages]
    assert kept_texts(texts) == texts[:20]


def test_trap_b5_the_kept_document_is_the_same_in_any_order():
    """B5: a choice that cannot be reproduced."""
    texts = [f"{sentence(i)} {'more ' * j}" for i in range(30) for j in range(4)]
    kept = set(kept_texts(texts, Duplicates(keep="longest")))
    assert len(kept) == 30
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(texts))
        assert set(kept_texts([texts[i] for i in order], Duplicates(keep="longest"))) == kept


def test_trap_b5_duplicates_can_be_marked_instead_of_dropped():
    """B5: annotate or remove."""
    texts = [sentence(0), sentence(1), sentence(0) + " again"]
    first, cluster = _core.near_duplicates(texts, ONLY_NEAR.options())
    assert first.tolist() == cluster.tolist() == [0, 1, 0]


def test_trap_b5_the_unit_is_stated_and_an_index_keeps_its_own(tmp_path):
    """B5: rates that differ between tools because the words differ."""
    texts = [sentence(0), sentence(0).upper()]
    assert kept_texts(texts) == texts[:1]
    assert kept_texts(texts, Duplicates(exact=False, unit="runs")) == texts
    for unit, count in (("words", 0), ("runs", 1)):
        path = tmp_path / unit
        write_index(documents(texts[:1]), path, Duplicates(unit=unit))
        # Whatever the later crawl says, it is compared by the units of the file.
        later = Duplicates(against=(path,), exact=False, near=False, unit="characters")
        assert len(dedup(documents(texts[1:]), later)) == count


def test_trap_b5_an_index_grows_by_files_that_stay_as_they_are(tmp_path):
    """B5: an index that grows, and data sets that are compared with one that nobody may write."""
    paths = [tmp_path / f"crawl{i}.index" for i in range(2)]
    for i, path in enumerate(paths):
        write_index(documents([sentence(i)]), path)
        path.chmod(0o444)
    before = [path.read_bytes() for path in paths]
    kept = kept_texts([sentence(i) for i in range(3)], Duplicates(against=tuple(paths)))
    assert kept == [sentence(2)]
    assert [path.read_bytes() for path in paths] == before


def test_trap_b5_an_index_of_another_version_is_refused_by_name(tmp_path):
    """B5: signatures are not portable between versions, which must not pass unnoticed."""
    path = tmp_path / "old.index"
    write_index(documents([sentence(0)]), path)
    data = bytearray(path.read_bytes())
    data[8] += 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"old\.index: version 2 where 1 was expected"):
        dedup([], Duplicates(against=(path,)))


def test_trap_b5_parquet_json_lines_and_zst_hold_the_same_documents(tmp_path):
    """B5: Parquet, JSON lines and Zstandard."""
    texts = [sentence(i % 7) for i in range(20)]
    write_documents(tmp_path / "a.jsonl", documents(texts))
    for suffix, codec in ((".zst", "zstd"), (".gz", "gzip")):
        with pa.CompressedOutputStream(tmp_path / f"a.jsonl{suffix}", codec) as file:
            file.write((tmp_path / "a.jsonl").read_bytes())
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    for file in sorted(tmp_path.iterdir()):
        assert [document.text for document in dedup(read_documents(file))] == texts[:7], file.name


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(" ", "\n\n \t"),
        lambda text: f"\n {text} \n",
        str.upper,
        lambda text: text.replace("é", "e\u0301"),
        lambda text: text.replace(" ", ", "),
        lambda text: f"-- {text.replace(' ', ' - ')}!",
    ],
    ids=["white space", "around it", "case", "composition", "punctuation", "words without letters"],
)
def test_trap_b5_spelling_does_not_count(change):
    """B5: white space, case, NFC and punctuation; empty words that shift all shingles."""
    text = sentence(0).replace("w1", "é1")
    assert kept_texts([text, change(text)]) == [text]


def test_trap_b5_chains_do_not_swallow_what_is_not_alike():
    """B5: a is like b and b like c, but c is not like a."""
    words = [f"w{i}" for i in range(400)]
    texts = [" ".join(words[start : start + 100]) for start in range(0, 300, 5)]
    shingles = [set(_core.shingle_set(text, "words", 5).tolist()) for text in texts]
    first, cluster = _core.near_duplicates(texts, Duplicates(bands=64, rows=3).options())
    assert (cluster == 0).all()
    assert 10 < (first == np.arange(len(texts))).sum() < len(texts)
    for i, j in enumerate(first):
        assert len(shingles[i] & shingles[j]) / len(shingles[i] | shingles[j]) >= 0.8


def test_trap_b5_equal_band_keys_of_unlike_texts_are_no_duplicates():
    """B5: narrow band keys collide; here thousands of them do, as a key is one entry of 16 bits."""
    texts = [sentence(i, 40) for i in range(1500)]
    assert kept_texts(texts, Duplicates(exact=False, bands=256, rows=1)) == texts


@pytest.mark.parametrize("capacity", [0, 5000])
def test_trap_b5_the_first_piece_in_order_survives_for_any_number_of_threads(capacity):
    """B5: parallel insertion into a Bloom filter makes it a matter of luck which copy stays."""
    code = (
        "from tempa.data.pieces import Pieces\n"
        "lines = lambda i: '\\n'.join(f'the line of number {(i * j) % 997}' for j in range(40))\n"
        "texts = [lines(i) for i in range(400)]\n"
        f"kept, counts = Pieces(min_bytes=1, capacity={capacity}, false_positives=1e-9).seen().drop(texts)\n"
        "print(kept, counts.tolist())\n"
    )
    one, five = in_process(code, "1"), in_process(code, "5")
    assert one == five
    kept, _ = Pieces(min_bytes=1, capacity=capacity).seen().drop(["a line\nb line", "b line\nc line"])
    assert kept == [None, "c line"]
