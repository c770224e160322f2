"""Byte-level BPE and character tokenizers: train, encode, decode, load and save.

A tokenizer is immutable. Its ids are those of `tokenizers` and `tiktoken` with the same vocabulary, for any
number of threads. Text never becomes a special token unless the call allows that token by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tempa import _core

Pattern = Literal["gpt2", "cl100k", "qwen2"]
Ids = Sequence[int] | NDArray[np.integer]

END_OF_TEXT = "<|endoftext|>"
# The specials of a tokenizer made here: the end of a document, and the marks of the chat template.
DEFAULT_SPECIALS = (END_OF_TEXT, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

# Characters handed to the counter at once: enough for all threads, little beside the corpus.
_COUNT_CHARS = 4 << 20


class Tokenizer:
    """Text to token ids and back.

    Make one with `train`, `load`, `from_gpt2` or `from_characters`.

    >>> tokenizer = Tokenizer.train(["low lower lowest " * 9], vocab_size=270)
    >>> ids = tokenizer.encode("lowest")
    >>> tokenizer.decode(ids)
    'lowest'
    """

    __slots__ = ("_core", "_specials")

    def __init__(self, core: _core.Tokenizer) -> None:
        self._core = core
        self._specials = dict(core.special_tokens)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        pattern: Pattern = "gpt2",
        special_tokens: Sequence[str] = DEFAULT_SPECIALS,
        min_frequency: int = 2,
        num_threads: int | None = None,
        progress: Callable[[str, int, int | None], object] | None = None,
    ) -> Tokenizer:
        """Learn a byte-level BPE vocabulary.

        The merges equal those of the `BpeTrainer` of `tokenizers` on an iterator over the same texts.

        Args:
            texts: Whole documents; read once and not kept, so a corpus need not fit in memory.
            vocab_size: Number of ids: 256 bytes, merged tokens and specials. Smaller if pairs run out.
            pattern: How text is cut into pieces that merges never cross.
            special_tokens: Names that get the last ids.
            min_frequency: Pairs that occur less often are not merged.
            num_threads: Threads that count pieces, one for each processor when None. The result is the same.
            progress: Called with ("count", bytes done, None), then with ("merge", merges done, at most).

        Raises:
            ValueError: If there is no text, or the vocabulary is too small for the bytes and specials.

        >>> Tokenizer.train(["one fish two fish"], vocab_size=300).vocab_size  # four merges occur twice
        265
        """
        if isinstance(texts, str):
            raise TypeError("texts must be an iterable of documents, got one str; put it in a list")
        counts = _core.PieceCounts(pattern, num_threads)
        done = 0
        for batch in _batches(texts):
            counts.add(batch)
            if progress:
                done += sum(len(text.encode()) for text in batch)
                progress("count", done, None)
        report = None
        if progress:
            most = vocab_size - 256 - len(special_tokens)

            def report(merges: int) -> None:
                progress("merge", merges, most)

        return cls(counts.train(vocab_size, min_frequency, special_tokens, report))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Load a `tokenizer.json` of `tokenizers`, by its name or by that of its directory.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is no such file, or has a feature that would be encoded differently here: the
                message names it.
        """
        return cls(_core.Tokenizer.load(path))

    @classmethod
    def from_gpt2(cls, vocab_bpe: str | os.PathLike[str], encoder_json: str | os.PathLike[str]) -> Tokenizer:
        """Load the two files published with GPT-2.

        Raises:
            OSError: If one cannot be read.
            ValueError: If one is not what its name says.
        """
        return cls(_core.Tokenizer.from_gpt2(vocab_bpe, encoder_json))

    @classmethod
    def from_characters(cls, text: str, *, special_tokens: Sequence[str] = DEFAULT_SPECIALS) -> Tokenizer:
        """A tokenizer whose tokens are the distinct characters of `text`, in code point order.

        Encoding another character is a ValueError that names it.

        Raises:
            ValueError: If `text` is empty or a special token is one of its characters.

        >>> Tokenizer.from_characters("hello", special_tokens=()).encode("hole")
        [1, 3, 2, 0]
        """
        return cls(_core.Tokenizer.from_characters(text, special_tokens))

    def with_special_tokens(self, names: Sequence[str]) -> Tokenizer:
        """The same tokenizer with more special tokens, which get the ids after the last.

        Raises:
            ValueError: If a name is empty, repeated, or already a token.

        >>> characters = Tokenizer.from_characters("ab", special_tokens=())
        >>> characters.with_special_tokens(["<|endoftext|>"]).eot_id
        2
        """
        return Tokenizer(self._core.with_special_tokens(names))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `tokenizer.json` that `tokenizers` reads too.

        Args:
            path: A file name that ends in `.json`, or a directory, which is made.
        """
        self._core.save(path)

    def encode(self, text: str, *, allowed_special: Collection[str] = ()) -> list[int]:
        """The ids of a text.

        Args:
            text: Any text. A lone surrogate is no text.
            allowed_special: Names of special tokens to recognise in it; `tokenizer.special_tokens` means all.

        Raises:
            ValueError: If the text has a lone surrogate or, for a character tokenizer, an unknown character.
        """
        return self._core.encode(text, list(allowed_special))

    def encode_batch(
        self,
        texts: Sequence[str],
        num_threads: int | None = None,
        *,
        allowed_special: Collection[str] = (),
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of many texts: those of text i are `ids[offsets[i]:offsets[i + 1]]`.

        Args:
            texts: The texts.
            num_threads: One for each processor when None. The result is the same.
            allowed_special: As in `encode`.
        """
        return self._core.encode_batch(texts, num_threads, list(allowed_special))

    def decode(self, ids: Ids, *, skip_special: bool = False) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: Token ids, as a sequence or an integer array.
            skip_special: Leave special tokens out; otherwise they appear as their names.

        Raises:
            ValueError: If an id is not in the vocabulary.
        """
        return self._core.decode(ids, skip_special)

    def decode_bytes(self, ids: Ids, *, skip_special: bool = False) -> bytes:
        """The bytes of ids, exactly; see `decode`."""
        return self._core.decode_bytes(ids, skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token."""
        return self._core.token_bytes(token_id)

    def token_to_id(self, token: str | bytes) -> int | None:
        """The id of the token with exactly these bytes, or None."""
        return self._core.token_to_id(token.encode() if isinstance(token, str) else token)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return self._core.vocab_size

    @property
    def special_tokens(self) -> dict[str, int]:
        """Special tokens and their ids, by id."""
        return dict(self._specials)

    @property
    def eot_id(self) -> int:
        """The id of `<|endoftext|>`, which ends a document.

        Raises:
            ValueError: If this tokenizer has no such token.
        """
        return self._core.special_id(END_OF_TEXT)

    @property
    def pattern(self) -> str:
        """How text is cut: "gpt2", "cl100k", "qwen2", "o200k" or "characters"; "spaces" for sentencepiece
        vocabularies and "custom" for what only a file says.
        """
        return self._core.pattern

    @property
    def num_merges(self) -> int:
        """Number of merge rules."""
        return self._core.num_merges

    @property
    def sha256(self) -> str:
        """Fingerprint of everything that decides ids: equal for equal tokenizers, however made or stored."""
        return self._core.sha256

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return (
            f"Tokenizer(pattern={self.pattern!r}, vocab_size={self.vocab_size}, sha256={self.sha256[:12]!r})"
        )

    def __reduce__(self) -> tuple[Callable[[str], Tokenizer], tuple[str]]:
        return _from_json, (self._core.to_json(),)


class StreamDecoder:
    """Text from ids as they come, for printing while a model generates.

    A character is handed out when its last byte has come: no piece has a U+FFFD that the whole text has not.

    >>> tokenizer = Tokenizer.train(["low lower lowest"], vocab_size=270)
    >>> stream = StreamDecoder(tokenizer)
    >>> [stream.push(token) for token in tokenizer.encode("é!")] + [stream.flush()]
    ['', 'é', '!', '']
    """

    __slots__ = ("_core",)

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False) -> None:
        self._core = _core.StreamDecoder(tokenizer._core, skip_special)

    def push(self, token_id: int) -> str:
        """The text that this id completes, which may be empty."""
        return self._core.push(token_id)

    def flush(self) -> str:
        """What is left at the end: U+FFFD if the last character is incomplete, else nothing."""
        return self._core.flush()


def _from_json(text: str) -> Tokenizer:
    return Tokenizer(_core.Tokenizer.from_json(text))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
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
