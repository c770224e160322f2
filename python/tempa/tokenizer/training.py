"""Learning from texts: counts in batches, then merges. The texts are read once and not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from tempa import _core

# Characters of a batch: enough for all threads, little beside the corpus.
_COUNT_CHARS = 4 << 20


def learn(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str,
    special_tokens: Sequence[str],
    required_tokens: Sequence[bytes],
    min_frequency: int,
    max_token_length: int | None,
    base: _core.Tokenizer | None,
    lines: bool,
    max_memory: int | None,
    num_threads: int | None,
    progress: Callable[[str, int, int | None], object] | None,
) -> _core.Tokenizer:
    """What `Tokenizer.train` documents."""
    counts = _core.PieceCounts(pattern, num_threads, lines, max_memory)
    done = 0
    for batch in in_batches(texts):
        done += counts.add(batch)
        if progress:
            progress("count", done, None)
    report = None
    if progress:
        most = vocab_size - (base.vocab_size if base else 256 + len(special_tokens))

        def report(merges: int) -> None:
            progress("merge", merges, most)

    return counts.train(
        vocab_size,
        min_frequency=min_frequency,
        max_token_length=max_token_length,
        special_tokens=special_tokens,
        required_tokens=required_tokens,
        base=base,
        progress=report,
    )


def in_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of texts that are worth the start of several threads."""
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of documents, got one str; put it in a list")
    batch: list[str] = []
    num_chars = 0
    for text in texts:
        batch.append(text)
        num_chars += len(text)
        if num_chars >= _COUNT_CHARS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch
