"""Byte-level BPE and character tokenizers: train, encode, decode, load and save.

A tokenizer is immutable. Its ids are those of `tokenizers` and `tiktoken` with the same vocabulary, for any
number of threads. Text never becomes a special token unless the call allows that token by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.tokenizer.invalid_text import Errors, all_valid, valid
from tempa.tokenizer.options import NOTHING, Side, Specials, checked_options
from tempa.tokenizer.placed import Placed, Unit, in_chars
from tempa.tokenizer.specials import DEFAULT_SPECIALS, END_OF_TEXT, TIKTOKEN_SPECIALS
from tempa.tokenizer.training import learn

if TYPE_CHECKING:
    import transformers

Pattern = Literal["gpt2", "cl100k", "qwen2", "o200k"]
Ids = Sequence[int] | NDArray[np.integer]


class Tokenizer:
    """Text to token ids and back.

    Make one with `train`, `load`, `from_tiktoken`, `from_gpt2`, `from_sentencepiece` or `from_characters`.

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
        pattern: Pattern | None = None,
        special_tokens: Sequence[str] = DEFAULT_SPECIALS,
        required_tokens: Sequence[str | bytes] = (),
        min_frequency: int = 2,
        max_token_length: int | None = None,
        base: Tokenizer | None = None,
        lines: bool = False,
        max_memory: int | None = None,
        num_threads: int | None = None,
        progress: Callable[[str, int, int | None], object] | None = None,
    ) -> Tokenizer:
        """Learn a byte-level BPE vocabulary.

        The merges equal those of the `BpeTrainer` of `tokenizers` on an iterator over the same texts.

        Args:
            texts: Whole documents; read once and not kept, so a corpus need not fit in memory.
            vocab_size: Number of ids: 256 bytes, merged tokens and specials. Smaller if pairs run out.
            pattern: How text is cut into pieces that merges never cross; that of `base`, or "gpt2". It also
                decides about digits: "gpt2" takes any number of them together, "cl100k" and "o200k" at most
                three, "qwen2" each alone.
            special_tokens: Names that get the last ids, unless `base` has them.
            required_tokens: Tokens to have even if they are not learned. Their merges come after the learned
                ones, so they do not change how other text is merged first.
            min_frequency: Pairs that occur less often are not merged.
            max_token_length: No token of more bytes is learned.
            base: A tokenizer to train further: it keeps its ids and its merges come first.
            lines: Cut each line on its own, as `train(files)` of `tokenizers` does. Merges of line ends with
                what follows are not learned then.
            max_memory: Bytes that the counts of different pieces may take; more is an error. Learning takes
                about three times as much as counting.
            num_threads: Threads that count pieces, one for each processor when None. The result is the same.
            progress: Called with ("count", bytes done, None), then with ("merge", merges done, at most).

        Raises:
            ValueError: If there is no text, the vocabulary is too small for what it must hold, `base` cuts
                text in another way, or a required token can never be used.

        >>> Tokenizer.train(["one fish two fish"], vocab_size=300).vocab_size  # four merges occur twice
        265
        """
        core = learn(
            texts,
            vocab_size,
            pattern=pattern or (base.pattern if base else "gpt2"),
            special_tokens=special_tokens,
            required_tokens=[_to_bytes(token) for token in required_tokens],
            min_frequency=min_frequency,
            max_token_length=max_token_length,
            base=base._core if base else None,
            lines=lines,
            max_memory=max_memory,
            num_threads=num_threads,
            progress=progress,
        )
        return cls(core)

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
    def from_sentencepiece(
        cls, path: str | os.PathLike[str], *, user_defined: Literal["plain", "special"] = "plain"
    ) -> Tokenizer:
        """Load a `.model` file of sentencepiece: BPE with byte fallback, such as Llama 2's and Mistral's.

        Control pieces become special tokens. The file does not say which of them belong around a text.

        Args:
            path: The file.
            user_defined: What user-defined pieces become: tokens that every text turns into, as in
                sentencepiece, or special ones.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is no such file, or has a feature that would be encoded differently here: the
                message names it.
        """
        if user_defined not in ("plain", "special"):
            raise ValueError(f"user_defined must be 'plain' or 'special', got {user_defined!r}")
        return cls(_core.Tokenizer.from_sentencepiece(path, user_defined == "special"))

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

    @classmethod
    def from_tiktoken(
        cls,
        path: str | os.PathLike[str],
        *,
        pattern: str,
        special_tokens: Mapping[str, int] | None = None,
    ) -> Tokenizer:
        """Load a rank file of tiktoken, such as `cl100k_base.tiktoken`.

        Args:
            path: The file: a token in base 64 and its rank on each line.
            pattern: "gpt2", "cl100k", "qwen2", "o200k", or a regular expression as tiktoken takes it.
                "cl100k_base" is cl100k as tiktoken has had it since 0.9, where white space at the end of a
                text is always one piece; Llama 3 has "cl100k".
            special_tokens: Names and ids, which are not in the file. When None, those of tiktoken's encoding
                of that name, or none.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is no rank file, or a pattern or id cannot be used.
        """
        if special_tokens is None:
            special_tokens = TIKTOKEN_SPECIALS.get(pattern.removesuffix("_base"), {})
        return cls(_core.Tokenizer.from_tiktoken(path, pattern, list(special_tokens.items())))

    def with_special_tokens(self, names: Sequence[str]) -> Tokenizer:
        """The same tokenizer with more special tokens, which get the ids after the last.

        Raises:
            ValueError: If a name is empty, repeated, or already a token.

        >>> characters = Tokenizer.from_characters("ab", special_tokens=())
        >>> characters.with_special_tokens(["<|endoftext|>"]).eot_id
        2
        """
        return Tokenizer(self._core.with_special_tokens(names))

    def with_plain_tokens(self, names: Sequence[str]) -> Tokenizer:
        """The same tokenizer with more tokens that every text turns into, with the ids after the last.

        Raises:
            ValueError: If a name is empty, repeated, or already a token.

        >>> tokenizer = Tokenizer.from_characters("abc", special_tokens=()).with_plain_tokens(["bc"])
        >>> tokenizer.encode("abc")
        [0, 3]
        """
        return Tokenizer(self._core.with_plain_tokens(names))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `tokenizer.json` that `tokenizers` reads too.

        Args:
            path: A file name that ends in `.json`, or a directory, which is made.
        """
        self._core.save(path)

    def save_tiktoken(self, path: str | os.PathLike[str]) -> None:
        """Write a rank file for tiktoken. Pattern and special tokens have no place in it.

        Raises:
            ValueError: If tiktoken would give other ids with these ranks.
        """
        self._core.save_tiktoken(path)

    def save_gpt2(self, vocab_bpe: str | os.PathLike[str], encoder_json: str | os.PathLike[str]) -> None:
        """Write the two files that GPT-2 was published with, also known as merges.txt and vocab.json.

        Raises:
            ValueError: If they cannot hold what this tokenizer is.
        """
        self._core.save_gpt2(vocab_bpe, encoder_json)

    def to_json(self) -> str:
        """The text that `save` writes; equal tokenizers give equal text."""
        return self._core.to_json()

    def as_transformers(self, **roles: str) -> transformers.PreTrainedTokenizerFast:
        """A tokenizer for code that wants one of `transformers`, with the same ids.

        There special tokens are always recognised in text, as `transformers` does.

        Args:
            roles: Special tokens by the names of `transformers`: `bos_token`, `pad_token` and so on.
                `eos_token` is `<|endoftext|>` if there is one.

        Raises:
            ImportError: If `transformers` is not installed.
            ValueError: If a role is given to a token that is not special here.
        """
        from tempa.tokenizer.for_transformers import as_transformers

        return as_transformers(self, roles)

    def encode(
        self,
        text: str | bytes,
        *,
        allowed_special: Specials = (),
        disallowed_special: Specials = (),
        added_tokens: bool = True,
        add_special_tokens: bool = False,
        max_tokens: int | None = None,
        truncate: Side = "right",
        errors: Errors = "strict",
    ) -> list[int]:
        """The ids of a text.

        Args:
            text: Any text, or its UTF-8.
            allowed_special: Names of special tokens to recognise in it, or "all".
            disallowed_special: Names of special tokens that raise an error if they are in it; "all" are those
                that are not allowed. Others are encoded as the text they are.
            added_tokens: Recognise tokens that were added without being special, as files demand.
            add_special_tokens: Put the tokens of the file's template around the text, such as `<s>`.
            max_tokens: Cut off what is more than this, special tokens included.
            truncate: Which side to cut off.
            errors: What becomes of a lone surrogate, or of bytes that are not UTF-8: "strict" raises,
                "replace" makes them U+FFFD, "bytes" encodes the bytes, in pieces of their own.

        Raises:
            ValueError: If the text is not valid under `errors`, has a disallowed special token or, for a
                character tokenizer, an unknown character.
        """
        asked = allowed_special, disallowed_special, added_tokens, add_special_tokens, max_tokens, truncate
        # Most calls ask for nothing, and a short text is encoded in less time than it takes to find that out.
        options = None if asked == NOTHING else checked_options(self._specials, *asked)
        is_text = type(text) is str and errors == "strict"
        return self._core.encode(text if is_text else valid(text, errors), options)

    def encode_batch(
        self,
        texts: Sequence[str | bytes],
        num_threads: int | None = None,
        *,
        allowed_special: Specials = (),
        disallowed_special: Specials = (),
        added_tokens: bool = True,
        add_special_tokens: bool = False,
        max_tokens: int | None = None,
        truncate: Side = "right",
        errors: Errors = "strict",
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of many texts: those of text i are `ids[offsets[i]:offsets[i + 1]]`.

        The options are those of `encode`, for each text. `num_threads` is one for each processor when None;
        the result is the same.
        """
        asked = allowed_special, disallowed_special, added_tokens, add_special_tokens, max_tokens, truncate
        options = checked_options(self._specials, *asked)
        return self._core.encode_batch(all_valid(texts, errors), num_threads, options)

    def encode_lists(
        self,
        texts: Sequence[str | bytes],
        num_threads: int | None = None,
        *,
        allowed_special: Specials = (),
        disallowed_special: Specials = (),
        added_tokens: bool = True,
        add_special_tokens: bool = False,
        max_tokens: int | None = None,
        truncate: Side = "right",
        errors: Errors = "strict",
    ) -> list[list[int]]:
        """The ids of many texts as lists, for code that wants them; `encode_batch` is faster and smaller.

        The arguments are those of `encode_batch`.

        >>> Tokenizer.from_characters("abc", special_tokens=()).encode_lists(["ab", "", "c"])
        [[0, 1], [], [2]]
        """
        asked = allowed_special, disallowed_special, added_tokens, add_special_tokens, max_tokens, truncate
        options = checked_options(self._specials, *asked)
        return self._core.encode_lists(all_valid(texts, errors), num_threads, options)

    def encode_spans(
        self, spans: Iterable[tuple[str | bytes, bool]], *, errors: Errors = "strict"
    ) -> list[int]:
        """The ids of trusted and untrusted texts, one after the other.

        Args:
            spans: Texts, and whether each is trusted: only there are special tokens recognised.
            errors: See `encode`.

        >>> tokenizer = Tokenizer.from_characters("ab<>", special_tokens=["<a>"])
        >>> tokenizer.encode_spans([("<a>", True), ("<a>", False)])
        [4, 0, 2, 1]
        """
        ids: list[int] = []
        for text, is_trusted in spans:
            ids += self.encode(text, allowed_special="all" if is_trusted else (), errors=errors)
        return ids

    def encode_with_offsets(
        self, text: str, *, unit: Unit = "char", allowed_special: Specials = ()
    ) -> Placed:
        """The ids of a text, and where in it each token is.

        Args:
            text: Any text.
            unit: Count characters, or bytes of UTF-8.
            allowed_special: See `encode`.

        >>> Tokenizer.from_characters("abc").encode_with_offsets("cab").starts.tolist()
        [0, 1, 2]
        """
        options = checked_options(self._specials, allowed_special)
        return Placed(*self._core.encode_with_offsets(text, in_chars(unit), options))

    def decode_with_offsets(self, ids: Ids, *, unit: Unit = "char", skip_special: bool = False) -> Placed:
        """The text of ids, and where in it each token is.

        Args:
            ids: Token ids.
            unit: Count characters of `decode`, or bytes of `decode_bytes`.
            skip_special: Leave special tokens out: their places are empty.
        """
        return Placed(*self._core.decode_with_offsets(ids, in_chars(unit), skip_special))

    def normalize(self, text: str, *, allowed_special: Specials = ()) -> str:
        """The text as it is cut, after the changes that the file demands; most make none."""
        return self._core.normalize(text, checked_options(self._specials, allowed_special))

    def count(
        self, text: str | bytes, *, allowed_special: Specials = (), add_special_tokens: bool = False
    ) -> int:
        """The number of ids of a text, which are not made into a list; see `encode`."""
        options = checked_options(self._specials, allowed_special, add_special_tokens=add_special_tokens)
        return int(self._core.count_batch([valid(text, "strict")], 1, options)[0])

    def count_batch(
        self,
        texts: Sequence[str | bytes],
        num_threads: int | None = None,
        *,
        allowed_special: Specials = (),
        add_special_tokens: bool = False,
    ) -> NDArray[np.uint32]:
        """The number of ids of each text, which are not kept; see `encode_batch`."""
        options = checked_options(self._specials, allowed_special, add_special_tokens=add_special_tokens)
        return self._core.count_batch(all_valid(texts, "strict"), num_threads, options)

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
        return self._core.token_to_id(_to_bytes(token))

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return self._core.vocab_size

    @property
    def special_tokens(self) -> dict[str, int]:
        """Special tokens and their ids, by id."""
        return dict(self._specials)

    @property
    def plain_tokens(self) -> dict[str, int]:
        """Tokens that every text turns into although they are not special, by id; see `with_plain_tokens`."""
        return dict(self._core.plain_tokens)

    @property
    def eot_id(self) -> int:
        """The id of `<|endoftext|>`, which ends a document.

        Raises:
            ValueError: If this tokenizer has no such token.
        """
        return self._core.special_id(END_OF_TEXT)

    @property
    def pattern(self) -> str:
        """How text is cut: "gpt2", "cl100k", "cl100k_base", "qwen2", "o200k" or "characters"; "spaces" for
        sentencepiece vocabularies and "custom" for what only a file says.
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


def _from_json(text: str) -> Tokenizer:
    return Tokenizer(_core.Tokenizer.from_json(text))


def _to_bytes(token: str | bytes) -> bytes:
    return token.encode() if isinstance(token, str) else token
