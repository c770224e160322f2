import math

import pytest
import torch
import torch.nn.functional as F

from tempa.align.preference import preference_loss


@pytest.mark.parametrize(("beta", "expected"), [(0.1, 0.620957), (0.5, 0.386871)])
def test_dpo_matches_the_worked_numbers(beta, expected):
    """Ch4 §7, DPO row; O4."""
    margin = torch.tensor((-10 - -11.0) - (-12 - -11.5))
    assert preference_loss(margin, beta=beta).item() == pytest.approx(expected, abs=1e-6)


def test_the_loss_of_the_reference_itself_is_log_two():
    """Ch4 §7: at policy = reference the DPO loss is 0.693147, smoothed or not."""
    for smoothing in (0.0, 0.2):
        assert preference_loss(torch.zeros(()), label_smoothing=smoothing).item() == pytest.approx(
            math.log(2)
        )


def test_the_kinds_are_their_formulas():
    """Ch4 N7."""
    h, beta, e = torch.tensor([-3.0, 0.2, 4.0]), 0.3, 0.1
    p, q = -F.logsigmoid(beta * h), -F.logsigmoid(-beta * h)
    expected = {
        "sigmoid": (1 - e) * p + e * q,
        "robust": ((1 - e) * p - e * q) / (1 - 2 * e),
        "ipo": (h - 1 / (2 * beta)) ** 2,
        "hinge": (1 - beta * h).clamp(min=0),
    }
    for kind, value in expected.items():
        smoothing = e if kind in ("sigmoid", "robust") else 0.0
        actual = preference_loss(h, kind=kind, beta=beta, label_smoothing=smoothing)
        torch.testing.assert_close(actual, value)


def test_the_robust_loss_is_unbiased_under_flipped_labels():
    """Its mean over labels flipped with probability e is the clean loss."""
    h, e = torch.linspace(-5, 5, 11), 0.2
    noisy = (1 - e) * preference_loss(h, kind="robust", label_smoothing=e) + e * preference_loss(
        -h, kind="robust", label_smoothing=e
    )
    torch.testing.assert_close(noisy, preference_loss(h))


def test_large_margins_stay_finite():
    """Trap P7: log(1 + exp(x)) overflows, log-sigmoid does not."""
    margin = torch.tensor([-1e6, 1e6], requires_grad=True)
    loss = preference_loss(margin)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert margin.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "dpo"}, "known: sigmoid"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"label_smoothing": 0.5}, "label_smoothing must lie"),
        ({"kind": "ipo", "label_smoothing": 0.1}, "no label smoothing"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        preference_loss(torch.zeros(1), **settings)
