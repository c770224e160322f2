"""Text as it was before it was damaged: entities nobody decoded, UTF-8 that was read as another encoding.

Good text stays as it is, and repairing twice changes nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tempa import _core
from tempa.data.documents import Document, in_batches
from tempa.data.funnel import FunnelReport, Stage


def repair_text(text: str) -> str:
    """A text without damage.

    UTF-8 that was read as Windows-1252 or Latin-1, once or more, becomes what it was. Entities of HTML 4,
    `&apos;` and numbers are decoded, unless the text has a `<`: then it may be about HTML.

    >>> repair_text("cafÃ© &amp; thÃƒÂ©")
    'café & thé'
    """
    (found,) = _core.repair_texts([text])
    return text if found is None else found[0]


def repair(documents: Iterable[Document], *, report: FunnelReport | None = None) -> Iterator[Document]:
    """Repair documents.

    Args:
        documents: Read once, a few megabytes at a time.
        report: Gets a stage named "repair", which counts entities that were decoded, and characters that had
            been read as several ("misread").

    Returns:
        All documents in their order; they are repaired while they are taken.

    >>> next(repair([Document("donâ€™t", "a")])).text
    'don’t'
    """
    # Before the first document is taken, so that the stages of a chain of calls stay in order.
    return _repaired(documents, (report or FunnelReport()).stage("repair"))


def _repaired(documents: Iterable[Document], stage: Stage) -> Iterator[Document]:
    stage.replaced |= {"entity": 0, "misread": 0}
    for batch in in_batches(documents):
        repaired = _core.repair_texts([document.text for document in batch])
        for document, found in zip(batch, repaired, strict=True):
            text, entities, misread = found or (None, 0, 0)
            stage.replaced["entity"] += entities
            stage.replaced["misread"] += misread
            yield stage.keep_as(document, text)
