"""GPT-2's tokenizer by us and by the package it is compared with."""

from __future__ import annotations

import ast
import json
import sysconfig
from pathlib import Path

import pytest
import tokenizers

from tempa.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def docstrings() -> list[str]:
    """The standard library's documentation strings: real text on any machine."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:60]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
                text := ast.get_docstring(node)
            ):
                found.append(text)
    return found


@pytest.fixture(scope="session")
def gpt2_files(shared_data: Path) -> tuple[Path, Path]:
    files = shared_data / "gpt2-vocab.bpe", shared_data / "gpt2-encoder.json"
    for file in files:
        if not file.exists():
            pytest.skip(f"no GPT-2 vocabulary beside the checkout: {file} does not exist")
    return files


@pytest.fixture(scope="session")
def gpt2(gpt2_files: tuple[Path, Path]) -> Tokenizer:
    return Tokenizer.from_gpt2(*gpt2_files)


@pytest.fixture(scope="session")
def hf_gpt2(gpt2_files: tuple[Path, Path]) -> tokenizers.Tokenizer:
    """Built from the published files by `tokenizers` itself, not from what we save."""
    lines = gpt2_files[0].read_text(encoding="utf-8").splitlines()[1:]
    vocab = json.loads(gpt2_files[1].read_text(encoding="utf-8"))
    model = tokenizers.models.BPE(vocab, [(left, right) for left, right in map(str.split, lines)])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer
