import numpy as np
import pytest
import torch
from torch import nn

from tempa.train.muon import Muon, orthogonalize, orthogonalizing_quintics


def apply(chain: tuple[tuple[float, float, float], ...], x: np.ndarray) -> np.ndarray:
    for a, b, c in chain:
        x = a * x + b * x**3 + c * x**5
    return x


@pytest.mark.parametrize(
    ("lowest", "steps", "deviation"), [(0.1, 3, 0.002), (0.01, 4, 0.05), (0.001, 5, 0.2)]
)
def test_the_quintics_move_their_interval_close_to_one(lowest: float, steps: int, deviation: float) -> None:
    values = apply(orthogonalizing_quintics(lowest, steps), np.linspace(lowest, 1.0, 10001))
    assert np.abs(values - 1).max() < deviation


def test_a_quintic_deviates_equally_at_four_points() -> None:
    # Chebyshev: alternating extrema of one size are what makes it the best polynomial.
    x = np.linspace(0.2, 1.02, 100001)
    deviation = apply(orthogonalizing_quintics(0.2, 1), x) - 1
    inner = deviation[1:-1]
    is_peak = (np.diff(deviation[:-1]) * np.diff(deviation[1:])) <= 0
    extrema = [deviation[0], *inner[is_peak], deviation[-1]]
    assert np.abs(extrema) == pytest.approx(abs(extrema[0]), rel=1e-4)
    assert np.sign(extrema).tolist() == [-1, 1, -1, 1]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 64), (1, 1, 5), (4, 128, 128)])
def test_orthogonalize_agrees_with_the_singular_value_decomposition(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    # Singular values within the interval of the polynomials: they end within its last deviation of 1.
    U, _, Vt = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    S = torch.linspace(0.1, 1, shape[1], dtype=torch.float64)
    found = orthogonalize((U * S) @ Vt, lowest=0.01, steps=6)
    assert torch.linalg.norm(found - U @ Vt) < 0.03 * torch.linalg.norm(U @ Vt)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalize_bounds_the_singular_values_of_any_matrix(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(4, 64, 96, dtype=torch.float32)
    matrices[1] = matrices[1, :, :1] @ matrices[1, :1, :]  # rank 1
    matrices[2, :, 1:] = 0
    matrices[3] *= 1e-3
    values = torch.linalg.svdvals(orthogonalize(matrices.to(dtype)).float())
    assert values.max() < 1.7
    assert values[:, 0].min() > 0.4


def test_orthogonalize_keeps_zero_matrices_and_ignores_scale() -> None:
    matrix = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not orthogonalize(torch.zeros(2, 8, 8)).any()
    torch.testing.assert_close(orthogonalize(matrix * 2.0**-60), orthogonalize(matrix))
    torch.testing.assert_close(orthogonalize(matrix * 2.0**60), orthogonalize(matrix))


def fit_quadratic(make_optimizer, steps: int = 60) -> float:
    torch.manual_seed(0)
    target = torch.randn(12, 8) / 8
    weight = nn.Parameter(torch.zeros(12, 8))
    optimizer = make_optimizer([weight])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        (weight - target).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return float((weight - target).detach().norm() / target.norm())


def test_muon_learns_as_the_one_of_torch_does() -> None:
    # The same method with other polynomials: not equal step by step, but as near to the target.
    ours = fit_quadratic(lambda params: Muon(params, weight_decay=0.0))
    theirs = fit_quadratic(lambda params: torch.optim.Muon(params, weight_decay=0.0))
    assert ours < 1.5 * theirs
    assert ours < 0.1


def test_muon_moves_like_torchs_muon_up_to_the_orthogonalisation() -> None:
    # The update of an orthogonal gradient is known: both end within 0.55 of it.
    torch.manual_seed(0)
    Q, _ = torch.linalg.qr(torch.randn(8, 8))
    ours, theirs = nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8, 8))
    for weight, method in ((ours, Muon), (theirs, torch.optim.Muon)):
        weight.grad = 3 * Q
        method([weight], lr=0.1, momentum=0.95, weight_decay=0.1).step()
    assert torch.linalg.norm((ours - theirs).detach(), 2) < 0.1 * 0.55
    torch.testing.assert_close(ours.detach(), 0.99 * torch.ones(8, 8) - 0.1 * Q, atol=0.1 * 0.55, rtol=0)


def test_muon_batches_matrices_without_mixing_them() -> None:
    torch.manual_seed(0)
    grads = [torch.randn(6, 4), torch.randn(4, 6), torch.randn(6, 4)]
    together = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    apart = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for weights, optimizers in ((together, [Muon(together)]), (apart, [Muon([weight]) for weight in apart])):
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = grad
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)


def test_clipping_does_not_shrink_muon_updates() -> None:
    # Trap N5: the update's size comes from the rate alone.
    torch.manual_seed(0)
    grad = torch.randn(8, 8)
    big, small = nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.zeros(8, 8))
    # Powers of two, so that rounding is the same.
    big.grad, small.grad = grad * 2.0**10, grad * 2.0**-20
    Muon([big]).step()
    Muon([small]).step()
    torch.testing.assert_close(big, small)


def test_muon_refuses_vectors() -> None:
    with pytest.raises(ValueError, match=r"matrices, got a tensor of shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))])
