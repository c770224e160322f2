"""Runs cases: prepares the sides, checks them against each other, times them, judges them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from gpu.comparison import OURS, Case, Comparison, Run, difference, tensors
from gpu.record import Row
from gpu.rig import Rig, spread


def rows_of(rig: Rig, section: str, case: Case, ceilings: Mapping[str, float]) -> Iterator[Row]:
    """The rows of a case: ours first, then every peer. Raises nothing but what ends the process."""
    empty = Row(section, case.name, OURS)
    try:
        problem = case.build(rig)
        peers = {name: make for name, make in problem.sides.items() if name != OURS}
        ours, found = _prepared(problem.sides[OURS])
    except Exception as error:
        yield replace(empty, status="FAIL", note=_said(error))
        return
    runs: dict[str, Run] = {}
    expected: list[Tensor] | None = None
    missing: list[Row] = []
    for name, make in peers.items():
        try:
            run, theirs = _prepared(make)
        except Exception as error:
            missing.append(replace(empty, side=name, status="unavailable", note=_said(error)))
            continue
        if name in problem.unchecked:
            runs[name] = run
            continue
        expected = theirs if expected is None else expected
        apart = difference(theirs, expected)
        if apart > problem.tolerance:
            note = f"its result is {apart:.2g} away from that of {next(iter(runs), name)}"
            missing.append(replace(empty, side=name, status="unavailable", note=note, error=apart))
        else:
            runs[name] = run
    mine = _judged(replace(empty, ceiling=problem.ceiling or "", unit=problem.unit), found, expected, problem)
    mine = _timed(rig, mine, ours, problem, ceilings, None)
    yield mine
    for name, run in runs.items():
        try:
            yield _timed(rig, replace(empty, side=name, unit=problem.unit), run, problem, ceilings, mine)
        except Exception as error:
            yield replace(empty, side=name, status="unavailable", note=_said(error))
    yield from missing


def _prepared(make: Callable[[], Run]) -> tuple[Run, list[Tensor]]:
    run = make()
    # Copies: a side may write to the same place again.
    return run, [tensor.detach().clone() for tensor in tensors(run())]


def _judged(row: Row, found: list[Tensor], expected: list[Tensor] | None, problem: Comparison) -> Row:
    if not problem.tolerance:
        return row
    if expected is None:
        return replace(row, status="FAIL", note="no peer is available to check the result")
    apart = difference(found, expected)
    if apart > problem.tolerance:
        note = f"the result is {apart:.2g} away, allowed is {problem.tolerance:.2g}"
        return replace(row, status="FAIL", error=apart, note=note)
    return replace(row, error=apart)


def _timed(
    rig: Rig, row: Row, run: Run, problem: Comparison, ceilings: Mapping[str, float], mine: Row | None
) -> Row:
    """The row with its times, and what they mean beside the ceiling and beside ours."""
    try:
        times = rig.times(run, problem.pace, problem.rounds)
        peak = rig.peak_bytes(run) if problem.measures_memory else None
    except Exception as error:
        if mine is not None:
            raise
        return replace(row, status="FAIL", note=_said(error))
    median, p10, p90 = spread(times)
    rate = problem.amount / median if problem.amount else None
    ceiling = ceilings.get(problem.ceiling or "")
    share = rate / ceiling if rate is not None and ceiling else None
    ratio = median / mine.median_s if mine is not None and mine.median_s else None
    row = replace(
        row, median_s=median, p10_s=p10, p90_s=p90, rounds=len(times), rate=rate, share=share, ratio=ratio,
        ceiling=problem.ceiling or "", peak_bytes=peak,
    )  # fmt: skip
    return replace(row, targets=_verdicts(row, problem, mine))


def _verdicts(row: Row, problem: Comparison, mine: Row | None) -> list[list[str]]:
    verdicts = []
    for target in problem.targets:
        if target.peer != row.side:
            continue
        value: float | None
        if target.measure == "time":
            value = None if row.median_s is None else row.median_s * 1e6
        elif target.measure == "memory":
            both = mine is not None and mine.peak_bytes is not None and row.peak_bytes
            value = mine.peak_bytes / row.peak_bytes if both else None
        else:
            value = getattr(row, target.measure)
        if value is not None:
            verdicts.append([target.words(problem.unit, problem.ceiling or ""), target.verdict(value)])
    return verdicts


def _said(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def tidy() -> None:
    """Give the memory of a case back."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
