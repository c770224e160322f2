"""The report of one run: its configuration, curves, last measures and samples.

It is made from the files of the run directory alone, so any run can be reported again later, also one that
was interrupted or is still training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tempa.report.page import Markup, join, number, table, tag, write_page
from tempa.report.plot import line_plot

# Measures that would only clutter the page as curves.
_NOT_PLOTTED = {"tokens", "lr"}
_MAX_SAMPLES = 40


def write_run_report(run_dir: Path | str) -> Path:
    """Write `report.html` into a run directory.

    Args:
        run_dir: Holds metrics.jsonl, and perhaps config.toml and samples.jsonl.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If the directory has no metrics.jsonl.
        ValueError: If a row of the metrics is not JSON.
    """
    run_dir = Path(run_dir)
    rows = read_rows(run_dir / "metrics.jsonl")
    samples = run_dir / "samples.jsonl"
    config = run_dir / "config.toml"
    parts = [
        tag("h1", run_dir.resolve().name),
        _summary(rows),
        run_curves(rows),
        _samples(read_rows(samples)) if samples.exists() else "",
    ]
    if config.exists():
        parts.append(
            tag("details", tag("summary", "Configuration"), tag("pre", config.read_text("utf-8")), open="")
        )
    return write_page(run_dir / "report.html", run_dir.resolve().name, join(parts))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; a last line that a kill has cut short is left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If another line is not a JSON object.
    """
    rows = []
    for number_, line in enumerate(path.read_text("utf-8").splitlines(keepends=True), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            if not line.endswith("\n"):
                break
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}: line {number_} is not a JSON object")
        rows.append(row)
    return rows


def run_curves(rows: list[dict[str, Any]]) -> Markup:
    """A plot for each measure over the steps: as trained and as evaluated, where both exist."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        for kind in ("train", "eval"):
            for name, value in row.get(kind, {}).items():
                if isinstance(value, int | float) and name not in _NOT_PLOTTED:
                    label = "training" if kind == "train" else "held out"
                    curves.setdefault(name, {}).setdefault(label, []).append((row["step"], value))
    # One evaluated point says no more than the table does.
    drawn = {name: lines for name, lines in curves.items() if max(map(len, lines.values())) > 1}
    plots = [line_plot(lines, x_label="step", y_label=name) for name, lines in drawn.items()]
    return tag("div", *plots, class_="plots")


def _summary(rows: list[dict[str, Any]]) -> Markup:
    if not rows:
        return tag("p", "Nothing has been measured yet.")
    clock: dict[str, float] = next((row["time"] for row in reversed(rows) if "time" in row), {})
    first: dict[str, float] = next((row["eval"] for row in rows if "eval" in row), {})
    last: dict[str, float] = next((row["eval"] for row in reversed(rows) if "eval" in row), {})
    done = f"{rows[-1]['step']:,} steps"
    if clock.get("train_s"):
        done += f", {clock['train_s']:,.0f} s, {clock.get('tokens_per_s', 0):,.0f} tokens/s"
    measures = [
        (name, number(first[name]) if name in first else "", number(value)) for name, value in last.items()
    ]
    if not measures:
        return tag("p", done, class_="note")
    return join([tag("p", done, class_="note"), table(["held out", "first", "last"], measures)])


def _samples(rows: list[dict[str, Any]]) -> Markup:
    shown = rows[-_MAX_SAMPLES:]
    if not shown:
        return Markup("")
    parts = []
    for row in shown:
        text = "\n".join(f"{key}: {value}" for key, value in row.items() if key != "step")
        parts.append(join([tag("p", f"step {row.get('step', '?')}", class_="note"), tag("pre", text)]))
    heading = f"Samples, the last {len(shown)} of {len(rows)}" if len(rows) > len(shown) else "Samples"
    return tag("details", tag("summary", heading), *parts)
