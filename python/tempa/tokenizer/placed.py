"""Tokens and their places in a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# What places are counted in.
Unit = Literal["char", "byte"]


@dataclass(frozen=True, eq=False)
class Placed:
    """Tokens and where they are in a text.

    Attributes:
        ids: (T,) uint32.
        starts: (T,) int64, where each token begins.
        ends: (T,) int64, where each ends. A character whose bytes are spread over tokens counts to each.
        text: The text that places refer to: `Tokenizer.normalize` of what was encoded, or what was decoded.
    """

    ids: NDArray[np.uint32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    text: str


def in_chars(unit: Unit) -> bool:
    """Whether characters are counted."""
    if unit not in ("char", "byte"):
        raise ValueError(f"unit must be 'char' or 'byte', got {unit!r}")
    return unit == "char"
