"""Muon: momentum whose every update is a nearly orthogonal matrix.

The update of a matrix is `U V^T` of its momentum's singular value decomposition `U S V^T`. It is found by a
few odd polynomials of the matrix instead of the decomposition, and all matrices of one shape go through
them together, as one chain of batched products.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tempa.train.precision import has_fast_bf16


@cache
def orthogonalizing_quintics(lowest: float, steps: int) -> tuple[tuple[float, float, float], ...]:
    """Coefficients of `p(x) = a x + b x^3 + c x^5` to apply in turn, so that [lowest, 1] ends near 1.

    Each polynomial is the one closest to 1, in the largest deviation, on the interval that the one before
    leaves: the greedy choice, which is the optimal one (Amsel et al. 2025, "The Polar Express"). Intervals
    are widened by 2% because beyond its interval a polynomial grows fast, and bf16 rounds.

    >>> [[round(value, 2) for value in quintic] for quintic in orthogonalizing_quintics(0.1, 2)]
    [[5.53, -13.22, 8.92], [2.12, -1.47, 0.38]]
    """
    low, high = lowest, 1.02
    chain = []
    for _ in range(steps):
        # Remez: 1 - p reaches its largest size with alternating signs at both ends and at its two extrema.
        inner = (0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high)
        for _ in range(20):
            x = np.array([low, *inner, high])
            system = np.stack([x, x**3, x**5, np.array([1, -1, 1, -1])], axis=1)
            a, b, c, deviation = (float(value) for value in np.linalg.solve(system, np.ones(4)))
            root = (9 * b * b - 20 * a * c) ** 0.5
            inner = (((-3 * b - root) / (10 * c)) ** 0.5, ((-3 * b + root) / (10 * c)) ** 0.5)
        chain.append((a, b, c))
        low, high = 1 - deviation, 1.02 * (1 + deviation)
    return tuple(chain)


def orthogonalize(matrices: Tensor, *, lowest: float = 1e-3, steps: int = 5) -> Tensor:
    """Move the singular values of each matrix to nearly 1, whatever the matrix's scale.

    Args:
        matrices: (n, rows, columns), rows <= columns. The products run in its dtype.
        lowest: Singular values above this share of the bound in the code end near 1; smaller ones grow.
        steps: Number of polynomials.

    Returns:
        (n, rows, columns); a zero matrix stays zero.
    """
    chain = orthogonalizing_quintics(lowest, steps)
    # The largest singular value is at most |X X'|_F^(1/2), which is a tighter bound than |X|_F. Matrices are
    # scaled to |X|_F = 1 first, so that no product underflows.
    wide = torch.promote_types(matrices.dtype, torch.float32)
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True, dtype=wide)
    X: Tensor = matrices / norms.clamp(min=torch.finfo(torch.float32).tiny).to(matrices.dtype)
    A = torch.bmm(X, X.mT)
    bounds = torch.linalg.vector_norm(A, dim=(1, 2), keepdim=True, dtype=wide).clamp(min=1e-30)
    X, A = X / bounds.sqrt().to(X.dtype), A / bounds.to(A.dtype)
    for index, (a, b, c) in enumerate(chain):
        if index:
            A = torch.bmm(X, X.mT)
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), for the hidden matrices of a network.

    An update has singular values near `sqrt(max(1, rows / columns))`, so one rate suits all shapes and the
    scale of the gradient does not matter.

    Args:
        params: Matrices only; embeddings, heads and vectors belong to AdamW.
        lr: Size of an update.
        momentum: Decay of the running mean of gradients; the update looks one step ahead (Nesterov).
        weight_decay: Decoupled decay, times the rate.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon moves matrices, got a tensor of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            shapes: dict[Any, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape, parameter.device].append(parameter)
            for parameters in shapes.values():
                self._step_shape(parameters, group["lr"], group["momentum"], group["weight_decay"])

    def _step_shape(
        self, parameters: list[nn.Parameter], lr: float, momentum: float, weight_decay: float
    ) -> None:
        grads: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        means = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(means, grads, 1 - momentum)
        ahead = torch.stack(torch._foreach_lerp(grads, means, momentum))  # (n, rows, columns)
        rows, columns = ahead.shape[1:]
        dtype = torch.bfloat16 if has_fast_bf16(ahead.device) else torch.float32
        if rows > columns:
            updates = orthogonalize(ahead.mT.to(dtype).contiguous()).mT
        else:
            updates = orthogonalize(ahead.to(dtype))
        weights: list[Tensor] = list(parameters)
        if weight_decay:
            torch._foreach_mul_(weights, 1 - lr * weight_decay)
        size = max(1.0, rows / columns) ** 0.5
        torch._foreach_add_(weights, list(updates.to(ahead.dtype).unbind()), alpha=-lr * size)
