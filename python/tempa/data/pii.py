"""Personal data: found by form and checksum, and replaced by placeholders.

What is found depends on the text alone. Names and postal addresses are not found: they have no form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tempa import _core
from tempa.data.documents import Document, in_batches
from tempa.data.funnel import FunnelReport, Stage

Kind = Literal["email", "phone", "ip", "card", "iban", "key"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Found:
    """Where something personal stands in a text, in characters."""

    kind: str
    start: int
    stop: int


def find_pii(text: str, kinds: Sequence[Kind] = KINDS) -> list[Found]:
    """Find personal data.

    Args:
        text: Any text.
        kinds: What to look for.

    Returns:
        The places in order; they do not overlap.

    Raises:
        ValueError: If a kind is not known.

    >>> find_pii("write to jo@example.org")
    [Found(kind='email', start=9, stop=23)]
    """
    return [Found(*place) for place in _core.find_pii(text, kinds)]


def mask_pii(
    documents: Iterable[Document],
    kinds: Sequence[Kind] = KINDS,
    *,
    report: FunnelReport | None = None,
) -> Iterator[Document]:
    """Replace personal data by `<EMAIL>`, `<PHONE>`, `<IP>`, `<CARD>`, `<IBAN>` and `<KEY>`.

    Args:
        documents: Read once, a few megabytes at a time.
        kinds: What to replace.
        report: Gets a stage named "mask", which counts what was replaced.

    Returns:
        All documents in their order; they are masked while they are taken.

    Raises:
        ValueError: If a kind is not known.

    >>> next(mask_pii([Document("ping 8.8.8.88, then call +1 212 555 0147", "a")])).text
    'ping <IP>, then call <PHONE>'
    """
    # Before the first document is taken, so that the stages of a chain of calls stay in order.
    stage = (report or FunnelReport()).stage("mask")
    _core.mask_pii([], kinds)
    return _masked(documents, kinds, stage)


def _masked(documents: Iterable[Document], kinds: Sequence[Kind], stage: Stage) -> Iterator[Document]:
    for batch in in_batches(documents):
        texts, counts = _core.mask_pii([document.text for document in batch], kinds)
        for kind, count in counts:
            stage.replaced[kind] = stage.replaced.get(kind, 0) + count
        for document, text in zip(batch, texts, strict=True):
            yield stage.keep_as(document, text)
