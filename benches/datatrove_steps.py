"""datatrove's steps from a file of JSON lines to files of ids, as its FineWeb example puts them together.

Words are those of spaCy's English rules, which it takes if nothing is said, or what stands between white
space, which is the cheapest that its interface allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.word_tokenizers import WordTokenizer

# 128 hashes, in the bands that are ours too.
MINHASH = MinhashConfig(n_grams=5, num_buckets=16, hashes_per_bucket=8)
SENTENCE = re.compile(r"(?<=[.!?])\s+")


class Spaces(WordTokenizer):
    """Words are what stands between white space."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return SENTENCE.split(text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        ends = [*(match.end() for match in SENTENCE.finditer(text)), len(text)]
        return list(zip([0, *ends[:-1]], ends, strict=True))


def words_of(is_cheap: bool) -> str | WordTokenizer:
    return Spaces() if is_cheap else "eng_Latn"


def run(pipeline: list[Any], log: Path, tasks: int = 1) -> None:
    """One stage, in this process."""
    LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(log)).run()


def settle(directory: Path, documents: list[Any], is_cheap: bool) -> None:
    """Sign what the first steps read, and leave in `removed` which documents are duplicates."""
    signatures, pairs, removed = (str(directory / name) for name in ("signatures", "pairs", "removed"))
    sign = MinhashDedupSignature(signatures, MINHASH, language=words_of(is_cheap))
    run([*documents, sign], directory / "log-sign")
    run(
        [MinhashDedupBuckets(signatures, pairs, config=MINHASH)], directory / "log-pairs", MINHASH.num_buckets
    )
    run([MinhashDedupCluster(pairs, removed, MINHASH, save_cluster_id=True)], directory / "log-cluster")


def flags(texts: list[str], directory: Path) -> list[int]:
    """The places of texts that have a near duplicate."""

    def documents(*_: object, **__: object) -> Iterator[Document]:
        for i, text in enumerate(texts):
            yield Document(text=text, id=str(i))

    settle(directory, [documents], is_cheap=False)
    clusters = (directory / "removed" / "000000.clusters").read_bytes()
    return [int.from_bytes(clusters[at : at + 4], "little") for at in range(0, len(clusters), 8)]


def build(file: Path, directory: Path, tokenizer: Path, end: str, is_cheap: bool) -> tuple[int, int]:
    """Rules, near duplicates, ids; how many documents pass the rules, and how many are left."""
    words = words_of(is_cheap)
    good, ids = directory / "good", directory / "ids"
    filters = [
        GopherRepetitionFilter(language=words),
        GopherQualityFilter(language=words),
        C4QualityFilter(filter_no_terminal_punct=False, language=words),
        FineWebQualityFilter(language=words),
    ]
    read = JsonlReader(str(file.parent), glob_pattern=file.name)
    run([read, *filters, JsonlWriter(str(good), compression=None)], directory / "log-filter")
    settle(directory, [JsonlReader(str(good))], is_cheap)
    run(
        [
            JsonlReader(str(good)),
            MinhashDedupFilter(str(directory / "removed")),
            DocumentTokenizer(str(ids), str(tokenizer), eos_token=end, shuffle_documents=False),
        ],
        directory / "log-ids",
    )
    with (good / "00000.jsonl").open(encoding="utf-8") as lines:
        num_good = sum(1 for _ in lines)
    # The index has the end of each document, 8 bytes.
    return num_good, sum(path.stat().st_size for path in ids.glob("*.ds.index")) // 8
