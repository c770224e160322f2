"""The sections in the order of measuring, and the share of the time that each may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpu import adamw, attention, decode, generate, launch, linear_loss, policy, rowwise, sampling, train_step
from gpu.comparison import Case


@dataclass(frozen=True)
class Section:
    """Cases that belong together.

    Attributes:
        title: For the reader.
        cases: Makes the list; nothing is built yet.
        seconds: Its part of the whole budget.
    """

    title: str
    cases: Callable[[], list[Case]]
    seconds: float


# Models come last: they are compiled for longest, and what they need beyond their share is nobody else's.
SECTIONS = {
    "attention": Section("Attention, bfloat16", attention.cases, 150),
    "decode": Section("Paged decode, 4 query heads to a key head of 128", decode.cases, 50),
    "loss": Section("Linear and cross-entropy, 131,072 words", linear_loss.cases, 50),
    "rowwise": Section("Norms, rotary positions, gated activations, bfloat16", rowwise.cases, 60),
    "adamw": Section("AdamW", adamw.cases, 25),
    "sampling": Section("Draws", sampling.cases, 30),
    "policy": Section("Advantages and policy loss", policy.cases, 15),
    "launch": Section("Cost of a launch", launch.cases, 10),
    "train": Section("Training step of 124 million parameters", train_step.cases, 80),
    "generate": Section("Generation by a model of 124 million parameters", generate.cases, 60),
}


def ends(names: list[str], total_s: float) -> dict[str, float]:
    """When each section has to end, from the start of the first; what one leaves is for the next.

    >>> ends(["decode", "attention"], 100.0)
    {'decode': 25.0, 'attention': 100.0}
    """
    whole = sum(SECTIONS[name].seconds for name in names)
    passed, found = 0.0, {}
    for name in names:
        passed += SECTIONS[name].seconds
        found[name] = total_s * passed / whole
    return found
