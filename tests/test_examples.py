"""The examples in docstrings run; `np` and `torch` are understood."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

PYTHON = Path(__file__).resolve().parents[1] / "python"
MODULES = sorted(
    ".".join(path.relative_to(PYTHON).with_suffix("").parts).removesuffix(".__init__")
    for path in PYTHON.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(
        importlib.import_module(name), extraglobs={"np": np, "torch": torch}, optionflags=doctest.ELLIPSIS
    )
    assert not result.failed
