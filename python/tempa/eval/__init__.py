"""Scores of models, with intervals."""

from tempa.eval.intervals import Estimate, bootstrap_interval, non_overlapping
from tempa.eval.measures import (
    Answers,
    best_of_n_divergence,
    bits_per_byte,
    exact_answer,
    pair_accuracy,
    performance_gap_recovered,
    win_rate,
)

__all__ = [
    "Answers",
    "Estimate",
    "best_of_n_divergence",
    "bits_per_byte",
    "bootstrap_interval",
    "exact_answer",
    "non_overlapping",
    "pair_accuracy",
    "performance_gap_recovered",
    "win_rate",
]
