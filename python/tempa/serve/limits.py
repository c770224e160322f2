"""What every request passes first: name of the server, key, size, and whether it still takes requests.

Nothing is read of a body before the key is checked, and the application gets bodies whole.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tempa.serve.errors import ApiError
from tempa.serve.metrics import Metrics
from tempa.serve.settings import ServeConfig

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# Paths that tell nothing of anybody's requests.
_OPEN_PATHS = ("/", "/page.css", "/page.js", "/health")
# A body that is too large is read on, but not kept, up to so many times the limit: clients look at an answer
# only when they have sent theirs.
_DISCARD = 16
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Gate:
    """An ASGI application around another one.

    Args:
        app: Gets the requests that pass.
        config: The limits.
        api_key: What requests must bring, if anything.
        metrics: Where responses are counted.

    Attributes:
        is_draining: Refuse everything but questions about the server's state.
        num_active: Requests that have not been answered to the end.
    """

    def __init__(self, app: App, config: ServeConfig, api_key: str | None, metrics: Metrics) -> None:
        self.is_draining = False
        self.num_active = 0
        self._app, self._config, self._metrics = app, config, metrics
        self._expected = None if api_key is None else b"Bearer " + api_key.encode()
        self._hosts = config.allow_hosts or (_LOCAL_NAMES if config.is_local else ())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self.num_active += 1
        try:
            await self._serve(scope, receive, self._counted(scope, send))
        finally:
            self.num_active -= 1

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            body = await self._read(receive) if scope["method"] == "POST" else b""
        except ApiError as error:
            await _answer(error, send)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

    def _check(self, scope: Message) -> None:
        headers = dict(scope["headers"])
        if self._hosts:
            host = headers.get(b"host", b"").decode("latin-1")
            # Without its port; an IPv6 address keeps its brackets.
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if name.lower() not in self._hosts:
                raise ApiError(421, "this server does not go by the name of the request", code="wrong_host")
        # A browser asks whether it may send a key before it sends one.
        is_open = scope["path"] in _OPEN_PATHS or scope["method"] == "OPTIONS"
        if self._expected is not None and not is_open:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")
        if self.is_draining and scope["method"] == "POST":
            raise ApiError(503, "the server is shutting down", code="shutting_down")

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None if the client has gone."""
        limit = self._config.max_request_bytes
        body, num_bytes = bytearray(), 0
        try:
            async with asyncio.timeout(self._config.max_stall_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunk = message.get("body", b"")
                    num_bytes += len(chunk)
                    if num_bytes <= limit:
                        body += chunk
                    if not message.get("more_body") or num_bytes > _DISCARD * limit:
                        break
        except TimeoutError:
            raise ApiError(408, f"the body took longer than {self._config.max_stall_s:g} s") from None
        if num_bytes > limit:
            raise ApiError(413, f"a request may have {limit} bytes", code="request_too_large")
        return bytes(body)

    def _counted(self, scope: Message, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # By the path of the route, which only a known request has: anybody can make up paths.
                route = scope.get("route")
                self._metrics.responses[getattr(route, "path", "other"), message["status"]] += 1
            await send(message)

        return counted


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body first, and then what the connection has to say."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed


async def _answer(error: ApiError, send: Send) -> None:
    body = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
