"""Tokenizers of other kinds, such as WordPiece and Unigram, run by the `tokenizers` package.

`load_tokenizer` reads any `tokenizer.json`: BPE becomes a `Tokenizer`, everything else a `PackageTokenizer`,
which has the same methods where the package can do the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.tokenizer.options import Side, Specials
from tempa.tokenizer.placed import Placed
from tempa.tokenizer.tokenizer import Ids, Tokenizer

if TYPE_CHECKING:
    import tokenizers


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer | PackageTokenizer:
    """Load any `tokenizer.json`, by its name or by that of its directory.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no such file, or BPE with a feature that would be encoded differently here.
        ImportError: If it needs the `tokenizers` package, which is not installed.
    """
    file = Path(path)
    if file.suffix != ".json":
        file /= "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    try:
        model = json.loads(text)["model"]
        is_bpe = model.get("type", "BPE") == "BPE"
    except (ValueError, TypeError, KeyError, AttributeError):
        is_bpe = True  # the message for what is no such file is there
    return Tokenizer.load(file) if is_bpe else PackageTokenizer(text)


class PackageTokenizer:
    """A tokenizer that the `tokenizers` package runs, with the methods of `Tokenizer`.

    Special tokens are recognised in text only if all of them are allowed. Truncation and padding of the file
    are left out; `max_tokens` says how long ids may get.
    """

    __slots__ = ("_json", "_plain", "_special", "_specials")

    def __init__(self, text: str) -> None:
        try:
            import tokenizers
        except ImportError:
            raise ImportError("this kind of tokenizer needs tokenizers: pip install tokenizers") from None
        self._json = text

        def load(text: str) -> tokenizers.Tokenizer:
            try:
                tokenizer = tokenizers.Tokenizer.from_str(text)
            except Exception as error:  # the package raises nothing narrower
                raise ValueError(f"tokenizers cannot read this file: {error}") from None
            tokenizer.no_padding()
            tokenizer.no_truncation()
            return tokenizer

        self._special = load(text)
        self._plain = load(_without_names(text))
        added = self._special.get_added_tokens_decoder().items()
        self._specials = {token.content: number for number, token in sorted(added) if token.special}

    def encode(
        self,
        text: str,
        *,
        allowed_special: Specials = (),
        add_special_tokens: bool = False,
        max_tokens: int | None = None,
        truncate: Side = "right",
    ) -> list[int]:
        """The ids of a text; see `Tokenizer.encode`."""
        tokenizer = self._for(allowed_special)
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        if max_tokens is None or len(ids) <= max_tokens:
            return ids
        if not add_special_tokens:
            return ids[:max_tokens] if truncate == "right" else ids[len(ids) - max_tokens :]
        around = tokenizer.num_special_tokens_to_add(False)
        if max_tokens < around:
            raise ValueError(
                f"max_tokens must be at least {around} for the added special tokens, got {max_tokens}"
            )
        encoding = tokenizer.encode(text, add_special_tokens=False)
        encoding.truncate(max_tokens - around, direction=truncate)
        cut: list[int] = tokenizer.post_process(encoding).ids
        return cut

    def encode_batch(
        self,
        texts: Sequence[str],
        num_threads: int | None = None,
        *,
        allowed_special: Specials = (),
        add_special_tokens: bool = False,
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of many texts; see `Tokenizer.encode_batch`. The package chooses its threads itself."""
        del num_threads
        encodings = self._for(allowed_special).encode_batch_fast(
            list(texts), add_special_tokens=add_special_tokens
        )
        offsets = np.zeros(len(encodings) + 1, np.int64)
        np.cumsum([len(encoding) for encoding in encodings], out=offsets[1:])
        ids = np.empty(offsets[-1], np.uint32)
        for i, encoding in enumerate(encodings):
            ids[offsets[i] : offsets[i + 1]] = encoding.ids
        return ids, offsets

    def encode_with_offsets(self, text: str, *, allowed_special: Specials = ()) -> Placed:
        """The ids of a text and the places of their tokens, in characters of the text as it was."""
        encoding = self._for(allowed_special).encode(text, add_special_tokens=False)
        places = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        return Placed(np.array(encoding.ids, np.uint32), places[:, 0], places[:, 1], text)

    def count(self, text: str, *, allowed_special: Specials = (), add_special_tokens: bool = False) -> int:
        """The number of ids of a text."""
        return len(self.encode(text, allowed_special=allowed_special, add_special_tokens=add_special_tokens))

    def decode(self, ids: Ids, *, skip_special: bool = False) -> str:
        """The text of ids. Models of this kind do not keep all of a text, white space for instance."""
        text: str = self._special.decode([int(i) for i in ids], skip_special_tokens=skip_special)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The token as the vocabulary writes it."""
        token = self._special.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None
        if token is None:
            raise ValueError(f"no token {token_id}: the vocabulary has {self.vocab_size} tokens")
        return str(token).encode()

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it, or None."""
        number: int | None = self._special.token_to_id(token)
        return number

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return int(self._special.get_vocab_size())

    @property
    def special_tokens(self) -> dict[str, int]:
        """Special tokens and their ids, by id."""
        return dict(self._specials)

    @property
    def sha256(self) -> str:
        """Fingerprint of the file."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    def to_json(self) -> str:
        """The text of the file."""
        return self._json

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file: to that name if it ends in `.json`, else into a directory, which is made."""
        file = Path(path)
        if file.suffix != ".json":
            file /= "tokenizer.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        _core.write_whole(file, self._json)

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        kind = json.loads(self._json)["model"]["type"]
        return f"PackageTokenizer(model={kind!r}, vocab_size={self.vocab_size}, sha256={self.sha256[:12]!r})"

    def __reduce__(self) -> tuple[Callable[[str], PackageTokenizer], tuple[str]]:
        return PackageTokenizer, (self._json,)

    def _for(self, allowed: Specials) -> Any:
        names: Collection[str] = self._specials if allowed == "all" else allowed
        if not names:
            return self._plain
        if set(names) == set(self._specials):
            return self._special
        raise ValueError("the tokenizers package recognises all special tokens or none: allow all or nothing")


def _without_names(text: str) -> str:
    """The file with special tokens under names that no text has.

    The package's switch for specials is not enough: Unigram and WordPiece find them in the vocabulary.
    """
    file = json.loads(text)
    model, added = file["model"], [token for token in file.get("added_tokens", ()) if token["special"]]
    secret = secrets.token_hex(16)
    names = {token["content"]: f"<{secret}{token['id']}>" for token in added}
    for token in added:
        token["content"] = names[token["content"]]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(entry, entry): number for entry, number in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(entry, entry), score] for entry, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return json.dumps(file)
