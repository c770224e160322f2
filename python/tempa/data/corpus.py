"""From documents to a corpus for training: cleaned, without duplicates, split, tokenised.

A corpus is a directory with the shards `train/` and `val/`, the `tokenizer.json` that made them and the
report `funnel.json`. It appears complete or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.data.documents import Document, in_batches
from tempa.data.duplicates import Duplicates, dedup
from tempa.data.funnel import FunnelReport, total_bytes
from tempa.data.rules import Rules, clean
from tempa.data.shards import ShardWriter
from tempa.data.staging import staged_directory
from tempa.tokenizer import END_OF_TEXT, Tokenizer

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
        write_shards(staging / "train", train, tokenizer, report=report, progress=call)
        write_shards(staging / "val", val, tokenizer, report=report, progress=call)
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


def write_shards(
    directory: str | Path,
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    *,
    report: FunnelReport | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> None:
    """Tokenise documents into a shard directory.

    Each document ends with `<|endoftext|>` if the tokenizer has it. Text never becomes a special token.

    Args:
        directory: Where the shards go.
        documents: What to tokenise.
        tokenizer: Makes the ids.
        report: Gets the documents, bytes and tokens under the name of the directory.
        progress: Called with ("tokenize", bytes done, bytes, "bytes").
        overwrite: Replace a shard directory of this name.

    Raises:
        ValueError: If there are no documents, or the tokenizer does not know a character.
        OSError: If the disk refuses; nothing has changed then.
    """
    end = tokenizer.special_tokens.get(END_OF_TEXT)
    size, done = total_bytes(documents), 0
    with ShardWriter(directory, tokenizer.sha256, tokenizer.vocab_size, overwrite=overwrite) as writer:
        for batch in in_batches(documents):
            ids, offsets = tokenizer.encode_batch([document.text for document in batch])
            writer.add(*(_with_ends(ids, offsets, end) if end is not None else (ids, offsets)))
            done += total_bytes(batch)
            if progress:
                progress("tokenize", done, size, "bytes")
    if report:
        counts = {"documents": writer.num_documents, "bytes": size, "tokens": writer.num_tokens}
        report.splits[Path(directory).name] = counts


def _with_ends(
    ids: NDArray[np.uint32], offsets: NDArray[np.int64], end: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Append `end` to every document."""
    return np.insert(ids, offsets[1:], np.uint32(end)), offsets + np.arange(len(offsets))
