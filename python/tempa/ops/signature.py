"""What the kernels of a source take, read from their declarations: call sites pass plain numbers.

The declaration in the source is the only place where the width of an argument is written.
"""

from __future__ import annotations

import functools
import re

from tempa._core import TempaError

POINTER = "pointer"
TENSOR_MAP = "TensorMap"
# Numbers that a kernel may take, with their formats in `struct`.
NUMBERS = {"int": "i", "unsigned": "I", "long long": "q", "unsigned long long": "Q", "float": "f"}

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
DECLARATION = re.compile(
    r"\b__global__ void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s+)?(\w+)\(([^()]*)\)"
)
QUALIFIERS = {"const", "__restrict__", "__grid_constant__"}


@functools.cache
def signatures(text: str) -> dict[str, tuple[str, ...]]:
    """The kernels of a source, by name, each with the types of its parameters in order.

    A type is a key of `NUMBERS`, `POINTER` or `TENSOR_MAP`.

    Raises:
        TempaError: If a parameter has another type.

    >>> signatures("__global__ void scale(float* __restrict__ x, long long size, float by) {}")
    {'scale': ('pointer', 'long long', 'float')}
    """
    declared = DECLARATION.findall(COMMENT.sub("", text))
    return {
        entry: tuple(_kind(entry, parameter) for parameter in parameters.split(","))
        for entry, parameters in declared
    }


def _kind(entry: str, parameter: str) -> str:
    if "*" in parameter:
        return POINTER
    words = [word for word in parameter.split() if word not in QUALIFIERS]
    kind = " ".join(words[:-1])
    if kind != TENSOR_MAP and kind not in NUMBERS:
        known = ", ".join((*NUMBERS, TENSOR_MAP))
        raise TempaError(f"kernel {entry}: {parameter.strip()!r} is none of {known} or a pointer")
    return kind
