"""Drawing the next token: settings, requests and batches, without torch."""

from tempa.sample.adapter import rule_adapter
from tempa.sample.sampler import Draws, Sampler, Verified
from tempa.sample.settings import Settings

__all__ = ["Draws", "Sampler", "Settings", "Verified", "rule_adapter"]
