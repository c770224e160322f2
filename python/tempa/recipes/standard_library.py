"""Real English text that every Python installation has: the documentation strings of its standard library."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Shorter ones are hardly prose.
_MIN_CHARS = 200


def docstrings(max_bytes: int) -> list[str]:
    """Documentation strings of the standard library's modules, classes and functions, in the order of files.

    Args:
        max_bytes: Stop when this much text is found.

    >>> len("".join(docstrings(10_000)))  # doctest: +SKIP
    10322
    """
    found: list[str] = []
    size = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for text in _docstrings_of(path):
            found.append(text)
            size += len(text.encode())
            if size >= max_bytes:
                return found
    return found


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= _MIN_CHARS:
                yield text
