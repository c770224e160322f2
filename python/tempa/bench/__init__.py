"""Measuring: what a machine is, how long a call takes, one schema for results, micro-benchmarks."""
