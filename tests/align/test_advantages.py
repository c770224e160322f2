import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from tempa.align.advantages import gae, group, group_z, is_flat, leave_one_out, reward_to_go, whiten

SCORES = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("advantage", "good", "bad"),
    [
        (group_z(SCORES), 1.290994, -0.774597),
        (group_z(SCORES, std="sample"), 1.207615, -0.724569),
        (group(SCORES), 0.625, -0.375),
        (leave_one_out(SCORES), 0.714286, -0.428571),
    ],
    ids=["population", "sample", "no std", "leave one out"],
)
def test_group_advantages_match_the_worked_numbers(advantage, good, bad):
    """Ch4 §7, GRPO row; N2, N3, trap P2."""
    expected = torch.where(SCORES == 1, good, bad)
    torch.testing.assert_close(advantage, expected, atol=1e-6, rtol=0)


def test_leave_one_out_is_the_score_minus_the_mean_of_the_others():
    scores = torch.tensor([[3.0, 5.0, 10.0]])
    torch.testing.assert_close(leave_one_out(scores), torch.tensor([[3 - 7.5, 5 - 6.5, 10 - 4.0]]))


@pytest.mark.parametrize("score", [0.0, 1.0, 0.1])
def test_a_group_of_equal_scores_has_zero_advantage(score):
    """Ch4 N2. The mean of three times 0.1 is not 0.1, and dividing that by its own deviation would give 1."""
    scores = torch.full((2, 3), score)
    assert group_z(scores).tolist() == [[0.0] * 3] * 2
    assert is_flat(scores).all()


@pytest.mark.parametrize("baseline", [group_z, group, leave_one_out])
def test_trap_p3_a_group_of_one_is_refused(baseline):
    with pytest.raises(ValueError, match="at least 2 samples"):
        baseline(torch.ones(4, 1))


@pytest.mark.parametrize("baseline", [group_z, group, leave_one_out])
def test_trap_p4_scores_without_a_group_axis_are_refused(baseline):
    with pytest.raises(ValueError, match="prompts, samples"):
        baseline(torch.ones(4))


def test_groups_do_not_see_each_other():
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([group_z(row[None]) for row in scores])
    torch.testing.assert_close(group_z(scores), rows)


def reference_gae(rewards, values, gamma, lam, last):
    """Ch4 N1, one row, as printed."""
    advantages, following, advantage = [], last, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        advantage = reward + gamma * following - value + gamma * lam * advantage
        following = value
        advantages.insert(0, advantage)
    return advantages


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        (0.0, [0.2, -0.3, 0.4, 0.5]),
        (0.95, [0.704687, 0.531250, 0.875000, 0.500000]),
        (1.0, [0.8, 0.6, 0.9, 0.5]),
    ],
)
def test_gae_matches_the_worked_numbers(lam, expected):
    """Ch4 §7, GAE rows; N1, R8, R10."""
    values = torch.tensor([0.2, 0.4, 0.1, 0.5])
    advantages, returns = gae(torch.tensor([0.0, 0, 0, 1]), values, torch.tensor([0, 4]), lam=lam)
    torch.testing.assert_close(advantages, torch.tensor(expected), atol=1e-6, rtol=0)
    torch.testing.assert_close(returns, advantages + values)


def test_gae_of_the_kl_shaped_reward_matches_the_worked_numbers():
    """Ch4 §7, the GAE row after the KL-shaped reward."""
    rewards = torch.tensor([-0.022314, 0.028768, -0.018232, 1.0])
    advantages, _ = gae(rewards, torch.tensor([0.2, 0.4, 0.1, 0.5]), torch.tensor([0, 4]), lam=0.95)
    expected = torch.tensor([0.693248, 0.542698, 0.856768, 0.500000])
    torch.testing.assert_close(advantages, expected, atol=1e-6, rtol=0)


floats = st.floats(-2, 2, width=32)


@given(
    rows=st.lists(st.lists(st.tuples(floats, floats), max_size=8), min_size=1, max_size=6),
    last=floats,
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
)
def test_gae_equals_the_plain_recursion_on_ragged_rows(rows, last, gamma, lam):
    offsets = torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()])
    flat = torch.tensor([pair for row in rows for pair in row]).reshape(-1, 2)
    last_values = torch.full((len(rows),), last)
    advantages, _ = gae(flat[:, 0], flat[:, 1], offsets, gamma=gamma, lam=lam, last_values=last_values)
    expected = []
    for row in rows:
        expected += reference_gae([r for r, _ in row], [v for _, v in row], gamma, lam, last)
    torch.testing.assert_close(advantages, torch.tensor(expected).float(), atol=1e-5, rtol=1e-5)


def test_reward_to_go_is_the_rest_of_the_row():
    """Ch4 R7, X8: the past reward is what is removed."""
    togo = reward_to_go(torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([0, 3, 4]), gamma=0.5)
    assert togo.tolist() == [1 + 0.5 * 2 + 0.25 * 3, 2 + 0.5 * 3, 3.0, 10.0]


def test_whitening_gives_mean_zero_and_deviation_one():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    white = whiten(values)
    assert white.mean().abs() < 1e-6
    assert white.std(correction=0) == pytest.approx(1, abs=1e-6)
    assert whiten(values, shift_mean=False).mean() == pytest.approx(3.0)


@pytest.mark.parametrize("values", [[], [0.1], [0.1, 0.1, 0.1]])
def test_whitening_what_has_no_scale_stays_finite(values):
    """Trap L12."""
    assert whiten(torch.tensor(values)).abs().le(1e-6).all()
