"""Ctrl-C that waits for a good moment."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

_HEARD = "\nstopping after this step and saving; interrupt again to stop at once\n"


@dataclass
class StopRequest:
    """Whether the user has asked to stop.

    Attributes:
        asked: True from the first signal on.
    """

    asked: bool = False


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; the second one interrupts at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set handlers; elsewhere those of the caller stay.
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True
        # Not through sys.stderr's buffer, which the signal may have interrupted.
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _HEARD.encode())

    previous: dict[int, Any] = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
