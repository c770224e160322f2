"""One problem and the ways to solve it: what a case hands to the clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from gpu.rig import Pace, Rig

OURS = "tempa"
MIN_ROUNDS = 30
Run = Callable[[], object]
Measure = Literal["rate", "share", "time", "ratio", "memory"]
_WORDS = {
    "rate": ("at least {:.4g} {}", True),
    "share": ("at least {:.0%} of {}", True),
    "ratio": ("at least {:.2f} times as fast as {}", True),
    "time": ("at most {:.3g} µs", False),
    "memory": ("at most {:.0%} of the memory of {}", False),
}


@dataclass(frozen=True)
class Target:
    """A number to reach.

    Attributes:
        measure: "rate" is in units of the case, "share" of the ceiling, "time" in µs; "ratio" and "memory"
            are beside a peer.
        least: What has to be reached.
        goal: What is hoped for, or None.
        peer: Beside whom, for "ratio" and "memory".
    """

    measure: Measure
    least: float
    goal: float | None = None
    peer: str = OURS

    def words(self, unit: str, ceiling: str) -> str:
        """The target for a reader."""
        text, _ = _WORDS[self.measure]
        scale, unit = (1e-12, f"T{unit}") if self.measure == "rate" and unit == "FLOP/s" else (1.0, unit)
        of = {"rate": unit, "share": ceiling, "time": ""}.get(self.measure, self.peer)
        goal = "" if self.goal is None else f", goal {self._number(self.goal * scale)}"
        return text.format(self.least * scale, of) + goal

    def verdict(self, value: float) -> str:
        """ "short", "met" or "goal met"."""
        sign = 1 if _WORDS[self.measure][1] else -1
        if self.goal is not None and sign * value >= sign * self.goal:
            return "goal met"
        return "met" if sign * value >= sign * self.least else "short"

    def _number(self, value: float) -> str:
        return f"{value:.0%}" if self.measure in ("share", "memory") else f"{value:.4g}"


@dataclass(frozen=True)
class Comparison:
    """A problem with its inputs.

    Attributes:
        sides: Name to a function that prepares a side and returns the call; ours is `OURS`. What the first
            call returns is compared. A side that raises is not available, unless it is ours.
        tolerance: Most of `difference` between ours and the first other side that is available. 0 for
            problems without a result.
        amount: Work of a call, in units of `unit` without its "/s".
        unit: Of the rate: "FLOP/s", "B/s" or "tokens/s".
        ceiling: "copy", "read" or "gemm": what the rate is a share of; none when None.
        pace: See `Pace`.
        targets: Numbers to reach.
        rounds: Least number of rounds.
        measures_memory: Whether the memory of a call is measured, too.
        unchecked: Sides whose results are rightly different.
    """

    sides: Mapping[str, Callable[[], Run]]
    tolerance: float
    amount: float
    unit: str = "B/s"
    ceiling: str | None = "copy"
    pace: Pace = "cold"
    targets: tuple[Target, ...] = ()
    rounds: int = MIN_ROUNDS
    measures_memory: bool = False
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A name, and how to make the problem when its turn comes."""

    name: str
    build: Callable[[Rig], Comparison]
    is_quick: bool = field(default=False, kw_only=True)


def tensors(result: object) -> list[Tensor]:
    """The tensors of a result, in order; None and the like are left out."""
    if isinstance(result, Tensor):
        return [result]
    return [x for x in result if isinstance(x, Tensor)] if isinstance(result, Iterable) else []


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest of |found - expected| / |expected| over tensors; of integers, the share that differs.

    >>> difference([torch.tensor([3.0, 4.5])], [torch.tensor([3.0, 4.0])])
    0.1
    >>> difference([torch.tensor([1, 2, 3, 5])], [torch.tensor([1, 2, 3, 4])])
    0.25
    """
    if [x.shape for x in found] != [x.shape for x in expected]:
        return math.inf
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if not other.is_floating_point():
            part = float((one != other).float().mean()) if other.numel() else 0.0
        else:
            length = _norm(other)
            apart = _norm(one, other)
            part = apart / length if length else (0.0 if apart == 0 else math.inf)
        worst = max(worst, part if math.isfinite(part) else math.inf)
    return worst


def _norm(one: Tensor, other: Tensor | None = None) -> float:
    """|one - other|, in pieces: a copy in float64 of a large tensor would not fit beside it."""
    total = 0.0
    pieces = one.detach().flatten().split(1 << 26)
    others = [None] * len(pieces) if other is None else other.detach().flatten().split(1 << 26)
    for piece, away in zip(pieces, others, strict=True):
        wide = piece.double() if away is None else piece.double() - away.double()
        total += float(wide.square().sum())
    return math.sqrt(total)
