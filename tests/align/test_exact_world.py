"""A world small enough to enumerate: 64 sequences, a table for a policy, the best policy in closed form.

Every method is measured in nats from the optimum, `(J* - J) / beta` with `J = E[r] - beta KL(pi || pi_ref)`
(ch4 O1, O2). One seed and one rate each: existence, not a ranking.
"""

import numpy as np
import pytest
import torch

from tempa.align.grade import Task
from tempa.align.policy_loss import POLICIES, Policy, policy_loss, value_loss
from tempa.align.preference import preference_loss
from tempa.align.rollout import Response, make_experience
from tempa.chat import Rendered

VOCAB, LENGTH, BETA = 4, 3, 0.5
SEQUENCES = torch.cartesian_prod(*[torch.arange(VOCAB)] * LENGTH)  # (64, 3)
# Row of the table for each prefix: the empty one, then those of one token, then those of two.
PREFIXES = torch.stack(
    [
        torch.zeros(len(SEQUENCES), dtype=torch.int64),
        1 + SEQUENCES[:, 0],
        1 + VOCAB + VOCAB * SEQUENCES[:, 0] + SEQUENCES[:, 1],
    ],
    dim=1,
)
NUM_PREFIXES = 1 + VOCAB + VOCAB**2


class World:
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.reference = torch.randn(NUM_PREFIXES, VOCAB, generator=generator)
        self.rewards = torch.randn(len(SEQUENCES), generator=generator)
        ref = self.logps(self.reference).sum(1)
        self.best = (ref + self.rewards / BETA).log_softmax(0)
        self.log_z = torch.logsumexp(ref + self.rewards / BETA, 0)

    def logps(self, table):
        """(64, 3) log-probability of every token of every sequence."""
        return table.log_softmax(1)[PREFIXES].gather(2, SEQUENCES[..., None]).squeeze(2)

    def nats_from_optimum(self, table):
        logps, ref = self.logps(table).sum(1), self.logps(self.reference).sum(1)
        objective = (logps.exp() * (self.rewards - BETA * (logps - ref))).sum()
        return float((BETA * self.log_z - objective) / BETA)


@pytest.fixture(scope="module")
def world():
    return World()


def test_the_closed_form_maximises_the_objective(world):
    """Ch4 O2: the value at the optimum is beta log Z, the gap of any policy is its divergence from it."""
    assert float(world.best.exp().sum()) == pytest.approx(1, abs=1e-5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        table = torch.randn(NUM_PREFIXES, VOCAB, generator=generator)
        logps = world.logps(table).sum(1)
        divergence = float((logps.exp() * (logps - world.best)).sum())
        assert world.nats_from_optimum(table) == pytest.approx(divergence, abs=1e-4)


def test_the_implicit_reward_is_the_reward(world):
    """Ch4 O3: r = beta log(pi* / pi_ref) + beta log Z."""
    ref = world.logps(world.reference).sum(1)
    torch.testing.assert_close(BETA * (world.best - ref + world.log_z), world.rewards, atol=1e-5, rtol=0)


def train(world, policy, *, steps, samples=256, lr=0.1, kl_coef=BETA, groups=8):
    """The algorithm's own experience and loss, on the table; the rate falls linearly to zero."""
    table = world.reference.clone().requires_grad_()
    values = torch.zeros(NUM_PREFIXES, requires_grad=True)
    optimizer = torch.optim.Adam([table, values], lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    generator = torch.Generator().manual_seed(2)
    ref = world.logps(world.reference)
    row = Rendered(np.zeros(LENGTH, np.uint32), np.ones(LENGTH, np.uint8))
    for _ in range(steps):
        logps = world.logps(table)
        picked = torch.multinomial(
            logps.detach().sum(1).exp(), samples, replacement=True, generator=generator
        )
        sampled = logps.detach()[picked].numpy()
        responses = [Response(Task((), ""), row, sample, "", True) for sample in sampled]
        experience = make_experience(
            responses,
            world.rewards[picked],
            groups,
            policy,
            kl_coef=kl_coef,
            ref_logps=ref[picked].flatten(),
            values=(values.detach()[PREFIXES[picked]].flatten(), torch.zeros(samples)),
        )
        terms = policy_loss(
            logps[picked].flatten(),
            experience.old_logps,
            experience.advantages,
            experience.offsets,
            policy=policy,
            max_tokens=LENGTH,
            ref_logps=experience.ref_logps,
            kl_coef=kl_coef,
        )
        loss = terms.total / policy.denominator(experience.offsets.diff())
        if experience.returns is not None:
            loss = loss + value_loss(values[PREFIXES[picked]].flatten(), experience.returns).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return world.nats_from_optimum(table.detach())


@pytest.mark.parametrize("name", ["reinforce", "rloo", "reinforce_pp", "ppo"])
def test_divergence_in_the_reward_reaches_the_optimum(world, name):
    """Ch4 O2, X6."""
    assert world.nats_from_optimum(world.reference) > 1
    assert train(world, POLICIES[name], steps=300) < 0.005


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_trap_p5_divergence_in_the_loss_stops_elsewhere(world, kind):
    """k3 has the gradient of the other divergence. k2 has the right one for each token given those before it,
    but does not see how a token changes the divergence of those after it; only a reward does.
    """
    policy = Policy(adv="group", clip=None, mean="constant", kl=("loss", kind))
    assert train(world, policy, steps=300) > 0.1


def test_dpo_on_all_pairs_reaches_the_optimum(world):
    """Ch4 O4: with every pair labelled as often as Bradley-Terry says, DPO has the same optimum."""
    table = world.reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([table], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=400)
    ref = world.logps(world.reference).sum(1)
    a, b = torch.triu_indices(64, 64, offset=1)
    a_wins = torch.sigmoid(world.rewards[a] - world.rewards[b])
    for _ in range(400):
        ratios = world.logps(table).sum(1) - ref
        margin = ratios[a] - ratios[b]
        loss = a_wins * preference_loss(margin, beta=BETA) + (1 - a_wins) * preference_loss(
            -margin, beta=BETA
        )
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        schedule.step()
    assert world.nats_from_optimum(table.detach()) < 0.001
