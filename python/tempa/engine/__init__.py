"""Paged generation and scoring."""
