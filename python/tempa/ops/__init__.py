"""Fused operations: one signature, several backends, one chooser."""
