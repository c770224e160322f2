"""The engine's thread, and the calls that wait for it.

One thread owns the engine. The event loop puts commands into its inbox, and gets the events of each step back
in one piece. Everything else here runs on the loop's thread, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from tempa.engine import Engine
from tempa.engine.request import Event, Request
from tempa.serve.errors import ApiError
from tempa.serve.metrics import Metrics

_log = logging.getLogger("tempa.serve")


class Call:
    """What a client asked for, on its way: one or more requests whose samples are counted through.

    Attributes:
        num_prompt_tokens: Of all requests together.
        accepted: Done when the engine has taken the requests in, or has refused one.
    """

    def __init__(self, requests: Sequence[Request], runner: Runner) -> None:
        self.requests = requests
        self.num_prompt_tokens = sum(len(request.prompt) for request in requests)
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tickets: list[int] = []  # of the engine's thread
        self._runner = runner
        self._arrived_s = time.perf_counter()
        self._last_s: dict[int, float] = {}
        self._events: list[tuple[int, Event]] = []
        self._num_open = sum(request.sampling.n for request in requests)
        self._error: ApiError | None = None
        self._wake = asyncio.Event()
        self._timer = asyncio.get_running_loop().call_later(runner.max_request_s, self._time_out)

    @property
    def is_waiting(self) -> bool:
        """Whether no token has come yet."""
        return not self._last_s

    async def next(self) -> list[tuple[int, Event]]:
        """The events since the last time, each with the index of its sample among all; none at the end.

        Raises:
            ApiError: If the call has failed.
        """
        while not self._events:
            if self._error is not None:
                raise self._error
            if not self._num_open:
                return []
            self._wake.clear()
            await self._wake.wait()
        events, self._events = self._events, []
        return events

    def push(self, index: int, event: Event, now_s: float) -> None:
        """Take an event in."""
        if self._error is not None:
            return
        if event.finish_reason == "error":
            self.fail(ApiError(500, _failure(event)))
            return
        if event.token is not None:
            self._measure(index, now_s)
        if len(self._events) >= self._runner.max_buffer:
            self.fail(ApiError(408, "the client read too slowly", code="slow_reader"))
            return
        self._num_open -= event.finish_reason is not None
        self._events.append((index, event))
        self._wake.set()

    def fail(self, error: ApiError) -> None:
        """End the call with an error; its samples are not computed further."""
        if self._error is None:
            self._error = error
            self._events.clear()
            self.settle(error)
            self._runner.cancel(self)
            self._wake.set()

    def settle(self, error: Exception | None) -> None:
        """Say whether the requests were taken in, if nobody has."""
        if self.accepted.done():
            return
        if error is None:
            self.accepted.set_result(None)
        else:
            self.accepted.set_exception(error)

    def close(self) -> None:
        """Say that nobody waits any more."""
        self._timer.cancel()
        self._runner.leave(self)

    def _measure(self, index: int, now_s: float) -> None:
        metrics = self._runner.metrics
        metrics.new_tokens += 1
        if self.is_waiting:
            metrics.first_token.observe(now_s - self._arrived_s)
        elif index in self._last_s:
            metrics.between_tokens.observe(now_s - self._last_s[index])
        self._last_s[index] = now_s

    def _time_out(self) -> None:
        self.fail(
            ApiError(504, f"the request took longer than {self._runner.max_request_s:g} s", code="timeout")
        )


class Runner:
    """Steps an engine for all calls.

    Args:
        engine: Nobody else may use it.
        metrics: Where tokens and times are counted.
        max_queue: Calls that may wait for their first token.
        max_buffer: Events that may wait for a client.
        max_request_s: The longest time of a call.
        on_failure: Called when the engine has raised and nothing more can be served.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        max_queue: int,
        max_buffer: int,
        max_request_s: float,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.metrics, self.max_buffer, self.max_request_s = metrics, max_buffer, max_request_s
        self.failure: str | None = None
        self.num_running, self.cache_usage, self.engine_stats = 0, 0.0, dict[str, int]()
        self._engine, self._max_queue, self._on_failure = engine, max_queue, on_failure
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._calls: set[Call] = set()
        self._places: dict[int, tuple[Call, int]] = {}  # ticket -> call, index of its first sample
        self._thread = threading.Thread(target=self._work, name="tempa-engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin; called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """End the thread after its step."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def num_calls(self) -> int:
        """Calls that are not closed."""
        return len(self._calls)

    @property
    def num_waiting(self) -> int:
        """Calls without a token so far."""
        return sum(call.is_waiting for call in self._calls)

    def check_room(self) -> None:
        """Refuse when the queue is full, before work is put into a request.

        Raises:
            ApiError: 429, or 500 after a failure of the engine.
        """
        if self.failure is not None:
            raise ApiError(500, self.failure)
        if self.num_waiting >= self._max_queue:
            raise ApiError(429, f"{self._max_queue} requests are waiting; try again later", code="queue_full")

    async def submit(self, requests: Sequence[Request]) -> Call:
        """Hand requests to the engine; the call must be closed.

        Raises:
            ApiError: As `check_room`.
            ValueError: If the engine cannot run a request.
        """
        self.check_room()
        call = Call(requests, self)
        self._calls.add(call)
        self._inbox.put(lambda: self._admit(call))
        try:
            await call.accepted
        except BaseException:
            call.close()
            raise
        self.metrics.prompt_tokens += call.num_prompt_tokens
        return call

    def cancel(self, call: Call) -> None:
        """Free what a call holds."""
        self._inbox.put(lambda: self._drop(call))

    def leave(self, call: Call) -> None:
        """Forget a call."""
        if call in self._calls:
            self._calls.remove(call)
            self.cancel(call)

    def fail_all(self, error: ApiError) -> None:
        """End every call."""
        for call in list(self._calls):
            call.fail(error)

    # Below: the engine's thread.

    def _work(self) -> None:
        try:
            while self._take_commands():
                events = self._engine.step()
                if events:
                    self._post(
                        self._deliver, [(*self._places[e.ticket], e) for e in events], time.perf_counter()
                    )
        except Exception as error:
            _log.exception("the engine failed")
            self._post(self._break_down, f"the engine failed: {type(error).__name__}")

    def _take_commands(self) -> bool:
        """Obey what is in the inbox, and wait for something when there is nothing to do; False to stop."""
        while True:
            self.num_running, self.cache_usage = self._engine.num_running, self._engine.cache_usage
            self.engine_stats = self._engine.stats()
            try:
                command = self._inbox.get(block=self._engine.is_idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _admit(self, call: Call) -> None:
        num_samples = 0
        try:
            for request in call.requests:
                ticket = self._engine.submit(request)
                call.tickets.append(ticket)
                self._places[ticket] = call, num_samples
                num_samples += request.sampling.n
        except ValueError as error:
            self._drop(call)
            self._post(call.settle, error)
        else:
            self._post(call.settle, None)

    def _drop(self, call: Call) -> None:
        for ticket in call.tickets:
            self._engine.cancel(ticket)
            del self._places[ticket]
        call.tickets.clear()

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has been closed, so nobody is left to tell
            self._loop.call_soon_threadsafe(function, *arguments)

    # The loop's thread again.

    def _deliver(self, events: list[tuple[Call, int, Event]], now_s: float) -> None:
        for call, first, event in events:
            call.push(first + event.sample, event, now_s)

    def _break_down(self, failure: str) -> None:
        self.failure = failure
        self.fail_all(ApiError(500, failure))
        self._on_failure()


def _failure(event: Event) -> str:
    """Why a sample has ended with an error, for the client; the log has the rest."""
    if event.error is None:
        # Logits that are no numbers, or a schema that became too much work.
        return "no token can follow: the model failed, or the schema is too complex"
    _log.error("a request failed", exc_info=event.error)
    return f"the request failed: {type(event.error).__name__}"
