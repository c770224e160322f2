"""What a corpus holds: shard directories, tokenizers, samples and figures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempa.data.documents import Document
from tempa.data.shards import Shards, ShardWriter, write_shards
from tempa.data.survey import (
    PERCENTILES,
    byte_lengths,
    find_tokenizer,
    measure_documents,
    measure_shards,
    sample_documents,
    sample_shards,
    shard_directories,
)
from tempa.tokenizer import Tokenizer

TEXTS = ["one fox", "two foxes", "", "a ß"]


@pytest.fixture
def corpus(tmp_path):
    tokenizer = Tokenizer.from_characters("".join(TEXTS))
    for name in ("train/web", "train/code", "val"):
        write_shards(tmp_path / name, TEXTS, tokenizer)
    tokenizer.save(tmp_path / "tokenizer.json")
    return tmp_path


def test_shard_directories_are_found_by_name(corpus):
    assert shard_directories(corpus) == {name: corpus / name for name in ("train/code", "train/web", "val")}
    assert list(shard_directories(corpus / "train")) == ["code", "web"]
    assert list(shard_directories(corpus / "val")) == ["val"]
    (corpus / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no shards, that is no manifest\.json"):
        shard_directories(corpus / "empty")


def test_the_tokenizer_is_found_if_it_is_the_one_that_made_the_ids(corpus):
    shards = Shards(corpus / "train" / "web")
    found = find_tokenizer(shards)
    assert found is not None
    assert [found.decode(shards.document(i)) for i in range(4)] == [text + "<|endoftext|>" for text in TEXTS]
    (corpus / "train" / "tokenizer.json").write_text("{}")
    assert find_tokenizer(shards) is not None
    Tokenizer.from_characters("other").save(corpus / "tokenizer.json")
    assert find_tokenizer(shards) is None


@pytest.mark.parametrize("count", [0, 1, 5, 12, 20])
def test_a_sample_of_shards_is_without_repetition_and_a_function_of_the_seed(corpus, count):
    parts = {name: Shards(path) for name, path in shard_directories(corpus).items()}
    drawn = sample_shards(parts, count, seed=3)
    assert len(drawn) == len(set(drawn)) == min(count, 12)
    assert all(0 <= index < 4 for _, index in drawn)
    assert sample_shards(parts, count, seed=3) == drawn
    if count == 5:
        assert sample_shards(parts, count, seed=4) != drawn


def test_every_document_is_as_likely_to_be_drawn(corpus):
    parts = {name: Shards(path) for name, path in shard_directories(corpus).items()}
    counts = dict.fromkeys([(name, index) for name in parts for index in range(4)], 0)
    pages = [Document(str(key), "") for key in counts]
    of_documents = dict.fromkeys([page.text for page in pages], 0)
    for seed in range(1200):
        for place in sample_shards(parts, 3, seed=seed):
            counts[place] += 1
        for page in sample_documents(iter(pages), 3, seed=seed):
            of_documents[page.text] += 1
    for found in (counts, of_documents):  # 300 expected of each, standard deviation 15
        assert sum(found.values()) == 3600
        assert all(240 < count < 360 for count in found.values())


def test_figures_of_shards_are_those_one_counts(corpus):
    shards = Shards(corpus / "val")
    figures = measure_shards(shards, find_tokenizer(shards))
    assert (figures.num_documents, figures.num_tokens, figures.num_bytes) == (
        4,
        7 + 9 + 0 + 3 + 4,
        7 + 9 + 0 + 4,
    )
    assert figures.bytes_per_token == 20 / 23
    assert figures.unit == "tokens"
    assert figures.mean == 23 / 4
    assert figures.longest == 10
    assert figures.histogram == (0, 1, 0, 1, 2)  # lengths 1, 4, 8, 10
    assert figures.percentiles == (1, 1, 4, 8, 10)
    assert measure_shards(shards).bytes_per_token is None


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50))
def test_histogram_and_percentiles_are_of_the_lengths(lengths):
    figures = measure_documents(Document("x" * length, "") for length in lengths)
    assert sum(figures.histogram) == figures.num_documents == len(lengths)
    for place, count in enumerate(figures.histogram):
        assert count == sum(length.bit_length() == place for length in lengths)
    for percentile, length in zip(PERCENTILES, figures.percentiles, strict=True):
        assert length in lengths
        assert sum(each <= length for each in lengths) >= percentile / 100 * len(lengths)
    assert (figures.longest, figures.num_bytes) == (max(lengths), sum(lengths))


def test_domains_are_the_hosts_of_sources_that_are_urls():
    sources = ["https://www.a.org/1", "http://A.org:80/2", "https://b.org", "file.txt", "https://c.org/"]
    figures = measure_documents(Document("text", source) for source in sources)
    assert figures.domains == (("a.org", 2), ("b.org", 1), ("c.org", 1))
    with pytest.raises(ValueError, match="there are no documents"):
        measure_documents([])


def test_byte_lengths_are_those_of_the_text_and_zero_for_specials():
    tokenizer = Tokenizer.from_characters("aß")
    lengths = byte_lengths(tokenizer)
    assert lengths[tokenizer.encode("aß")].tolist() == [1, 2]
    assert not lengths[list(tokenizer.special_tokens.values())].any()


def test_long_shards_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("tempa.data.survey._AT_ONCE", 7)
    tokenizer = Tokenizer.from_characters("aß")
    with ShardWriter(tmp_path / "set", tokenizer.sha256, tokenizer.vocab_size, max_shard_tokens=10) as writer:
        writer.add(np.tile(tokenizer.encode("aß"), 25).astype(np.uint32), np.arange(0, 51, 5))
    assert measure_shards(Shards(tmp_path / "set"), tokenizer).num_bytes == 75
