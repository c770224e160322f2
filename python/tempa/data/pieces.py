"""Lines, paragraphs and stretches of bytes that other documents have too: menus, footers, licences.

The first copy, in the order of the documents, is kept, whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tempa import _core
from tempa.data.documents import Document, in_batches
from tempa.data.funnel import FunnelReport, Stage, utf8_bytes


@dataclass(frozen=True)
class Pieces:
    """Which pieces of documents are dropped when they come again.

    Pieces are compared byte by byte, without the white space around them. A Bloom filter takes a fixed amount
    of memory and drops a few pieces that are new.
    """

    piece: Literal["line", "paragraph"] = "line"
    """A line, or lines without a blank one between them."""
    min_bytes: int = 40
    """Shorter pieces stay: closing brackets, list bullets, one-word headings."""
    capacity: int = 0
    """Pieces that a Bloom filter is made for; 0 remembers each piece in 16 bytes or more."""
    false_positives: float = 1e-5
    """Share of new pieces that a full filter takes for known ones."""

    def __post_init__(self) -> None:
        if self.min_bytes < 0 or self.capacity < 0:
            raise ValueError(
                f"min_bytes and capacity must not be negative, got {self.min_bytes} and {self.capacity}"
            )
        if not 0 < self.false_positives < 1:
            raise ValueError(f"false_positives must be between 0 and 1, got {self.false_positives}")

    def seen(self) -> _core.SeenPieces:
        """Nothing seen so far."""
        return _core.SeenPieces(self.piece, self.min_bytes, self.capacity, self.false_positives)


def drop_repeated(
    documents: Iterable[Document],
    settings: Pieces | None = None,
    *,
    report: FunnelReport | None = None,
) -> Iterator[Document]:
    r"""Drop pieces that an earlier document, or an earlier place of the same one, has.

    Args:
        documents: Read once, a few megabytes at a time.
        settings: Which pieces; lines of 40 bytes and more when None.
        report: Gets a stage named "pieces" with the rule "repeated" for documents of which nothing is left.

    Returns:
        The documents that are left, in their order; they are shortened while they are taken.

    >>> pages = [Document("first\n(c) A. Smith", "a"), Document("second\n(c) A. Smith", "b")]
    >>> [page.text for page in drop_repeated(pages, Pieces(min_bytes=10))]
    ['first\n(c) A. Smith', 'second\n']
    """
    settings = Pieces() if settings is None else settings
    # Before the first document is taken, so that the stages of a chain of calls stay in order.
    return _kept(documents, settings.seen(), (report or FunnelReport()).stage("pieces"))


def drop_stretches(
    documents: Iterable[Document],
    length: int = 100,
    *,
    report: FunnelReport | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[Document]:
    """Drop every stretch of `length` bytes or more that occurs before, wherever it starts and ends.

    What is dropped is what a suffix array over all documents finds, cut at the ends of characters.

    Args:
        documents: Held in memory while they are compared.
        length: Bytes of UTF-8, at least 16.
        report: Gets a stage named "stretches" with the rule "repeated" for documents that are dropped whole.
        progress: Called with the bytes done.

    Returns:
        The documents that are left, in their order.

    Raises:
        ValueError: If `length` is below 16.

    >>> texts = ["One. The same words again. Two.", "Six! The same words again."]
    >>> [page.text for page in drop_stretches((Document(text, "here") for text in texts), 20)]
    ['One. The same words again. Two.', 'Six!']
    """
    stage = (report or FunnelReport()).stage("stretches")
    pages = list(documents)
    texts = _core.drop_stretches([page.text for page in pages], length, progress)
    return list(_rest(zip(pages, texts, strict=True), "all of it occurs before", stage))


def _kept(documents: Iterable[Document], seen: _core.SeenPieces, stage: Stage) -> Iterator[Document]:
    for batch in in_batches(documents):
        texts, _ = seen.drop([document.text for document in batch])
        yield from _rest(zip(batch, texts, strict=True), "all of its pieces occur before", stage)


def _rest(pairs: Iterable[tuple[Document, str | None]], reason: str, stage: Stage) -> Iterator[Document]:
    """Documents with what is left of them, None if nothing was dropped."""
    for document, text in pairs:
        size = utf8_bytes(document.text)
        if text is None:
            stage.keep(size)
            yield document
        elif text.strip():
            stage.keep(size, size - utf8_bytes(text))
            yield Document(text, document.source)
        else:
            stage.drop("repeated", document, size, reason)
