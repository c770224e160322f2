"""Initial weights: a pure function of the seed, the parameter's name and its shape."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn

from tempa.model.config import ModelConfig


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fill the matrices in place; norms keep their ones and zeros, biases become zero.

    A parameter's values depend on its name, not on the parameters before it: a deeper model starts with the
    same lower blocks.

    "modern": matrices have variance 1 / fan-in; projections back into the residual stream are zero, so each
    block starts as the identity.
    "gpt2": normal with 0.02, and 0.02 / sqrt(2 depth) into the residual stream (Radford et al., 2019).
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() == 2:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
            into_residual = name.endswith(("out.weight", "down.weight"))
            _fill(parameter, name, into_residual, config, generator)


def _fill(
    parameter: Tensor, name: str, into_residual: bool, config: ModelConfig, generator: torch.Generator
) -> None:
    if config.init == "gpt2":
        scale = 0.02 / (2 * config.depth) ** 0.5 if into_residual else 0.02
        parameter.normal_(0, scale, generator=generator)
    elif into_residual or name == "head.weight":
        parameter.zero_()
    elif "embedding" in name:
        # As the head of a tied model, 0.02 keeps the first predictions near uniform.
        parameter.normal_(0, 0.02, generator=generator)
    else:
        bound = (3 / parameter.shape[1]) ** 0.5
        parameter.uniform_(-bound, bound, generator=generator)
