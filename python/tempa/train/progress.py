"""Progress on stderr: a bar in a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_LINE_EVERY_S = 10.0


class TrainProgress:
    """Shows loss, tokens per second and time left while a stage trains.

    Args:
        name: What is trained.
        steps: Updates of the whole run.
        start: Updates already done.
    """

    def __init__(self, name: str, steps: int, start: int) -> None:
        self._name, self._steps, self._start = name, steps, start
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[measures]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, refresh_per_second=4)
            self._task = self._bar.add_task(name, total=steps, completed=start, measures="")
        self._began = self._shown = time.monotonic()
        self._tokens = self._busy_s = 0.0

    def __enter__(self) -> TrainProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, loss: float, num_tokens: int, step_s: float) -> None:
        """Show the state after `step` updates, the last of which read `num_tokens` in `step_s`."""
        self._tokens = 0.95 * self._tokens + num_tokens
        self._busy_s = 0.95 * self._busy_s + step_s
        now = time.monotonic()
        if self._bar is None and now - self._shown < PLAIN_LINE_EVERY_S:
            return
        self._shown = now
        measures = f"loss {loss:.4f}  {self._tokens / self._busy_s:,.0f} tokens/s"
        if self._bar:
            self._bar.update(self._task, completed=step, measures=measures)
        else:
            left_s = (now - self._began) / (step - self._start) * (self._steps - step)
            self.note(f"{self._name} {step}/{self._steps}  {measures}  {left_s:.0f} s left")

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
