from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from tempa.align.signals import (
    aggregate_steps,
    combine_rewards,
    kl_rewards,
    segment_scores,
    shaped_rewards,
    soft_preference,
    terminal_rewards,
)


def test_a_score_arrives_at_the_last_token_of_its_response():
    """Ch4 R12."""
    rewards = terminal_rewards(torch.tensor([2.0, 0.0, -1.0]), torch.tensor([0, 2, 3, 6]))
    assert rewards.tolist() == [0, 2, 0, 0, 0, -1]


def test_an_empty_response_cannot_carry_a_score():
    with pytest.raises(ValueError, match="response 1 is empty"):
        terminal_rewards(torch.zeros(2), torch.tensor([0, 2, 2]))


def test_the_kl_shaped_reward_matches_the_worked_numbers():
    """Ch4 §7, KL-shaped reward row; P4. Trap P6: more likely than under the reference costs, not pays."""
    policy, reference = torch.tensor([0.5, 0.3, 0.6, 0.9]).log(), torch.tensor([0.4, 0.4, 0.5, 0.9]).log()
    rewards = kl_rewards(torch.tensor([1.0]), policy, reference, torch.tensor([0, 4]), beta=0.1)
    expected = torch.tensor([-0.022314, 0.028768, -0.018232, 1.0])
    torch.testing.assert_close(rewards, expected, atol=1e-6, rtol=0)
    assert (policy - reference).sum().item() == pytest.approx(0.117783, abs=1e-6)


def test_the_kl_shaped_reward_is_a_constant():
    """Ch4 X6: no gradient flows through it."""
    logps = torch.zeros(2, requires_grad=True)
    assert not kl_rewards(torch.ones(1), logps, torch.zeros(2), torch.tensor([0, 2]), beta=0.1).requires_grad


@given(
    rows=st.lists(
        st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    ),
    gamma=st.floats(0, 1),
)
def test_shaping_changes_a_return_by_the_first_potential_alone(rows, gamma):
    """Ch4 B6."""
    offsets = torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()])
    rewards, potentials = torch.tensor([pair for row in rows for pair in row], dtype=torch.float64).T
    change = shaped_rewards(rewards, potentials, offsets, gamma=gamma) - rewards
    for start, stop in pairwise(offsets):
        discounts = gamma ** torch.arange(stop - start, dtype=torch.float64)
        torch.testing.assert_close(
            (change[start:stop] * discounts).sum(), -potentials[start], atol=1e-9, rtol=0
        )


def test_segment_scores_match_the_worked_numbers():
    """Ch4 §7, segment differences row; B10: they sum to the score of the whole."""
    scores = segment_scores(torch.tensor([0.0, 0.3, 0.2, 0.7]))
    torch.testing.assert_close(scores, torch.tensor([0.3, -0.1, 0.5]))
    assert scores.sum().item() == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("count", 3),
        ("log_sum", -1.296088),
        ("product", 0.2736),
        ("min", 0.4),
        ("mean", 0.7625),
        ("last", 0.95),
    ],
)
def test_step_scores_match_the_worked_numbers(mode, expected):
    """Ch4 §7, PRM row; T4, T5."""
    score = aggregate_steps(torch.tensor([0.9, 0.8, 0.4, 0.95]), mode)
    assert score.item() == pytest.approx(expected, abs=1e-6)


def test_count_tells_the_worked_responses_apart():
    """Ch4 T8: five right steps against three right ones, though both end in the right answer."""
    first, second = torch.tensor([0.9] * 5), torch.tensor([0.9, 0.9, 0.1, 0.1, 0.9])
    assert (aggregate_steps(first, "count").item(), aggregate_steps(second, "count").item()) == (5, 3)


def test_ensembles_match_the_worked_numbers():
    """Ch4 §7, ensemble row; B14, X14."""
    scores = torch.tensor([1.0, 2.0, -1.0])[:, None]
    weighted = combine_rewards(scores, "weighted", weights=torch.tensor([1.0, 1.0, 2.0]))
    assert weighted.item() == pytest.approx(0.25)
    assert combine_rewards(scores, "mean").item() == pytest.approx(0.666667, abs=1e-6)
    assert combine_rewards(scores, "min").item() == -1
    assert combine_rewards(scores, "uncertainty").item() < 0.666667
    with pytest.raises(ValueError, match="weights go with"):
        combine_rewards(scores, "mean", weights=torch.ones(3))


def test_soft_labels_match_the_worked_numbers():
    """Ch4 §7, soft label row; L3."""
    assert soft_preference(torch.tensor(-1.2), torch.tensor(-0.4)).item() == pytest.approx(0.310026, abs=1e-6)
