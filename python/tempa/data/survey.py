"""What a corpus holds: the shard directories in it, random documents, and figures.

Shards keep ids alone: texts need the tokenizer, which is found beside the shards or above them, and where
documents came from is known for document files only.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.data.documents import Document
from tempa.data.mixture import MANIFEST
from tempa.data.shards import Shards
from tempa.tokenizer import Tokenizer

# Random stream of the documents that are sampled.
_SAMPLE = int.from_bytes(b"sample__", "big")
# Ids looked up at once.
_AT_ONCE = 1 << 20
PERCENTILES = (5, 25, 50, 75, 95)
TOP_DOMAINS = 10


@dataclass(frozen=True)
class Figures:
    """How much there is, and how long documents are.

    Attributes:
        num_documents: Documents.
        num_tokens: Ids; None for document files.
        num_bytes: Bytes of text in UTF-8; None for shards without their tokenizer.
        unit: What lengths count: tokens or bytes.
        mean, longest: Of the lengths.
        percentiles: Length at each of `PERCENTILES`.
        histogram: Documents of 0, 1, 2 to 3, 4 to 7, ... units.
        domains: The most frequent hosts of document sources that are URLs, with their numbers of documents.
    """

    num_documents: int
    num_tokens: int | None
    num_bytes: int | None
    unit: str
    mean: float
    longest: int
    percentiles: tuple[int, ...]
    histogram: tuple[int, ...]
    domains: tuple[tuple[str, int], ...] = ()

    @property
    def bytes_per_token(self) -> float | None:
        """How much text a token stands for."""
        return self.num_bytes / self.num_tokens if self.num_bytes and self.num_tokens else None


def shard_directories(directory: str | Path) -> dict[str, Path]:
    """The shard directories that a directory is, or has up to two levels below: `train`, `val/web`, ...

    Returns:
        Name -> directory; the name of a shard directory itself is its own.

    Raises:
        FileNotFoundError: If there is none.
    """
    directory = Path(directory)
    if (directory / MANIFEST).is_file():
        return {directory.resolve().name: directory}
    levels = ("[!.]*", "[!.]*/[!.]*")
    found = [path.parent for level in levels for path in directory.glob(f"{level}/{MANIFEST}")]
    if not found:
        raise FileNotFoundError(f"{directory}: no shards, that is no {MANIFEST} in it or below")
    return {path.relative_to(directory).as_posix(): path for path in sorted(found)}


def find_tokenizer(shards: Shards) -> Tokenizer | None:
    """The tokenizer that made the ids: a `tokenizer.json` with the shards or up to three levels above."""
    directory = shards.directory.resolve()
    for place in (directory, *directory.parents[:3]):
        if (place / "tokenizer.json").is_file():
            try:
                tokenizer = Tokenizer.load(place)
            except ValueError:  # of a kind that makes no shards
                continue
            if tokenizer.sha256 == shards.fingerprint:
                return tokenizer
    return None


def sample_shards(parts: Mapping[str, Shards], count: int, *, seed: int = 0) -> list[tuple[str, int]]:
    """Documents drawn at random from several shard directories together, none twice.

    Returns:
        (name of the shards, number of the document in them), in random order; all if there are fewer.

    >>> import tempfile
    >>> from tempa.data.shards import ShardWriter
    >>> with ShardWriter(Path(tempfile.mkdtemp(), "three"), "ab" * 32, vocab_size=10) as writer:
    ...     writer.add(np.array([1, 2, 3], np.uint32), np.array([0, 1, 2, 3]))
    >>> sorted(sample_shards({"numbers": Shards(writer.directory)}, 5))
    [('numbers', 0), ('numbers', 1), ('numbers', 2)]
    """
    names = list(parts)
    starts = np.cumsum([0, *(shards.num_documents for shards in parts.values())])
    total = int(starts[-1])
    places: dict[int, None] = {}
    bits = _bits(seed)
    while len(places) < min(count, total):
        places.setdefault(next(bits) % total)
    of = np.searchsorted(starts, list(places), side="right") - 1
    return [(names[i], place - int(starts[i])) for i, place in zip(of.tolist(), places, strict=True)]


def sample_documents(documents: Iterable[Document], count: int, *, seed: int = 0) -> list[Document]:
    """Documents drawn at random in one pass, in random order; `count` are in memory.

    >>> pages = [Document(str(i), f"page {i}") for i in range(100)]
    >>> len({page.text for page in sample_documents(pages, 3)})
    3
    """
    keyed = zip(_bits(seed), itertools.count(), documents, strict=False)
    return [document for _, _, document in heapq.nsmallest(count, keyed)]


def measure_shards(shards: Shards, tokenizer: Tokenizer | None = None) -> Figures:
    """Documents, tokens, bytes and lengths in tokens of a shard directory.

    Args:
        shards: What to measure.
        tokenizer: Tells the bytes of a token.
    """
    num_bytes = None
    if tokenizer is not None:
        bytes_of = byte_lengths(tokenizer)
        starts = range(0, shards.num_tokens, _AT_ONCE)
        pieces = (shards.tokens(start, min(start + _AT_ONCE, shards.num_tokens)) for start in starts)
        num_bytes = sum(int(bytes_of[piece].sum()) for piece in pieces)
    return _figures(shards.lengths(), "tokens", num_tokens=shards.num_tokens, num_bytes=num_bytes)


def measure_documents(documents: Iterable[Document]) -> Figures:
    """Documents, bytes, lengths in bytes, and the hosts of sources that are URLs.

    >>> measure_documents([Document("ab", "ftp://a.org/1"), Document("", "b.txt")]).domains
    (('a.org', 1),)
    """
    lengths: list[int] = []
    hosts: Counter[str] = Counter()
    for document in documents:
        lengths.append(len(document.text.encode("utf-8", "surrogatepass")))
        if "://" in document.source:
            hosts[(urlsplit(document.source).hostname or "").removeprefix("www.")] += 1
    domains = sorted(hosts.items(), key=lambda item: (-item[1], item[0]))[:TOP_DOMAINS]
    return _figures(np.array(lengths, np.int64), "bytes", num_bytes=sum(lengths), domains=tuple(domains))


def _bits(seed: int) -> Iterator[int]:
    for start in itertools.count(0, 1024):
        yield from _core.random_bits(seed, _SAMPLE, start, 1024).tolist()


def byte_lengths(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """(vocab_size,) bytes of text that each token stands for; 0 for specials."""
    special = set(tokenizer.special_tokens.values())
    lengths = [0 if i in special else len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    return np.array(lengths, dtype=np.int64)


def _figures(
    lengths: NDArray[np.int64],
    unit: str,
    *,
    num_tokens: int | None = None,
    num_bytes: int | None = None,
    domains: tuple[tuple[str, int], ...] = (),
) -> Figures:
    if not len(lengths):
        raise ValueError("there are no documents")
    # The number of bits of a length is its place in the histogram.
    bits = np.frexp(lengths)[1]
    return Figures(
        num_documents=len(lengths),
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        unit=unit,
        mean=float(lengths.mean()),
        longest=int(lengths.max()),
        percentiles=tuple(np.percentile(lengths, PERCENTILES, method="inverted_cdf").astype(int).tolist()),
        histogram=tuple(np.bincount(bits).tolist()),
        domains=domains,
    )
