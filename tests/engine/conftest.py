"""A small model far from its initial zeros, and prompts for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tempa.engine import Completion
from tempa.model import ModelConfig, Transformer
from tempa.tokenizer import Tokenizer

SHAPES = {
    "modern": {},
    "gpt2": {
        "norm": "layer",
        "positions": "learned",
        "qk_norm": False,
        "embedding_norm": False,
        "mlp": "gelu",
    },
    "grouped": {"num_kv_heads": 1, "mlp": "swiglu", "tied": False, "softcap": 5.0},
    "windowed": {"window": 5},
}


def _build(name: str = "modern", **changes: object) -> Transformer:
    shape = {"depth": 2, "width": 16, "num_heads": 2, "max_positions": 64, **SHAPES[name], **changes}
    model = Transformer(ModelConfig(vocab_size=23, **shape))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # far enough from the initial zeros that every token matters
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def _prompts_of(*lengths: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 23, length).tolist() for length in lengths]


def _tokens(results: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.ids.tolist() for completion in group] for group in results]


@pytest.fixture(scope="session")
def build() -> Callable[..., Transformer]:
    return _build


@pytest.fixture(scope="session")
def prompts_of() -> Callable[..., list[list[int]]]:
    return _prompts_of


@pytest.fixture(scope="session")
def tokens() -> Callable[[list[list[Completion]]], list[list[list[int]]]]:
    return _tokens


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A letter for each token of the model."""
    return Tokenizer.from_characters("abcdefghijklmnopqrstuvw", special_tokens=())
