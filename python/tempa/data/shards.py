"""Token shards: a directory of memory-mapped files that hold the ids of tokenised documents.

A directory appears complete or not at all. Opening it checks sizes, boundaries and checksums, so training
never reads ids that were truncated, altered or made by another tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.tokenizer import END_OF_TEXT, Tokenizer
from tempa.tokenizer.training import in_batches

# Ids as they lie in the file: uint16 for vocabularies of at most 65,536 entries, else uint32.
Ids = NDArray[np.uint16 | np.uint32]


class Shards:
    """The documents and the token stream of a shard directory, read in place.

    Args:
        directory: A directory that `ShardWriter` or `tempa data build` made.
        tokenizer_fingerprint: Fail unless this tokenizer (its `sha256`) made the ids.
        verify: Read every byte once and compare checksums; about 5 GB/s where the files are cached.
        progress: Called with the bytes verified so far.

    Raises:
        FileNotFoundError: If the directory or one of its files is missing.
        ValueError: If a file is truncated, altered, foreign, or of another tokenizer.

    >>> import tempfile
    >>> with ShardWriter(Path(tempfile.mkdtemp(), "two"), "ab" * 32, vocab_size=10) as writer:
    ...     writer.add(np.array([1, 2, 3], np.uint32), np.array([0, 2, 3]))
    >>> shards = Shards(writer.directory)
    >>> shards.num_documents, shards.document(0), shards.tokens(1, 3)
    (2, array([1, 2], dtype=uint16), array([2, 3], dtype=uint16))
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        tokenizer_fingerprint: str | None = None,
        verify: bool = True,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._shards = _core.Shards(self.directory)
        if tokenizer_fingerprint is not None:
            self._shards.check_tokenizer(tokenizer_fingerprint)
        if verify:
            self._shards.verify(progress)

    @property
    def num_tokens(self) -> int:
        """Ids in the stream."""
        return self._shards.num_tokens

    @property
    def num_documents(self) -> int:
        """Documents in the stream."""
        return self._shards.num_documents

    @property
    def vocab_size(self) -> int:
        """Every id is below it."""
        return self._shards.vocab_size

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer that made the ids."""
        return self._shards.fingerprint

    def document(self, index: int) -> Ids:
        """The ids of one document, a read-only view of the file.

        Raises:
            ValueError: If there is no such document.
        """
        return self._shards.document(_not_negative(index, "document"))

    def tokens(self, start: int, stop: int) -> Ids:
        """The ids `start` to `stop` of the stream: a read-only view, or a copy where they span two files.

        Raises:
            ValueError: If the range is not within the stream.
        """
        pieces = self._shards.tokens(_not_negative(start, "start"), _not_negative(stop, "stop"))
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else self._shards.document(0)[:0]

    def offsets(self) -> NDArray[np.int64]:
        """Where documents begin and end in the stream, `num_documents + 1` positions."""
        return self._shards.offsets()

    def lengths(self) -> NDArray[np.int64]:
        """Ids in each document."""
        return np.diff(self.offsets())

    def __repr__(self) -> str:
        return f"Shards({str(self.directory)!r}: {self.num_documents} documents, {self.num_tokens} tokens)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.directory,)


class ShardWriter:
    """Writes a shard directory, which appears under its name when the `with` block ends without an error.

    Args:
        directory: Where the shards go. Its parent directories are made.
        tokenizer_fingerprint: `sha256` of the tokenizer that makes the ids.
        vocab_size: Every id must be below it.
        max_shard_tokens: A file is closed at the first document that reaches this many ids.
        overwrite: Replace a shard directory of the same name.

    Raises:
        ValueError: If the directory exists and may not be replaced, or an argument is out of range.
    """

    def __init__(
        self,
        directory: str | Path,
        tokenizer_fingerprint: str,
        vocab_size: int,
        *,
        max_shard_tokens: int = 1 << 27,
        overwrite: bool = False,
    ) -> None:
        self.directory = Path(directory)
        self.num_documents = 0
        self.num_tokens = 0
        self._writer = _core.ShardWriter(
            self.directory, tokenizer_fingerprint, vocab_size, max_shard_tokens, overwrite
        )

    def add(self, ids: NDArray[np.uint32], offsets: NDArray[np.int64]) -> None:
        """Append documents: document `i` is `ids[offsets[i]:offsets[i + 1]]`.

        Raises:
            ValueError: If an id is not below the vocabulary size or the offsets do not fit the ids.
            OSError: If the disk refuses, with the name of the file.
        """
        self._writer.add(ids, offsets)
        self.num_documents += len(offsets) - 1
        self.num_tokens += len(ids)

    def encode(
        self,
        tokenizer: Tokenizer,
        texts: Sequence[str],
        *,
        end_id: int | None = None,
        num_threads: int | None = None,
    ) -> int:
        """Append texts as `Tokenizer.encode_batch` encodes them, without arrays on the way to the file.

        Args:
            tokenizer: The one whose `sha256` the writer was given.
            texts: Whole documents, as many as may have their ids in memory at once.
            end_id: An id to put after each document.
            num_threads: One for each processor when None. The files are the same.

        Returns:
            Bytes of the texts in UTF-8.

        Raises:
            ValueError: If the shards are for another tokenizer or a text cannot be encoded; nothing of this
                call is written then.
            OSError: If the disk refuses, with the name of the file.
        """
        num_tokens, num_bytes = self._writer.encode(tokenizer._core, texts, end_id, num_threads)
        self.num_documents += len(texts)
        self.num_tokens += num_tokens
        return num_bytes

    def finish(self) -> None:
        """Write everything to disk and put the directory under its name.

        Raises:
            ValueError: If no document was added.
            OSError: If the disk refuses; what was there before stays.
        """
        self._writer.finish()

    def abort(self) -> None:
        """Remove what has been written so far."""
        self._writer.abort()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.abort()


def write_shards(
    directory: str | Path,
    texts: Iterable[str],
    tokenizer: Tokenizer,
    *,
    end_token: str | None = None,
    max_shard_tokens: int = 1 << 27,
    num_threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Shards:
    """Encode documents into a shard directory. Text never becomes a special token.

    Args:
        directory: Where the shards go.
        texts: Whole documents; read once, a few megabytes at a time, and not kept.
        tokenizer: Makes the ids.
        end_token: The special token that ends each document; when None, `<|endoftext|>` if the tokenizer has
            it.
        max_shard_tokens: See `ShardWriter`.
        num_threads: One for each processor when None. The files are the same.
        overwrite: Replace a shard directory of this name.
        progress: Called with the bytes of text done so far.

    Raises:
        ValueError: If there is no text, the tokenizer does not know a character or the end token, or the
            directory exists and may not be replaced.
        OSError: If the disk refuses; nothing has changed then.

    >>> import tempfile
    >>> tokenizer = Tokenizer.from_characters("abc")
    >>> shards = write_shards(Path(tempfile.mkdtemp(), "two"), ["cab", "bb"], tokenizer)
    >>> shards.document(0), tokenizer.eot_id
    (array([2, 0, 1, 3], dtype=uint16), 3)
    """
    specials = tokenizer.special_tokens
    if end_token is not None and end_token not in specials:
        raise ValueError(f"no special token {end_token!r}; the tokenizer has {', '.join(specials) or 'none'}")
    end, done = specials.get(end_token or END_OF_TEXT), 0
    with ShardWriter(
        directory,
        tokenizer.sha256,
        tokenizer.vocab_size,
        max_shard_tokens=max_shard_tokens,
        overwrite=overwrite,
    ) as writer:
        for batch in in_batches(texts):
            done += writer.encode(tokenizer, batch, end_id=end, num_threads=num_threads)
            if progress:
                progress(done)
    return Shards(directory, verify=False)


def _reopen(directory: Path) -> Shards:
    # The process that pickled the shards has verified them.
    return Shards(directory, verify=False)


def _not_negative(value: int, name: str) -> int:
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")
    return value
