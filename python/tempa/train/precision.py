"""Where to train, and in which number format."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn


def choose_device(name: str) -> torch.device:
    """The device a setting means: "auto" is a GPU if there is one.

    Raises:
        ValueError: If the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not available: torch finds no GPU; use --device cpu")
    return device


# Width from which bf16 outweighs its casts on a CPU with AVX512-BF16. With steps of one size it is ahead from
# 192 on; but each new number of tokens has its kernels compiled and kept, so packed batches, which all differ
# in that, gain 8 % at 192 and 26 % at 320 and hold hundreds of megabytes more.
BF16_FROM_WIDTH = 384


def choose_precision(setting: str, device: torch.device, model: nn.Module) -> Literal["fp32", "bf16"]:
    """The format of the matrix products; parameters and optimizer state are float32 in either.

    Args:
        setting: "fp32", "bf16", or "auto", which depends on the device and on the model's width but on no
            timing, so that a resumed run decides alike.
        device: Where the model is.
        model: Its widest matrix, by the shorter side, counts.
    """
    if setting == "auto":
        wide = device.type == "cuda" or model_width(model) >= BF16_FROM_WIDTH
        return "bf16" if wide and has_fast_bf16(device) else "fp32"
    return "bf16" if setting == "bf16" else "fp32"


def model_width(model: nn.Module) -> int:
    """The longest shorter side of a matrix: the size of the residual stream in a Transformer."""
    return max((min(p.shape) for p in model.parameters() if p.ndim == 2), default=0)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices faster than float32 ones; elsewhere bf16 is emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
