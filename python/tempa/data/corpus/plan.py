"""The plan of a build: which stretch of which file is in which partition.

It depends on the names and sizes of the files, on the settings, and on what the lists and models hold that
settings name. It is written down before work begins: a build that was interrupted goes on by the same plan or
not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tempa import config
from tempa.data.compressed import CODECS, format_of
from tempa.data.corpus.config import BuildConfig, Source, Steps
from tempa.data.documents import SUFFIXES, corpus_files
from tempa.data.html import extractor

# What a build reads: documents, and web archives.
FORMATS = (*SUFFIXES, ".wet", ".warc")
# To be raised when the same settings give other shards than before.
VERSION = 1
# What a compressed file is taken to unpack to.
_UNPACKED = 4
# Until the end of the file.
WHOLE = (1 << 63) - 1

# A file, its first byte and the one after the last line's start; rows for a Parquet table.
Stretch = tuple[str, int, int]


@dataclass(frozen=True)
class Partition:
    """One piece of work: some files, or a stretch of one, of one source."""

    source: int
    stretches: tuple[Stretch, ...]
    num_bytes: int

    @property
    def is_table(self) -> bool:
        """Whether it is part of a Parquet file."""
        return format_of(Path(self.stretches[0][0])) == ".parquet"


@dataclass(frozen=True)
class Plan:
    """All partitions, in the order of the corpus."""

    sources: tuple[Source, ...]
    steps: Steps
    tokenizer: str
    max_document_bytes: int
    partitions: tuple[Partition, ...]
    extractor: str | None = None
    aids: tuple[str, ...] = ()
    """SHA-256 of each file of `Steps.aids`."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(partition.num_bytes for partition in self.partitions)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values: two builds with equal plans make equal shards."""
        return {
            "version": VERSION,
            "tokenizer": self.tokenizer,
            "max_document_bytes": self.max_document_bytes,
            "steps": config.to_dict(self.steps),
            "aids": list(self.aids),
            "extractor": self.extractor,
            "sources": [config.to_dict(source) for source in self.sources],
            "partitions": [asdict(partition) for partition in self.partitions],
        }

    def sha256(self) -> str:
        """Names the plan."""
        return hashlib.sha256(json.dumps(self.to_dict()).encode()).hexdigest()


def make_plan(settings: BuildConfig, tokenizer_sha256: str) -> Plan:
    """Plan a build.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file's format is not known.
        ModuleNotFoundError: If text of HTML is wanted and resiliparse is not installed.
    """
    partitions = [
        partition
        for number, source in enumerate(settings.all_sources())
        for partition in _partitions(number, source, settings.partition_bytes)
    ]
    return Plan(
        settings.all_sources(),
        settings.steps(),
        tokenizer_sha256,
        settings.max_document_bytes,
        tuple(partitions),
        extractor() if any(source.html for source in settings.all_sources()) else None,
        tuple(_sha256(Path(aid)) for aid in settings.steps().aids()),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _partitions(number: int, source: Source, most: int) -> Iterator[Partition]:
    together: list[Stretch] = []
    weight = num_bytes = 0

    def gathered() -> Iterator[Partition]:
        nonlocal weight, num_bytes
        if together:
            yield Partition(number, tuple(together), num_bytes)
        together.clear()
        weight = num_bytes = 0

    for file in corpus_files(source.files, suffixes=FORMATS):
        size, kind = file.stat().st_size, format_of(file)
        is_packed = file.suffix in CODECS
        if kind == ".parquet":
            yield from gathered()
            yield from _table_partitions(number, file, most)
        elif kind != ".jsonl" or is_packed or size <= most:
            if together and weight + size > most:
                yield from gathered()
            together.append((str(file), 0, WHOLE))
            weight += size * (_UNPACKED if is_packed else 1)
            num_bytes += size
            if weight >= most:
                yield from gathered()
        else:
            yield from gathered()
            for start in range(0, size, most):
                end = min(start + most, size)
                last = WHOLE if end == size else end
                yield Partition(number, ((str(file), start, last),), end - start)
    yield from gathered()


def _table_partitions(number: int, file: Path, most: int) -> Iterator[Partition]:
    """Row groups of a table that together have about as many bytes as a partition."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(file)
    except (pa.ArrowException, OSError):
        # The reader says what is wrong with it.
        yield Partition(number, ((str(file), 0, WHOLE),), file.stat().st_size)
        return
    first = size = 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).total_byte_size
        if size >= most or group == metadata.num_row_groups - 1:
            yield Partition(number, ((str(file), first, group + 1),), size)
            first, size = group + 1, 0
