"""`tempa tokenizer train`: documents to a vocabulary, with a report of how it fits them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tempa import config
from tempa.cli.places import AnyTokenizer, read_bpe
from tempa.cli.progress import WorkProgress
from tempa.data.documents import corpus_files, read_documents
from tempa.tokenizer import DEFAULT_SPECIALS, Pattern, Tokenizer
from tempa.tokenizer.fit import Fit, measure_fit


@dataclass(frozen=True)
class TrainConfig:
    """What to learn and from which documents."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")]
    """.txt, .jsonl or .parquet files, directories of them, or patterns such as 'part-*.jsonl'; .txt and
    .jsonl also as .gz or .zst."""
    out: Path
    """Directory that gets the tokenizer.json."""
    vocab_size: int = 16384
    """Number of ids: 256 bytes, merged tokens, special tokens."""
    pattern: Pattern | None = None
    """How text is cut into pieces that merges never cross: gpt2 or that of the base if not given. cl100k and
    o200k split numbers and suit code better; qwen2 makes every digit a token and suits sums."""
    special_tokens: tuple[str, ...] = DEFAULT_SPECIALS
    """Names that get the last ids."""
    required_tokens: tuple[str, ...] = ()
    """Tokens to have even if they are not learned."""
    min_frequency: int = 2
    """Pairs that occur less often are not merged."""
    max_token_length: int | None = None
    """No token of more bytes is learned."""
    base: Path | None = None
    """A tokenizer to train further: it keeps its ids and its merges come first."""
    lines: bool = False
    """Cut each line on its own, as the `tokenizers` package does with files."""
    max_memory: int | None = None
    """Bytes that the counts of different pieces may take; more is an error."""
    field: str = "text"
    """Key or column that holds the text in .jsonl and .parquet files."""
    num_threads: int | None = None
    """Threads that count; one for each processor if not given. The result is the same."""
    report: bool = False
    """Read the documents again and print bytes per token of each FILE, unused tokens and the longest ones."""


def train(argv: list[str]) -> int:
    """Run the subcommand."""
    settings = config.parse(
        TrainConfig,
        argv,
        prog="tempa tokenizer train",
        description="Learn a byte-level BPE vocabulary from whole documents. "
        "The merges are those that the `tokenizers` package learns from the same documents.",
    )
    total = sum(file.stat().st_size for file in corpus_files(settings.files))
    base = read_bpe(settings.base) if settings.base else None
    with WorkProgress() as progress:

        def learned(stage: str, merges: int, most: int | None) -> None:
            if stage == "merge":
                progress.show("merge", merges, most or merges, "merges")

        tokenizer = Tokenizer.train(
            _texts(settings.files, settings.field, lambda done: progress.show("read", done, total, "bytes")),
            vocab_size=settings.vocab_size,
            pattern=settings.pattern,
            special_tokens=settings.special_tokens,
            required_tokens=settings.required_tokens,
            min_frequency=settings.min_frequency,
            max_token_length=settings.max_token_length,
            base=base,
            lines=settings.lines,
            max_memory=settings.max_memory,
            num_threads=settings.num_threads,
            progress=learned,
        )
    tokenizer.save(settings.out)
    sizes = f"{tokenizer.vocab_size} ids, {tokenizer.num_merges} merges"
    print(f"{settings.out}: {sizes}, sha256 {tokenizer.sha256[:12]}")
    if tokenizer.vocab_size < settings.vocab_size:
        print(f"fewer than {settings.vocab_size}: no other pair occurs {settings.min_frequency} times")
    if settings.report:
        print(measure_files(tokenizer, settings.files, settings.field, settings.num_threads))
    return 0


def measure_files(
    tokenizer: AnyTokenizer, files: tuple[Path, ...], field: str, num_threads: int | None = None
) -> Fit:
    """How well a vocabulary fits the documents of each of some files."""
    total = sum(file.stat().st_size for file in corpus_files(files))
    with WorkProgress() as progress:
        return measure_fit(
            tokenizer,
            {str(path): _texts((path,), field) for path in files},
            num_threads=num_threads,
            progress=lambda done: progress.show("measure", done, max(done, total), "bytes"),
        )


def _texts(
    files: tuple[Path, ...], field: str, progress: Callable[[int], object] | None = None
) -> Iterator[str]:
    done = 0

    def read(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if progress:
            progress(done)

    documents = read_documents(files, field=field, progress=read)
    return (document.text for document in documents)
