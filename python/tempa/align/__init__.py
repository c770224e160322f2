"""Reward models, preference losses, policy gradients."""
