"""Listening, and the way out: what runs is finished, what comes is refused."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from tempa.engine import Engine
from tempa.serve.app import create_app
from tempa.serve.completions import Model, Planner
from tempa.serve.errors import ApiError
from tempa.serve.limits import Gate
from tempa.serve.metrics import Metrics
from tempa.serve.runner import Runner
from tempa.serve.settings import ServeConfig

# How often it is looked whether the last request has ended.
_POLL_S = 0.05


class Service:
    """A server for one model.

    Args:
        engine: Nobody else may use it.
        model: What it runs.
        config: Where to listen, and the limits.
        api_key: What requests must bring, if anything.
    """

    def __init__(self, engine: Engine, model: Model, config: ServeConfig, api_key: str | None = None) -> None:
        self._config = config
        self.runner = Runner(
            engine,
            Metrics(),
            max_queue=config.max_queue,
            max_buffer=config.max_buffer,
            max_request_s=config.max_request_s,
            on_failure=self._exit,
        )
        self.gate: Gate = create_app(Planner(model, config), self.runner, config, api_key)
        self._server = _Server(
            uvicorn.Config(
                self.gate,
                access_log=False,
                log_level="warning",
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=1,
            )
        )

    def listen(self) -> socket.socket:
        """Take the port.

        Raises:
            OSError: If it cannot be had; the message names it.
        """
        host, port = self._config.host, self._config.port
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=1024)
        except OSError as error:
            raise OSError(
                f"cannot listen at {host}:{port}: {(error.strerror or str(error)).lower()}"
            ) from None

    async def serve(self, listener: socket.socket, ready: Callable[[], None] = lambda: None) -> int:
        """Answer requests until `drain` has been called or the engine has failed.

        Returns:
            The exit status: 0, or 1 after a failure.
        """
        serving = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(_POLL_S / 10)
        ready()
        await serving
        return 1 if self.runner.failure else 0

    async def drain(self) -> None:
        """Refuse new requests, wait for those that run, and end; a second call does not wait."""
        if self.gate.is_draining:
            self._exit()
            return
        self.gate.is_draining = True
        deadline = asyncio.get_running_loop().time() + self._config.drain_s
        while self.gate.num_active and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL_S)
        self._exit()

    def _exit(self) -> None:
        self.runner.fail_all(ApiError(503, "the server is shutting down", code="shutting_down"))
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn's, without its handlers of signals, which would end the process by the signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(service: Service, listener: socket.socket, ready: Callable[[], None]) -> int:
    """Serve until SIGTERM or Ctrl-C, which drain; the second one ends at once.

    Returns:
        The exit status.
    """
    loop = asyncio.get_running_loop()
    drains: set[asyncio.Task[None]] = set()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, lambda: drains.add(loop.create_task(service.drain())))
    return await service.serve(listener, ready)
