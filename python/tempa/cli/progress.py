"""Progress of counted work on stderr: a bar in a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PLAIN_LINE_EVERY_S = 10.0


class WorkProgress:
    """One line for each kind of work, from the moment it is first shown."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._bars: Progress | None = None
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[amount]}"),
                TimeRemainingColumn(),
            )
            self._bars = Progress(*columns, console=self._console)
        self._tasks: dict[str, TaskID] = {}
        self._shown = time.monotonic()

    def __enter__(self) -> WorkProgress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def show(self, what: str, done: int, total: int, unit: str) -> None:
        """Show that `done` of `total` units of `what` are finished; bytes are shown as MB."""
        amount = f"{_number(done, unit)} of {_number(total, unit)} {'MB' if unit == 'bytes' else unit}"
        if self._bars:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, amount=amount)
            self._bars.update(self._tasks[what], completed=done, total=total, amount=amount)
        elif time.monotonic() - self._shown >= PLAIN_LINE_EVERY_S:
            self._shown = time.monotonic()
            print(f"{what}: {amount}", file=sys.stderr)


def _number(value: int, unit: str) -> str:
    return f"{value / 1e6:,.1f}" if unit == "bytes" else f"{value:,}"
