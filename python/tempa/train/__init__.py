"""Optimisers, schedules, the loop, checkpoints, run directories."""
