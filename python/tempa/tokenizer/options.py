"""What a call may ask for beside the ids of a text, checked and put as the core takes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from tempa import _core

# Names of special tokens, or all of them.
Specials = Collection[str] | Literal["all"]
Side = Literal["right", "left"]

# What `Tokenizer.encode` is asked for by default, in the order of `checked_options`.
NOTHING = ((), (), True, False, None, "right")


def checked_options(
    special_tokens: Iterable[str],
    allowed_special: Specials,
    disallowed_special: Specials = (),
    added_tokens: bool = True,
    add_special_tokens: bool = False,
    max_tokens: int | None = None,
    truncate: Side = "right",
) -> _core._Options | None:
    """The options that `Tokenizer.encode` describes; None is the default and costs nothing.

    Args:
        special_tokens: All there are.
        allowed_special: This and what follows is as in `Tokenizer.encode`.
        disallowed_special: See there.
        added_tokens: See there.
        add_special_tokens: See there.
        max_tokens: See there.
        truncate: See there.

    Raises:
        ValueError: If a value cannot be used.
    """
    if (
        added_tokens
        and not (allowed_special or disallowed_special or add_special_tokens)
        and max_tokens is None
        and truncate == "right"
    ):
        return None
    if truncate not in ("right", "left"):
        raise ValueError(f"truncate must be 'right' or 'left', got {truncate!r}")
    if max_tokens is not None and max_tokens < 0:
        raise ValueError(f"max_tokens must be at least 0, got {max_tokens}")
    allowed, disallowed = _names(allowed_special), _names(disallowed_special)
    if allowed != [] and not added_tokens:
        raise ValueError("added_tokens=False recognises no added token, so allowed_special must be empty")
    if disallowed is None:
        disallowed = [] if allowed is None else [name for name in special_tokens if name not in allowed]
    return allowed, disallowed, added_tokens, add_special_tokens, max_tokens, truncate == "left"


def _names(special: Specials) -> list[str] | None:
    """The names, or None for all."""
    if isinstance(special, str):
        if special == "all":
            return None
        raise ValueError(f'special tokens are a collection of names or "all", got {special!r}')
    return list(special)
