import dataclasses

import pytest
import torch

from tempa.align.policy_loss import (
    POLICIES,
    Policy,
    clipped_surrogate,
    kl_estimate,
    policy_loss,
    segment_sum,
    value_loss,
)

OFFSETS = torch.tensor([0, 1, 5])


def test_the_clipped_surrogate_matches_the_worked_numbers():
    """Ch4 §7, PPO rows; P3, X1."""
    ratio, advantages = torch.tensor([1.1, 0.7, 1.4, 1.0]), torch.tensor([1, -1, 0.5, -0.2])
    terms, is_clipped = clipped_surrogate(ratio, advantages, (0.2, 0.2))
    torch.testing.assert_close(terms, torch.tensor([1.1, -0.8, 0.6, -0.2]))
    assert terms.mean().item() == pytest.approx(0.175)
    assert is_clipped.tolist() == [False, True, True, False]
    bad, _ = clipped_surrogate(torch.tensor([0.5, 1.5]), torch.tensor([-1.0, -1.0]), (0.2, 0.2))
    torch.testing.assert_close(bad, torch.tensor([-0.8, -1.5]))


def test_a_bad_token_that_became_likelier_still_has_a_gradient():
    """Ch4 X1: the printed clip stops exactly here."""
    ratio = torch.tensor([1.5], requires_grad=True)
    clipped_surrogate(ratio, torch.tensor([-1.0]), (0.2, 0.2))[0].backward()
    assert ratio.grad.item() == -1
    printed = torch.minimum(ratio, torch.tensor(1.2)) * -1.0
    assert torch.autograd.grad(printed, ratio)[0].item() == 0


def test_the_clip_is_asymmetric_when_asked():
    ratio = torch.tensor([1.25, 0.75])
    terms, _ = clipped_surrogate(ratio, torch.tensor([1.0, -1.0]), (0.2, 0.28))
    torch.testing.assert_close(terms, torch.tensor([1.25, -0.8]))


def terms_of(policy, logps, old=None, advantages=None, **settings):
    old = logps.detach() if old is None else old
    advantages = torch.ones_like(logps) if advantages is None else advantages
    return policy_loss(logps, old, advantages, OFFSETS, policy=policy, max_tokens=8, **settings)


@pytest.mark.parametrize("name", POLICIES)
def test_on_policy_every_row_has_the_reinforce_gradient(name):
    """Ch4 P2, (4.48): at pi = pi_old the gradient is A grad log pi, weighted as the row averages."""
    policy = POLICIES[name]
    advantages = torch.tensor([2.0, -1.0, -1.0, -1.0, -1.0])
    logps = torch.tensor([-1.0, -2.0, -0.5, -3.0, -0.1], requires_grad=True)
    terms = terms_of(policy, logps, advantages=advantages)
    terms.total.backward()
    weights = policy.token_weights(OFFSETS.diff(), 8)
    torch.testing.assert_close(logps.grad, -weights * advantages)
    assert terms.log_ratio.tolist() == [0.0] * 5
    assert not terms.is_clipped.any()


@pytest.mark.parametrize(
    ("mean", "expected", "denominator"),
    [("token", [1.0] * 5, 5), ("sequence", [1, 0.25, 0.25, 0.25, 0.25], 2), ("constant", [1 / 8] * 5, 2)],
)
def test_means_weigh_tokens_as_they_say(mean, expected, denominator):
    """Ch4 N2. Trap P1: only under "sequence" does a token of a long response count less."""
    policy = Policy(adv="group", mean=mean)
    assert policy.token_weights(OFFSETS.diff(), 8).tolist() == expected
    assert policy.denominator(OFFSETS.diff()) == denominator


def test_the_sequence_ratio_is_the_geometric_mean():
    logps, old = torch.zeros(5), torch.tensor([0.1, 0.2, 0.0, -0.4, 0.6])
    policy = dataclasses.replace(POLICIES["gspo"], clip=None)
    ratios = [-0.1, -0.4 / 4]
    expected = -torch.tensor(ratios).exp().sum()
    torch.testing.assert_close(terms_of(policy, logps, old).total, expected)


def test_a_divergence_in_the_loss_is_added_with_its_weight():
    policy, reference = POLICIES["grpo"], torch.tensor([-1.0, -1.0, -1.0, -1.0, -1.0])
    logps = torch.tensor([-1.0, -2.0, -0.5, -3.0, -0.1])
    with_kl = terms_of(policy, logps, ref_logps=reference, kl_coef=0.5)
    k3 = (reference - logps).exp() - (reference - logps) - 1
    weights = policy.token_weights(OFFSETS.diff(), 8)
    torch.testing.assert_close(with_kl.total - terms_of(policy, logps).total, 0.5 * (weights * k3).sum())
    with pytest.raises(ValueError, match="ref_logps"):
        terms_of(policy, logps, kl_coef=0.5)


def test_trap_p4_one_advantage_for_each_token_is_required():
    with pytest.raises(ValueError, match="one value for each of 5 tokens"):
        terms_of(POLICIES["grpo"], torch.zeros(5), advantages=torch.ones(2))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_trap_p7_far_apart_policies_stay_finite(kind):
    logps = torch.tensor([-1000.0, 0.0], requires_grad=True)
    kl = kl_estimate(logps, torch.tensor([0.0, -1000.0]), kind).sum()
    ratio = policy_loss(
        logps,
        torch.tensor([0.0, -1000.0]),
        -torch.ones(2),
        torch.tensor([0, 2]),
        policy=POLICIES["reinforce"],
        max_tokens=1,
    ).total
    (kl + ratio).backward()
    assert kl.isfinite()
    assert ratio.isfinite()
    assert logps.grad.isfinite().all()


def softmax_world():
    """A policy and a reference over six actions, in float64."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=generator, dtype=torch.float64)
    reference = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(0)
    return logits, reference


def exact_kl(p, q):
    return (p.exp() * (p - q)).sum()


def finite_difference(function, x, eps=1e-6):
    steps = torch.eye(len(x), dtype=x.dtype) * eps
    return torch.stack([(function(x + step) - function(x - step)) / (2 * eps) for step in steps])


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_estimators_have_the_stated_means(kind):
    """Ch4 N4, exact enumeration: as values k1 and k3 are unbiased, k2 is not. Trap P6: KL is positive."""
    logits, reference = softmax_world()
    logps = logits.log_softmax(0)
    mean, kl = (logps.exp() * kl_estimate(logps, reference, kind)).sum(), exact_kl(logps, reference)
    assert kl > 0
    assert torch.isclose(mean, kl, atol=1e-12) == (kind != "k2")


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("k1", lambda _, logits: 0 * logits.sum()),
        ("k2", lambda reference, logits: exact_kl(logits.log_softmax(0), reference)),
        ("k3", lambda reference, logits: exact_kl(reference, logits.log_softmax(0))),
    ],
)
def test_trap_p5_the_gradient_of_an_estimator_as_a_loss(kind, target):
    """Ch4 N4, X6: k1 has none, k2 that of KL(pi || ref), k3 that of KL(ref || pi), by finite differences."""
    logits, reference = softmax_world()
    leaf = logits.clone().requires_grad_()
    logps = leaf.log_softmax(0)
    (logps.detach().exp() * kl_estimate(logps, reference, kind)).sum().backward()
    expected = finite_difference(lambda x: target(reference, x), logits)
    torch.testing.assert_close(leaf.grad, expected, atol=1e-8, rtol=0)


def test_k1_in_the_reward_has_the_gradient_of_the_divergence():
    """Ch4 X6, P4: E[grad log pi * (log pi - log ref)] = grad KL(pi || ref)."""
    logits, reference = softmax_world()
    leaf = logits.clone().requires_grad_()
    logps = leaf.log_softmax(0)
    (logps.detach().exp() * logps * (logps - reference).detach()).sum().backward()
    expected = finite_difference(lambda x: exact_kl(x.log_softmax(0), reference), logits)
    torch.testing.assert_close(leaf.grad, expected, atol=1e-8, rtol=0)


def test_value_loss_takes_the_worse_of_free_and_clipped():
    """Ch4 N5; trap P14: the half, and the maximum, are there."""
    values, old, returns = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0])
    assert value_loss(values, returns).tolist() == [0.0, 2.0]
    clipped = value_loss(values, returns, old_values=old, clip=0.2)
    torch.testing.assert_close(clipped, torch.tensor([0.8**2 / 2, 2.0]))
    with pytest.raises(ValueError, match="old_values"):
        value_loss(values, returns, clip=0.2)


def test_segment_sums_stay_in_their_segments():
    assert segment_sum(torch.arange(5.0), OFFSETS).tolist() == [0, 10]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adv": "zscore"}, "known: group_z"),
        ({"adv": "group", "ratio": "row"}, "ratio must be"),
        ({"adv": "group", "mean": "batch"}, "known: token"),
        ({"adv": "group", "clip": (0.2, 0.0)}, "clip must be"),
        ({"adv": "group", "kl": ("loss", "k1")}, "does not hold"),
        ({"adv": "group", "kl": ("reward", "k3")}, "does not hold"),
        ({"adv": "gae", "lam": 1.5}, "lam must lie"),
        ({"adv": "gae", "value_clip": -1.0}, "value_clip"),
        ({"adv": "gae", "skip_flat": True}, "skip_flat needs groups"),
    ],
)
def test_switches_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Policy(**settings)
