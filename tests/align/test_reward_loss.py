import itertools

import pytest
import torch

from tempa.align.reward_loss import (
    pair_loss,
    plackett_luce_loss,
    ranking_pairs_loss,
    rating_loss,
    segment_hinge_loss,
)

RANKED = torch.tensor([2.0, 1.0, 0.5, -1.0], dtype=torch.float64)


def test_bradley_terry_matches_the_worked_numbers():
    """Ch4 §7, Bradley-Terry row; M5, B5, X3."""
    chosen, rejected = torch.tensor(1.5), torch.tensor(0.5)
    assert pair_loss(chosen, rejected).item() == pytest.approx(0.313262, abs=1e-6)
    assert pair_loss(chosen, rejected, center_coef=0.01).item() == pytest.approx(0.353262, abs=1e-6)


def test_a_margin_is_what_the_chosen_must_win_by():
    torch.testing.assert_close(
        pair_loss(torch.tensor(1.5), torch.tensor(0.5), margin=1.0), torch.tensor(2.0).log()
    )


def test_centring_has_a_minimum():
    """Ch4 X3: with the printed minus the loss falls without bound as both scores grow."""
    shift = torch.tensor([0.0, 10.0, 100.0])
    losses = pair_loss(1.5 + shift, 0.5 + shift, center_coef=0.01)
    assert losses.diff().gt(0).all()


def test_plackett_luce_matches_the_worked_numbers():
    """Ch4 §7, Plackett-Luce rows; B2, X9."""
    assert plackett_luce_loss(RANKED).item() == pytest.approx(1.251552, abs=1e-6)
    assert plackett_luce_loss(torch.tensor([1.3, 0.2])).item() == pytest.approx(0.287335, abs=1e-6)
    orders = torch.stack([RANKED[list(order)] for order in itertools.permutations(range(4))])
    assert (-plackett_luce_loss(orders)).exp().sum().item() == pytest.approx(1)


def test_the_ranking_loss_matches_the_worked_numbers():
    """Ch4 §7, list loss row; B1. The book's N (N - 1) would give half."""
    assert ranking_pairs_loss(RANKED).item() == pytest.approx(0.227613, abs=1e-6)


def test_the_ranking_loss_knows_the_order():
    """Ch4 X2: the printed sum over all ordered pairs is 1.019280 for a ranking and its reverse alike."""
    every = torch.stack([pair_loss(a, b) for a, b in itertools.permutations(RANKED, 2)]).mean()
    assert every.item() == pytest.approx(1.019280, abs=1e-6)
    assert ranking_pairs_loss(RANKED.flip(0)) > 5 * ranking_pairs_loss(RANKED)


def test_rating_loss_is_positive():
    """Ch4 X4: the book prints negative squares."""
    assert rating_loss(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 5.0])).tolist() == [1.0, 4.0]


def test_segment_hinge_matches_the_worked_numbers():
    """Ch4 §7, hinge row; B12, X5."""
    losses = segment_hinge_loss(torch.tensor([0.3, 0.3]), torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(losses, torch.tensor([0.7, 1.3]))
    with pytest.raises(ValueError, match=r"\+1 or -1"):
        segment_hinge_loss(torch.tensor([0.3]), torch.tensor([0.0]))
