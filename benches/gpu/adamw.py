"""One AdamW step of all parameters of a model, beside torch's own in its three forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu.comparison import OURS, Case, Comparison, Run, Target
from gpu.rig import Rig, normal, size
from tempa.ops import reference

# At this rate the first step, which is what is compared, moves a parameter as far as it is long.
SETTINGS: dict[str, Any] = {"lr": 2e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
# Float32 in another order; 16 bits are rounded once by ours.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
# Read: parameter, gradient, two moments; written: the same without the gradient.
BYTES = {torch.float32: 28, torch.bfloat16: 22}


def cases() -> list[Case]:
    """As many tensors of the same shapes as GPT-2 has, of 124 million parameters."""
    return [
        Case("124 million parameters, float32", lambda rig: _problem(rig, torch.float32), is_quick=True),
        Case("124 million parameters, bfloat16", lambda rig: _problem(rig, torch.bfloat16)),
    ]


def _shapes(rig: Rig) -> list[tuple[int, ...]]:
    width, depth, vocabulary = size(rig, 768, 8), size(rig, 12, 1), size(rig, 50304, 21)
    block = [(width,), (3 * width, width), (width, width), (width,), (4 * width, width), (width, 4 * width)]
    return [(vocabulary, width), (size(rig, 1024, 5), width), *block * depth, (width,)]


def _problem(rig: Rig, dtype: torch.dtype) -> Comparison:
    gradients = [normal(rig, *shape, dtype=dtype, scale=1e-2) for shape in _shapes(rig)]

    def parameters() -> list[Tensor]:
        return [normal(rig, *gradient.shape, dtype=dtype, scale=2e-2) for gradient in gradients]

    sides: dict[str, Callable[[], Run]] = {OURS: lambda: _ours(parameters(), gradients)}
    if dtype == torch.float32:
        for name, options in (("fused", {"fused": True}), ("foreach", {"foreach": True})):
            sides[f"torch {name}"] = lambda options=options: _torchs(rig, parameters(), gradients, **options)
        sides["torch.compile"] = lambda: _torchs(rig, parameters(), gradients, compiled=True, foreach=True)
    else:
        # Torch keeps the moments in the dtype of the parameters, so its steps are not the same.
        sides["torch, step by step"] = lambda: _by_formula(parameters(), gradients)
    amount = sum(gradient.numel() for gradient in gradients) * BYTES[dtype]
    return Comparison(sides, TOLERANCE[dtype], amount, targets=(Target("share", 0.85),))


def _ours(parameters: list[Tensor], gradients: list[Tensor]) -> Run:
    means, squares = ([torch.zeros_like(p, dtype=torch.float32) for p in parameters] for _ in range(2))
    steps = iter(range(1, 1 << 30))

    def run() -> list[Tensor]:
        torch.ops.tempa.adamw_(parameters, gradients, means, squares, next(steps), *SETTINGS.values())
        return parameters

    return run


def _torchs(
    rig: Rig, parameters: list[Tensor], gradients: list[Tensor], *, compiled: bool = False, **options: bool
) -> Run:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    settings = dict(SETTINGS)
    if compiled and rig.device.type == "cuda":
        # The rate and the count of steps as tensors: as numbers they would be compiled into the step.
        settings |= {"lr": torch.tensor(SETTINGS["lr"], device=rig.device), "capturable": True}
    optimizer = torch.optim.AdamW(parameters, **settings, **options)
    step = rig.compiled(optimizer.step) if compiled else optimizer.step

    def run() -> list[Tensor]:
        step()
        return parameters

    return run


def _by_formula(parameters: list[Tensor], gradients: list[Tensor]) -> Run:
    """The first step, again and again: as much work as any other."""

    def run() -> list[Tensor]:
        pairs = zip(parameters, gradients, strict=True)
        return [reference.adamw(p.float(), [g.float()], **SETTINGS).to(p.dtype) for p, g in pairs]

    return run
