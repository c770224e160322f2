"""Whether the weights of a model are still those they were."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tempa import _core


def weights_checksum(model: nn.Module) -> int:
    """A number that changes with any weight, from the weights themselves.

    Torch counts the changes of a tensor in `_version`, but not those of its fused optimizers, nor any through
    `parameter.data`. This reads every weight once, at the speed of memory.
    """
    parts = [_bits(parameter) for parameter in model.parameters()]
    return _core.checksum([part.cpu().numpy() for part in parts])


def _bits(parameter: Tensor) -> Tensor:
    """The bytes of a tensor; elsewhere than on the CPU, what they come to in two ways."""
    flat = parameter.detach().contiguous().flatten().view(torch.uint8)
    if flat.device.type == "cpu":
        return flat
    words = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(torch.int64)
    place = torch.arange(1, len(words) + 1, device=words.device)
    return torch.stack([words.sum(), (words * place).sum()]).view(torch.uint8)
