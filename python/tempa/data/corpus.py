"""From documents to a corpus for training: cleaned, without duplicates, split, tokenised.

A corpus is a directory with the shards `train/` and `val/`, the `tokenizer.json` that made them and the
report `funnel.json`. It appears complete or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from tempa import _core
from tempa.data.documents import Document
from tempa.data.duplicates import Duplicates, dedup
from tempa.data.funnel import FunnelReport, total_bytes
from tempa.data.rules import Rules, clean
from tempa.data.shards import write_shards
from tempa.data.staging import staged_directory
from tempa.tokenizer import Tokenizer

FUNNEL = "funnel.json"

# How documents are divided: each by the hash of its text, or the end of the last ones.
Split = Literal["hash", "tail"]
# What is done, how much of it, of how much, in which unit.
Progress = Callable[[str, int, int, str], object]


def build(
    documents: Iterable[Document],
    directory: str | Path,
    tokenizer: Tokenizer,
    *,
    rules: Rules | None = None,
    duplicates: Duplicates | None = None,
    val_fraction: float = 0.01,
    split: Split = "hash",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FunnelReport:
    """Clean documents, drop duplicates, and write a corpus.

    Args:
        documents: What to train on; read once and held in memory after cleaning.
        directory: Where the corpus goes.
        tokenizer: Makes the ids.
        rules: Quality rules, the published ones when None; see `Rules.none`.
        duplicates: What counts as a duplicate.
        val_fraction: Share of the documents that are held out, see `split_documents`.
        split: How they are chosen.
        overwrite: Replace an earlier corpus of this name.
        progress: Called with (work, done, total, unit).

    Returns:
        What was kept and dropped; also in `funnel.json`.

    Raises:
        ValueError: If no document is left, or none for one side of the split.
        FileExistsError: If the directory exists and may not be replaced.
    """
    report = FunnelReport()
    call = progress or (lambda _what, _done, _total, _unit: None)
    with staged_directory(directory, marker=FUNNEL, overwrite=overwrite) as staging:
        kept = list(clean(documents, rules, report=report))
        report.raise_if_nothing_left(str(directory))
        size = total_bytes(kept)
        kept = dedup(
            kept, duplicates, report=report, progress=lambda what, done: call(what, done, size, "bytes")
        )
        train, val = split_documents(kept, val_fraction, split)
        for name, part in (("train", train), ("val", val)):
            report.splits[name] = _encode(staging / name, part, tokenizer, call)
        tokenizer.save(staging)
        report.save(staging / FUNNEL)
    return report


def split_documents(
    documents: Sequence[Document], val_fraction: float, split: Split = "hash"
) -> tuple[list[Document], list[Document]]:
    """Divide documents into those to train on and those held out.

    - `hash`: a document is held out by the hash of its text, so it stays on its side when others are added
      or the order changes.
    - `tail`: the last `val_fraction` of the characters are held out, and the document at the cut is divided;
      for corpora of few long documents.

    Raises:
        ValueError: If the fraction is not between 0 and 1, or one side stays empty.

    >>> train, val = split_documents([Document("0123456789", "digits")], 0.1, "tail")
    >>> train[0].text, val[0].text
    ('012345678', '9')
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {val_fraction}")
    if split == "hash":
        hashes = _core.content_hashes([document.text for document in documents])
        is_val = hashes < np.uint64(val_fraction * 2**64)
        val = [document for document, held_out in zip(documents, is_val, strict=True) if held_out]
        train = [document for document, held_out in zip(documents, is_val, strict=True) if not held_out]
    elif split == "tail":
        train, val = _split_tail(documents, val_fraction)
    else:
        raise ValueError(f"split must be 'hash' or 'tail', got {split!r}")
    if not train or not val:
        side = "training" if val else "validation"
        raise ValueError(
            f"val_fraction {val_fraction} leaves no document of {len(documents)} for {side}; "
            + ("choose another fraction" if split == "tail" else "choose another fraction or split='tail'")
        )
    return train, val


def _split_tail(documents: Sequence[Document], val_fraction: float) -> tuple[list[Document], list[Document]]:
    left = int(sum(len(document.text) for document in documents) * (1 - val_fraction))
    train: list[Document] = []
    val: list[Document] = []
    for document in documents:
        head, tail = document.text[:left], document.text[left:]
        left -= len(head)
        train += [Document(head, document.source)] if head else []
        val += [Document(tail, document.source)] if tail else []
    return train, val


def _encode(
    directory: Path, documents: Sequence[Document], tokenizer: Tokenizer, progress: Progress
) -> dict[str, int]:
    """Write shards and say how much is in them."""
    size = total_bytes(documents)
    shards = write_shards(
        directory,
        (document.text for document in documents),
        tokenizer,
        progress=lambda done: progress("tokenize", done, size, "bytes"),
    )
    return {"documents": shards.num_documents, "bytes": size, "tokens": shards.num_tokens}
