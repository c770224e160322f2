"""Ways to use an engine, a small file each, made of `generate`, `score` and `Sequences` only."""

from tempa.engine.strategies.beam import Beam, beam_search
from tempa.engine.strategies.cascade import cascade
from tempa.engine.strategies.choose import best_of, majority, minimum_risk
from tempa.engine.strategies.combine import contrast, guide, mix
from tempa.engine.strategies.power import power_sample
from tempa.engine.strategies.speculate import DraftModel, Drafts, PromptLookup, speculate
from tempa.engine.strategies.tools import calculator, evaluate, tool

__all__ = [
    "Beam",
    "DraftModel",
    "Drafts",
    "PromptLookup",
    "beam_search",
    "best_of",
    "calculator",
    "cascade",
    "contrast",
    "evaluate",
    "guide",
    "majority",
    "minimum_risk",
    "mix",
    "power_sample",
    "speculate",
    "tool",
]
