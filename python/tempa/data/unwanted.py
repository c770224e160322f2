"""Lists of what is not wanted: words and phrases in texts, domains and URLs of pages.

The lists are the user's. What is found depends on the text and the list alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tempa import _core
from tempa.data.documents import Document, in_batches
from tempa.data.funnel import FunnelReport, Stage, utf8_bytes


@dataclass(frozen=True)
class Unwanted:
    """Which lists there are, and what is done about their entries."""

    phrases: tuple[Path, ...] = ()
    """Files of words and phrases, one a line; a line that begins with "# " is a comment."""
    max_phrases: float = 0
    """Most phrases of a document that stays; the default is that of C4, inf switches the rule off."""
    max_share: float = math.inf
    """Largest share of a document's words that are in phrases."""
    mask: str | None = None
    """Drop no document for its phrases, but put this text in their place."""
    urls: tuple[Path, ...] = ()
    """Files of domains and URLs, one a line; a document goes if its source is a page below one of them."""

    def __post_init__(self) -> None:
        for name in ("max_phrases", "max_share"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


def drop_unwanted(
    documents: Iterable[Document], settings: Unwanted, *, report: FunnelReport | None = None
) -> Iterator[Document]:
    """Drop documents by lists in files, first by URL, then by phrases.

    Args:
        documents: Read once, a few megabytes at a time.
        settings: Lists and thresholds.
        report: Gets the stages of `drop_urls` and of `drop_phrases` or `mask_phrases`, those with lists.

    Raises:
        OSError: If a list cannot be read.
        ValueError: If a list is empty or has an entry that cannot be meant.
    """
    if settings.urls:
        documents = drop_urls(documents, read_list(settings.urls), report=report)
    if settings.phrases and settings.mask is not None:
        documents = mask_phrases(documents, read_list(settings.phrases), settings.mask, report=report)
    elif settings.phrases:
        documents = drop_phrases(
            documents,
            read_list(settings.phrases),
            max_phrases=settings.max_phrases,
            max_share=settings.max_share,
            report=report,
        )
    return iter(documents)


def read_list(files: Sequence[str | Path]) -> list[str]:
    """The entries of files, one a line, without comments ("# ") and empty lines.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file is not UTF-8 or all are empty.
    """
    entries: list[str] = []
    for file in files:
        try:
            lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not UTF-8 at byte {error.start}") from None
        entries += [line.strip() for line in lines if line.strip() and not line.startswith("# ")]
    if not entries:
        raise ValueError(f"{', '.join(map(str, files))}: the list has no entries")
    return entries


def drop_phrases(
    documents: Iterable[Document],
    phrases: Sequence[str],
    *,
    max_phrases: float = 0,
    max_share: float = math.inf,
    report: FunnelReport | None = None,
) -> Iterator[Document]:
    """Drop documents that have words or phrases of a list.

    A phrase is found as it is written, but for case, where no word goes on across its ends; in scripts
    without spaces it is found anywhere.

    Args:
        documents: Read once, a few megabytes at a time.
        phrases: The list.
        max_phrases: Most of them in a document that stays.
        max_share: Largest share of its words that are in phrases.
        report: Gets a stage named "unwanted" with the rules "max_phrases" and "max_share".

    Raises:
        ValueError: If a phrase is empty or has a space at an end.

    >>> pages = [Document("a class of its own", "a"), Document("What an ASS!", "b")]
    >>> [page.source for page in drop_phrases(pages, ["ass"])]
    ['a']
    """
    # Before the first document is taken, so that the stages of a chain of calls stay in order.
    stage = (report or FunnelReport()).stage("unwanted")
    return _without_phrases(documents, _core.UnwantedPhrases(phrases), max_phrases, max_share, stage)


def mask_phrases(
    documents: Iterable[Document],
    phrases: Sequence[str],
    replacement: str,
    *,
    report: FunnelReport | None = None,
) -> Iterator[Document]:
    """Replace the words and phrases of a list, found as by `drop_phrases`.

    Args:
        documents: Read once, a few megabytes at a time.
        phrases: The list.
        replacement: What stands in their place.
        report: Gets a stage named "unwanted", which counts what was replaced.

    >>> next(mask_phrases([Document("What an ASS!", "b")], ["ass"], "***")).text
    'What an ***!'
    """
    stage = (report or FunnelReport()).stage("unwanted")
    return _masked(documents, _core.UnwantedPhrases(phrases), replacement, stage)


def drop_urls(
    documents: Iterable[Document], entries: Sequence[str], *, report: FunnelReport | None = None
) -> Iterator[Document]:
    """Drop documents whose source is a page of a domain, or below a URL, of a list.

    Args:
        documents: Read once, a few megabytes at a time.
        entries: `example.org`, which stands for its subdomains too, or `example.org/forum`. Spelled as for
            duplicate URLs: scheme, `www.`, case of the host and tracking parameters do not count.
        report: Gets a stage named "unwanted urls" with the rule "unwanted_url".

    Raises:
        ValueError: If an entry has no host.

    >>> pages = [Document("one", "ftp://a.example.org/x"), Document("two", "ftp://example.com")]
    >>> [page.text for page in drop_urls(pages, ["example.org"])]
    ['two']
    """
    stage = (report or FunnelReport()).stage("unwanted urls")
    return _without_urls(documents, _core.UnwantedUrls(entries), stage)


def _without_phrases(
    documents: Iterable[Document],
    phrases: _core.UnwantedPhrases,
    max_phrases: float,
    max_share: float,
    stage: Stage,
) -> Iterator[Document]:
    for batch in in_batches(documents):
        measures = phrases.measure([document.text for document in batch])
        for document, (count, share) in zip(batch, measures, strict=True):
            size = utf8_bytes(document.text)
            if count > max_phrases:
                reason = f"{count}, the threshold is {max_phrases:g}"
                stage.drop("max_phrases", document, size, reason)
            elif share > max_share:
                reason = f"{share:.4g}, the threshold is {max_share:g}"
                stage.drop("max_share", document, size, reason)
            else:
                stage.keep(size)
                yield document


def _masked(
    documents: Iterable[Document], phrases: _core.UnwantedPhrases, replacement: str, stage: Stage
) -> Iterator[Document]:
    stage.replaced["phrase"] = 0
    for batch in in_batches(documents):
        masked = phrases.mask([document.text for document in batch], replacement)
        for document, found in zip(batch, masked, strict=True):
            text, count = found or (None, 0)
            stage.replaced["phrase"] += count
            yield stage.keep_as(document, text)


def _without_urls(
    documents: Iterable[Document], urls: _core.UnwantedUrls, stage: Stage
) -> Iterator[Document]:
    for batch in in_batches(documents):
        entries = urls.find([document.source for document in batch])
        for document, entry in zip(batch, entries, strict=True):
            size = utf8_bytes(document.text)
            if entry is None:
                stage.keep(size)
                yield document
            else:
                stage.drop("unwanted_url", document, size, f"below {entry}")
