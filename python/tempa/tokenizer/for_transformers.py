"""Tokenizers as `transformers` wants them: the same file behind its own class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tokenizers

from tempa.tokenizer.specials import END_OF_TEXT
from tempa.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    import transformers


def as_transformers(tokenizer: Tokenizer, roles: Mapping[str, str]) -> transformers.PreTrainedTokenizerFast:
    """See `Tokenizer.as_transformers`."""
    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError:
        raise ImportError("as_transformers needs transformers: pip install transformers") from None
    specials = tokenizer.special_tokens
    for role, name in roles.items():
        if not role.endswith("_token"):
            raise ValueError(f"{role!r} is no role of a special token, such as bos_token or pad_token")
        if name not in specials:
            raise ValueError(f"{role} {name!r} is not a special token of this tokenizer")
    roles = ({"eos_token": END_OF_TEXT} if END_OF_TEXT in specials else {}) | dict(roles)
    others = [name for name in specials if name not in roles.values()]
    make: Any = PreTrainedTokenizerFast
    made: transformers.PreTrainedTokenizerFast = make(
        tokenizer_object=tokenizers.Tokenizer.from_str(tokenizer.to_json()),
        additional_special_tokens=others,
        clean_up_tokenization_spaces=False,
        **roles,
    )
    return made
