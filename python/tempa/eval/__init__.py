"""Scores of models, with intervals."""
