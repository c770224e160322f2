"""Generation with a paged cache and continuous batching; scoring of given continuations."""

from tempa.engine.engine import Engine
from tempa.engine.request import Event, Request
from tempa.engine.sampling import Completion, Sampling

__all__ = ["Completion", "Engine", "Event", "Request", "Sampling"]
