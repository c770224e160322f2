"""Cross-entropy and log-probabilities from hidden states, with 131,072 words: time and memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu.comparison import OURS, Case, Comparison, Run, Target
from gpu.rig import Rig, normal, size

TOKENS, WORDS = 8192, 131072
# Gradients are sums of rounded products; unfused, the logits are rounded to bfloat16 too.
TOLERANCE = 3e-2
TARGETS = (Target("memory", 0.1, peer="torch"), Target("ratio", 1.0, peer="torch"))


def cases() -> list[Case]:
    """A large model's width and that of GPT-2; scoring is the forward alone."""
    return [
        Case("loss and gradients, 8192 tokens, width 2048", lambda rig: _loss(rig, 2048), is_quick=True),
        Case("loss and gradients, 8192 tokens, width 768", lambda rig: _loss(rig, 768)),
        Case("log-probabilities, 8192 tokens, width 2048", _scores),
    ]


def _inputs(rig: Rig, width: int) -> tuple[Tensor, Tensor, Tensor]:
    num_tokens, width, words = size(rig, TOKENS, 9), size(rig, width, 16), size(rig, WORDS, 50)
    generator = torch.Generator(rig.device).manual_seed(words)
    targets = torch.randint(0, words, (num_tokens,), generator=generator, device=rig.device)
    return normal(rig, num_tokens, width), normal(rig, words, width, scale=width**-0.25), targets


def _fused(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logps: Tensor = torch.ops.tempa.linear_logp(hidden, weight, targets, 1.0, None)[0]
    return logps


def _unfused(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return -F.cross_entropy((hidden @ weight.T).float(), targets, reduction="none")


def _loss(rig: Rig, width: int) -> Comparison:
    hidden, weight, targets = _inputs(rig, width)

    def with_gradients(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Run:
        leaves = [x.detach().requires_grad_() for x in (hidden, weight)]

        def run() -> tuple[Tensor, ...]:
            total = loss(*leaves, targets)
            return total.detach(), *torch.autograd.grad(total, leaves)

        return run

    def liger() -> Run:
        module: Any = importlib.import_module("liger_kernel.transformers")
        function = module.LigerFusedLinearCrossEntropyLoss(reduction="sum")
        return with_gradients(lambda hidden, weight, targets: function(weight, hidden, targets))

    def unfused(*inputs: Tensor) -> Tensor:
        return -_unfused(*inputs).sum()

    return Comparison(
        {
            OURS: lambda: with_gradients(lambda *inputs: -_fused(*inputs).sum()),
            "torch": lambda: with_gradients(unfused),
            "torch.compile": lambda: with_gradients(rig.compiled(unfused)),
            "Liger": liger,
        },
        TOLERANCE,
        6.0 * hidden.numel() * len(weight),
        unit="FLOP/s",
        ceiling="gemm",
        pace="warm",
        targets=TARGETS,
        measures_memory=True,
    )


def _scores(rig: Rig) -> Comparison:
    hidden, weight, targets = _inputs(rig, 2048)

    def without_gradients(score: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Run:
        @torch.no_grad()
        def run() -> Tensor:
            return score(hidden, weight, targets)

        return run

    return Comparison(
        {
            OURS: lambda: without_gradients(_fused),
            "torch": lambda: without_gradients(_unfused),
            "torch.compile": lambda: without_gradients(rig.compiled(_unfused)),
        },
        TOLERANCE,
        2.0 * hidden.numel() * len(weight),
        unit="FLOP/s",
        ceiling="gemm",
        pace="warm",
        targets=TARGETS,
        measures_memory=True,
    )
