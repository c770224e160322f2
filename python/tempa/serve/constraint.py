"""Output that is JSON of a schema, by llguidance."""

from __future__ import annotations

from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from tempa.tokenizer import Tokenizer

# White space a model may put between two parts. Without a bound, one that is unsure writes nothing else.
_WHITE_SPACE = r"[ \n]{0,8}"


class JsonGrammars:
    """Compiles schemas for one vocabulary.

    Args:
        tokenizer: Of the model.
        stop_ids: Tokens that end an answer, and are allowed when it is whole.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: tuple[int, ...]) -> None:
        wrapper = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, stop_ids[0]))
        self._tokenizer = llguidance.LLTokenizer(wrapper, eos_token=list(stop_ids))

    def compile(self, schema: dict[str, Any]) -> JsonGrammar:
        """A grammar for the texts that a JSON schema allows.

        Raises:
            ValueError: If the schema is wrong, or has something that is not supported.
        """
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                schema, overrides={"whitespace_pattern": _WHITE_SPACE}
            )
        except RecursionError:
            raise ValueError("the schema is nested too deeply") from None
        # A level that writes nothing to the log: schemas come from outside.
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return JsonGrammar(matcher)


class JsonGrammar:
    """A compiled schema; calling it gives a constraint for one sample."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def __call__(self) -> JsonConstraint:
        """A constraint at the start of the text."""
        return JsonConstraint(self._matcher.deep_copy())


class JsonConstraint:
    """Where one sample is in the grammar; see `tempa.engine.request.Constraint`.

    A grammar that becomes too much work allows no token any more, which ends its own sample and no other.
    """

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def fill(self, words: NDArray[np.int32]) -> None:
        """Set the bits of the tokens that may come next."""
        # The model may have more rows than the tokenizer has tokens.
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.int32)
        words[:] = 0
        if not self._matcher.is_error():
            words[: len(mask)] = mask

    def accept(self, token: int) -> None:
        """Go on past a token."""
        self._matcher.consume_token(token)


class _Vocabulary:
    """A tokenizer as llguidance wants it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, eos_token_id: int) -> None:
        self.eos_token_id = eos_token_id
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = list(tokenizer.special_tokens.values())
        self._tokenizer = tokenizer

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace"))
