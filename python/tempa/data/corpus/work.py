"""The three kinds of work in a build, each on files in a work directory, so that any process may do it.

`stage` and `emit` do one partition and leave a file that appears complete; a partition whose file is there is
done. `settle` looks at all staged files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.data.corpus.config import Source, Steps
from tempa.data.corpus.plan import Plan
from tempa.data.decontaminate import EvalSet
from tempa.data.funnel import EXAMPLE_CHARS, Dropped, Example, Stage
from tempa.data.html import html_to_text
from tempa.data.staging import save_json
from tempa.data.unwanted import read_list
from tempa.tokenizer import END_OF_TEXT, Tokenizer

# In the order of the core.
REASONS = ("known", "url", "exact", "near")
# Rows of a Parquet table held in memory at once.
_ROWS = 1024
SIDES = ("train", "val")


@dataclass(frozen=True)
class Places:
    """Where the files of a build are."""

    directory: Path

    def staged(self, partition: int) -> Path:
        """The documents of a partition that passed the steps which look at one at a time."""
        return self.directory / f"staged-{partition:05}.docs"

    def emitted(self, partition: int) -> Path:
        """What the shards of a partition hold."""
        return self.directory / f"emitted-{partition:05}.json"

    def shards(self, partition: int) -> tuple[Path, Path]:
        """The shards of a partition: what is trained on and what is held out."""
        train, val = (self.directory / f"{side}-{partition:05}.bin" for side in SIDES)
        return train, val


def make_steps(steps: Steps, share: float | None = None) -> list[_core.Step]:
    """The steps that look at one document at a time; with a share, only that of the documents is taken.

    Raises:
        ValueError: If an evaluation set cannot be read or has no item that is long enough.
    """
    made = []
    if share is not None:
        made.append(_core.Step.sample(share))
    unwanted, kinds, perplexity = steps.unwanted, steps.kinds, steps.perplexity
    if unwanted.urls:
        made.append(_core.Step.drop_urls(read_list(unwanted.urls)))
    if steps.repair:
        made.append(_core.Step.repair())
    thresholds = [float(value) for value in astuple(steps.rules)]
    made.append(_core.Step.clean(thresholds, astuple(steps.edits)))
    if unwanted.phrases and unwanted.mask is not None:
        made.append(_core.Step.mask_phrases(read_list(unwanted.phrases), unwanted.mask))
    elif unwanted.phrases:
        phrases = read_list(unwanted.phrases)
        made.append(_core.Step.drop_phrases(phrases, unwanted.max_phrases, unwanted.max_share))
    if kinds.model:
        made.append(_core.Step.classify(kinds.model, kinds.keep, kinds.min_probability))
    if perplexity.model:
        made.append(_core.Step.perplexity(perplexity.model, perplexity.min, perplexity.max))
    if steps.mask:
        made.append(_core.Step.mask(steps.mask))
    if steps.against:
        tasks = [EvalSet.named(name) for name in steps.against]
        settings = steps.contamination
        made.append(
            _core.Step.decontaminate(
                [item.text for task in tasks for item in task.items],
                [(task.name, item.source) for task in tasks for item in task.items],
                (settings.ngram, settings.min_words, settings.min_span, settings.min_share),
                settings.margin if settings.action == "cut" else None,
            )
        )
    return made


def make_stager(steps: Steps, share: float | None = None) -> _core.Stager:
    """What reads documents that pass the steps, and signs them if that is needed."""
    near = steps.duplicates.options() if steps.duplicates.near or steps.duplicates.against else None
    return _core.Stager(make_steps(steps, share), near)


def stager_of(plan: Plan, source: int) -> _core.Stager:
    """What `stage` needs, made once for all partitions of a source. All sources have the same steps."""
    is_sampled = any(one.sample < 1 for one in plan.sources)
    return make_stager(plan.steps, plan.sources[source].sample if is_sampled else None)


def stage(plan: Plan, index: int, places: Places, stager: _core.Stager, work: _core.Work) -> None:
    """Read a partition, and do every step that looks at one document at a time."""
    target = places.staged(index)
    if target.exists():
        if _is_whole(target, work):
            return
        target.unlink()
    partition = plan.partitions[index]
    source = plan.sources[partition.source]
    is_lossy = source.errors == "replace"
    if partition.is_table:
        ((file, first, last),) = partition.stretches
        batches = _rows(Path(file), source, first, last, is_lossy)
        stager.stage_texts(batches, file, target, work)
    else:
        stager.stage_files(
            list(partition.stretches),
            (source.field, source.url or None, is_lossy, plan.max_document_bytes),
            target,
            work,
            _extract if source.html else None,
        )


def _extract(html: bytes, encoding: str) -> str:
    return html_to_text(html, encoding=encoding or None)


def _is_whole(staged: Path, work: _core.Work) -> bool:
    """Whether a file of an earlier start is as it was written: a power cut may have taken its end."""
    try:
        _core.StagedDocuments([staged]).verify(work)
    except ValueError:
        return False
    return True


Batch = tuple[list[str], list[str], list[int], list[tuple[int, str]]]


def _rows(file: Path, source: Source, first: int, last: int, is_lossy: bool) -> Iterator[Batch]:
    """Texts, names, rows and problems of some row groups of a table; rows count from 0 in the first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(file) as table:
            columns = table.schema_arrow.names
            if source.field not in columns:
                yield [], [], [], [(0, f"no column {source.field!r}; the columns are {', '.join(columns)}")]
                return
            wanted = [source.field, *([source.url] if source.url in columns else [])]
            groups = list(range(first, min(last, table.num_row_groups)))
            for batch in table.iter_batches(_ROWS, row_groups=groups, columns=wanted):
                yield _batch(batch, source, row, is_lossy)
                row += len(batch)
    except (pa.ArrowException, OSError) as error:
        yield [], [], [], [(row, f"cannot be read after row {row}: {error}")]


def _batch(batch: Any, source: Source, row: int, is_lossy: bool) -> Batch:
    import pyarrow as pa

    texts, names, rows, problems = [], [], [], []
    # Bytes, because Arrow's own conversion would not say which row is not UTF-8.
    values = batch.column(source.field).cast(pa.large_binary()).to_pylist()
    urls = batch.column(source.url).to_pylist() if source.url in batch.schema.names else [None] * len(values)
    for at, (value, url) in enumerate(zip(values, urls, strict=True), start=row):
        if value is None:
            problems.append((at, f"{source.field!r} is null"))
            continue
        try:
            how = "replace" if is_lossy else "strict"
            text = html_to_text(value) if source.html else value.decode("utf-8", how)
        except UnicodeDecodeError as error:
            problems.append((at, f"byte {error.start} of the text is not UTF-8 (0x{value[error.start]:02x})"))
            continue
        except ValueError as error:
            problems.append((at, f"its text cannot be extracted: {error}"))
            continue
        texts.append(text)
        names.append("" if url is None else str(url))
        rows.append(at)
    return texts, names, rows, problems


@dataclass(frozen=True)
class Settled:
    """Which staged documents are kept.

    Attributes:
        documents: All staged files.
        is_kept: For each document.
        stage: The counts for the report.
    """

    documents: _core.StagedDocuments
    is_kept: NDArray[np.bool_]
    stage: Stage

    def of(self, partition: int) -> NDArray[np.bool_]:
        """Whether each document of a partition is kept."""
        start, stop = self.documents.starts[partition : partition + 2]
        return self.is_kept[start:stop]


def settle(steps: Steps, paths: list[Path], work: _core.Work) -> Settled:
    """Find the duplicates among all staged documents."""
    duplicates = steps.duplicates
    asked = {"url": duplicates.urls, "exact": duplicates.exact, "near": duplicates.near}
    return count_settled(*_settle(steps, paths, asked, work))


# Documents, for each the place of its reason in `REASONS` counted from 1, and the one that stands for it.
Found = tuple[_core.StagedDocuments, NDArray[np.uint8], NDArray[np.int64]]


def settle_all_but_near(steps: Steps, paths: list[Path], work: _core.Work) -> Found:
    """Find what is published already, has the URL of another or is equal to it."""
    return _settle(steps, paths, {"url": steps.duplicates.urls, "exact": steps.duplicates.exact}, work)


def _settle(steps: Steps, paths: list[Path], asked: dict[str, bool], work: _core.Work) -> Found:
    duplicates = steps.duplicates
    documents = _core.StagedDocuments(paths)
    indexes = [_core.SignatureIndex(path) for path in duplicates.against]
    similar = duplicates.options() if duplicates.near or duplicates.against else None
    reasons = [reason for reason, is_asked in asked.items() if is_asked]
    return documents, *documents.settle(indexes, reasons, similar, duplicates.keep, work)


def count_settled(
    documents: _core.StagedDocuments,
    reasons: NDArray[np.uint8],
    by: NDArray[np.int64],
    max_examples: int = 3,
) -> Settled:
    """Count what was found."""
    sizes = documents.sizes()
    counted = Stage("dedup", max_examples)
    for reason, rule in enumerate(REASONS, start=1):
        found = np.flatnonzero(reasons == reason)
        if not len(found):
            continue
        dropped = counted.dropped.setdefault(rule, Dropped(len(found), int(sizes[found].sum())))
        for document in found[:max_examples].tolist():
            original = "a published document" if rule == "known" else documents.name(int(by[document]))
            text = documents.text(document)[:EXAMPLE_CHARS]
            dropped.examples.append(Example(documents.name(document), f"duplicate of {original}", text))
    is_kept = reasons == 0
    counted.input.documents, counted.input.bytes = len(sizes), int(sizes.sum())
    counted.output.documents, counted.output.bytes = int(is_kept.sum()), int(sizes[is_kept].sum())
    return Settled(documents, is_kept, counted)


# The kind of split and two numbers, as the core takes them.
SplitOf = tuple[str, int, int]


def splits(kept: Settled, steps: Steps) -> list[SplitOf]:
    """What is held out of each partition."""
    starts = kept.documents.starts
    if steps.split == "hash":
        return [("hash", int(steps.val_fraction * 2**64), 0)] * (len(starts) - 1)
    sizes = np.where(kept.is_kept, kept.documents.sizes(), 0)
    ends = np.cumsum(sizes)
    cut = int((ends[-1] if len(ends) else 0) * (1 - steps.val_fraction))
    first = int(np.searchsorted(ends, cut, side="right"))
    within = cut - int(ends[first - 1]) if first else cut
    places = []
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        at = min(max(first, start), stop) - start
        places.append(("tail", at, within if start <= first < stop else 0))
    return places


def emit(
    index: int,
    documents: _core.StagedDocuments,
    file: int,
    is_kept: NDArray[np.bool_],
    split: SplitOf,
    places: Places,
    tokenizer: Tokenizer,
    max_tokens: int,
    work: _core.Work,
) -> dict[str, Any]:
    """Write the shards of a partition, which is a file of `documents`, and say what they hold."""
    done = places.emitted(index)
    if done.exists():
        known: dict[str, Any] = json.loads(done.read_text("utf-8"))
        if known["max_tokens"] == max_tokens:
            return known
    *found, is_full = documents.emit(
        file,
        is_kept,
        (tokenizer._core, tokenizer.special_tokens.get(END_OF_TEXT), split, max_tokens),
        places.shards(index),
        work,
    )
    names = ("tokens", "documents", "xxh3_128", "bytes")
    sides = {
        side: dict(zip(names, one, strict=True)) if one else None
        for side, one in zip(SIDES, found, strict=True)
    }
    made = {"max_tokens": max_tokens, "is_full": is_full, **sides}
    save_json(done, made)
    return made
