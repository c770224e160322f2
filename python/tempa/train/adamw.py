"""AdamW with a step of one kernel for each group, for float32 parameters on CUDA.

Its state is that of `torch.optim.AdamW`, so a run may be resumed on the other kind of device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from tempa.ops import cuda_tensors


class AdamW(torch.optim.Optimizer):
    """`torch.optim.AdamW` (Loshchilov and Hutter, 2019) by `torch.ops.tempa.adamw_`.

    Args:
        params: Parameters, or groups of them with a `weight_decay` of their own.
        lr: Learning rate.
        betas: Decay of the means of gradients and of their squares.
        eps: Added to the root.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float],
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @staticmethod
    def supports(parameters: Iterable[nn.Parameter]) -> bool:
        """Whether the kernel moves all of these."""
        return all(
            cuda_tensors.has_kernels(p) and p.dtype == torch.float32 and p.is_contiguous() for p in parameters
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("AdamW takes no closure")
        for group in self.param_groups:
            # A parameter that has missed a step is a step behind.
            due: dict[int, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    due[self._count(parameter)].append(parameter)
            for step, parameters in due.items():
                means, squares = (
                    [self.state[parameter][name] for parameter in parameters]
                    for name in ("exp_avg", "exp_avg_sq")
                )
                gradients = [parameter.grad for parameter in parameters]
                settings = (group["lr"], group["betas"], group["eps"], group["weight_decay"])
                torch.ops.tempa.adamw_(parameters, gradients, means, squares, step, *settings)

    def _count(self, parameter: nn.Parameter) -> int:
        """The number of this parameter's next step, which is noted."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        step = int(state["step"]) + 1
        # On the CPU, also if it came from a checkpoint: read on the device, it would wait for all before it.
        state["step"] = torch.tensor(float(step))
        return step
