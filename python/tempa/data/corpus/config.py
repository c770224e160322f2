"""What `tempa data build` is told: sources, steps, and where the corpus goes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tempa.data.decontaminate import Contamination, EvalSet
from tempa.data.documents import corpus_files
from tempa.data.duplicates import Duplicates
from tempa.data.mixture import Mixture
from tempa.data.perplexity import check_range
from tempa.data.pii import Kind
from tempa.data.rules import Edits, Rules
from tempa.data.unwanted import Unwanted

# How documents are divided: each by the hash of its text, or the end of the last ones.
Split = Literal["hash", "tail"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Documents of one kind, such as the pages of a crawl or the files of a language."""

    files: tuple[Path, ...]
    """Files, directories or patterns: .txt, .jsonl, .parquet, .wet, .warc; most also as .gz or .zst."""
    name: str = ""
    """Name of the source; with more than one, its shards are in train/NAME."""
    field: str = "text"
    """Key or column that holds the text in .jsonl and .parquet files."""
    url: str = "url"
    """Key or column that holds a URL or an id, for reports and `duplicates.urls`; documents may lack it."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: leave the document out, or put U+FFFD in their place."""
    html: bool = False
    """Extract the text of HTML: of fetched pages in .warc, and of the field in .jsonl and .parquet."""
    sample: float = 1.0
    """Share of the documents that is taken, by the hash of their text."""
    max_tokens: int = 0
    """The first documents of at most this many tokens are trained on; 0 takes all."""
    weight: float | None = None
    """Share of this source in training, relative to the others, see `tempa.Mixture`."""
    epochs: float | None = None
    """How often it is read in training, relative to the others, instead of a weight."""

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise ValueError(f"sample must be above 0 and at most 1, got {self.sample}")
        if self.max_tokens < 0:
            raise ValueError(f"max_tokens must not be negative, got {self.max_tokens}")
        if self.name and (Path(self.name).name != self.name or self.name.startswith(".")):
            raise ValueError(f"a source's name is a name of a directory, got {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Which documents pass a classifier of `tempa data classify train`: by quality, language or subject."""

    model: Path | None = None
    """The classifier's file; all documents pass if there is none."""
    keep: tuple[str, ...] = ()
    """The labels that are wanted."""
    min_probability: float = 0.5
    """Least probability that a document is of one of them, whichever it is."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"min_probability must be between 0 and 1, got {self.min_probability}")
        if self.model and not self.keep:
            raise ValueError("name the labels to keep, or the classifier lets all documents pass")


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Which documents pass a model of `tempa data perplexity train`."""

    model: Path | None = None
    """The model's file; all documents pass if there is none."""
    min: float = 0.0
    """Documents of a lower perplexity are dropped."""
    max: float = math.inf
    """Documents of a higher perplexity are dropped; with a limit, those without words too."""

    def __post_init__(self) -> None:
        check_range(self.min, self.max)
        if self.model and self.min == 0 and self.max == math.inf:
            raise ValueError("give perplexity.min or perplexity.max, or the model lets all documents pass")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Settings of `tempa data build`."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FILE ...]")] = ()
    """The only source, if settings have none: .txt, .jsonl, .parquet, .wet, .warc files, or directories."""
    sources: Annotated[tuple[Source, ...], tyro.conf.Suppress] = ()
    """Several sources, as [[sources]] in a file of settings."""
    field: str = "text"
    """Key or column of `files` that holds the text."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: leave the document out, or put U+FFFD in their place."""
    html: bool = False
    """Extract the text of HTML: of fetched pages in .warc, and of the field in .jsonl and .parquet."""
    out: Path
    """The directory that gets train/, val/, tokenizer.json, funnel.json and funnel.html."""
    tokenizer: Path
    """Directory with a tokenizer.json, such a file, a sentencepiece .model or a .tiktoken file."""
    temperature: float | None = None
    """Shares of sources in training by size^(1/temperature), if they have neither weights nor epochs."""
    val_fraction: float = 0.01
    """Share that is held out."""
    split: Split = "hash"
    """Hold out documents by the hash of their text, or the end of the corpus, which may cut a document."""
    clean: bool = True
    """Apply the quality rules."""
    dedup: bool = True
    """Drop duplicates."""
    rules: Rules = dataclasses.field(default_factory=Rules)
    """Thresholds; `--rules.min-words 0` or `--rules.max-words inf` switches a rule off."""
    edits: Edits = dataclasses.field(default_factory=Edits)
    """Lines to take out before, such as `--edits.javascript-lines`."""
    repair: bool = False
    """Undo damage: UTF-8 that was read as another encoding, entities of HTML that nobody decoded."""
    mask: tuple[Kind, ...] = ()
    """Personal data to replace by placeholders."""
    unwanted: Unwanted = dataclasses.field(default_factory=Unwanted)
    """Lists of phrases, domains and URLs that are not wanted."""
    kinds: Kinds = dataclasses.field(default_factory=Kinds)
    """Which documents a trained classifier lets pass."""
    perplexity: Perplexity = dataclasses.field(default_factory=Perplexity)
    """Which documents an n-gram model lets pass."""
    duplicates: Duplicates = dataclasses.field(default_factory=Duplicates)
    """What counts as a duplicate."""
    against: tuple[str, ...] = ()
    """Evaluation sets to keep out: `FILE`, whose items are question and answer, or `FILE:FIELD,FIELD`."""
    contamination: Contamination = dataclasses.field(default_factory=Contamination)
    """What counts as contamination, and what is done about it."""
    partition_bytes: int = 64 << 20
    """Bytes of input that are one piece of work, and one file of shards."""
    max_document_bytes: int = 64 << 20
    """Longer documents are left out, and reported."""
    num_threads: int | None = None
    """Threads; one for each processor if not given. The shards are the same."""
    ray: str | None = None
    """Address of a Ray cluster that does the work, or `local`; all machines must share the place of `out`."""
    overwrite: bool = False
    """Replace an earlier corpus."""

    def __post_init__(self) -> None:
        if bool(self.files) == bool(self.sources):
            raise ValueError("name the files to read, or [[sources]] in a file of settings, and not both")
        names = [source.name for source in self.sources]
        if len(names) > 1 and not all(names):
            raise ValueError("each of several sources needs a name")
        if len(set(names)) < len(names):
            raise ValueError(f"sources need different names, got {', '.join(names)}")
        self.mixture(Path())
        check_split(self.val_fraction, self.split)
        for name in ("partition_bytes", "max_document_bytes"):
            if getattr(self, name) < 1024:
                raise ValueError(f"{name} must be at least 1024, got {getattr(self, name)}")
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {self.num_threads}")

    def all_sources(self) -> tuple[Source, ...]:
        """The sources, or the only one that `files` are."""
        if self.sources:
            return self.sources
        return (Source(files=self.files, field=self.field, errors=self.errors, html=self.html),)

    def mixture(self, directory: Path) -> Mixture | None:
        """How several sources, whose shards are below a directory, are mixed in training.

        Raises:
            ValueError: If only some sources have a weight, or there are weights and epochs too.
        """
        if len(self.sources) < 2:
            return None
        given: dict[str, dict[str, float]] = {}
        for what in ("weight", "epochs"):
            values = {source.name: getattr(source, what) for source in self.sources}
            missing = [name for name, value in values.items() if value is None]
            if 0 < len(missing) < len(values):
                raise ValueError(f"all sources need {what}, or none; {', '.join(missing)} has none")
            if not missing:
                given[what] = values
        return Mixture(
            sources={source.name: directory / source.name for source in self.sources},
            weights=given.get("weight"),
            epochs=given.get("epochs"),
            temperature=self.temperature,
        )

    def steps(self) -> Steps:
        """What is done to the documents."""
        return Steps(
            rules=self.rules if self.clean else Rules.none(),
            edits=self.edits,
            repair=self.repair,
            mask=self.mask,
            unwanted=self.unwanted,
            kinds=self.kinds,
            perplexity=self.perplexity,
            duplicates=self.duplicates if self.dedup else Duplicates(exact=False, near=False),
            against=self.against,
            contamination=self.contamination,
            val_fraction=self.val_fraction,
            split=self.split,
        )


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What is done to the documents, wherever they come from and whoever does it."""

    rules: Rules
    edits: Edits = dataclasses.field(default_factory=Edits)
    repair: bool = False
    mask: tuple[Kind, ...] = ()
    unwanted: Unwanted = dataclasses.field(default_factory=Unwanted)
    kinds: Kinds = dataclasses.field(default_factory=Kinds)
    perplexity: Perplexity = dataclasses.field(default_factory=Perplexity)
    duplicates: Duplicates
    against: tuple[str, ...] = ()
    contamination: Contamination = dataclasses.field(default_factory=Contamination)
    val_fraction: float
    split: Split

    def aids(self) -> list[Path]:
        """The files that steps read besides the documents: lists, models, evaluation sets, indexes."""
        models = [model for model in (self.kinds.model, self.perplexity.model) if model]
        tasks = [file for name in self.against for file in corpus_files(EvalSet.parse(name)[0])]
        return [*self.unwanted.urls, *self.unwanted.phrases, *models, *tasks, *self.duplicates.against]


def check_split(val_fraction: float, split: str) -> None:
    """Fail unless documents can be held out so.

    Raises:
        ValueError: If the fraction is not between 0 and 1 or there is no such split.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {val_fraction}")
    if split not in ("hash", "tail"):
        raise ValueError(f"split must be 'hash' or 'tail', got {split!r}")
