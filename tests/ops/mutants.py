"""Kernels with a planted mistake, which tests of the right ones have to notice."""

from __future__ import annotations

from pathlib import Path

from tempa.ops import nvrtc


def mutant(folder: Path, source: str, right: str, wrong: str) -> Path:
    """A copy of a kernel in which the one place that reads `right` reads `wrong`."""
    text = (nvrtc.SOURCES / source).read_text()
    assert text.count(right) == 1, f"{source} has {right!r} {text.count(right)} times"
    path = folder / source
    path.write_text(text.replace(right, wrong))
    return path
