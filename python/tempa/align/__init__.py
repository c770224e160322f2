"""Supervised fine-tuning, reward models, preference losses, policy gradients."""
