"""The HTTP interface."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from tempa.engine.request import Request as Prompt
from tempa.serve.answers import (
    END_OF_STREAM,
    ChatForm,
    Form,
    Numbered,
    TextForm,
    event_bytes,
    num_tokens,
    usage,
)
from tempa.serve.completions import Planner, messages
from tempa.serve.errors import ApiError
from tempa.serve.limits import Gate, Receive, Send
from tempa.serve.runner import Call, Runner
from tempa.serve.schemas import ChatBody, CompletionBody, PairBody
from tempa.serve.settings import ServeConfig

# The page runs its own script and style, talks to this server and to nobody else.
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_PAGE_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


def create_app(planner: Planner, runner: Runner, config: ServeConfig, api_key: str | None = None) -> Gate:
    """The application that a server runs.

    Args:
        planner: Makes requests of the engine.
        runner: Runs them; started and stopped with the application.
        config: Limits, and where preferences go.
        api_key: What requests must bring, if anything.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        runner.start()
        yield
        await runner.stop()

    # The pages of documentation would fetch scripts from elsewhere; /openapi.json is there.
    app = FastAPI(title="tempa", lifespan=lifespan, docs_url=None, redoc_url=None)
    if config.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
    _add_error_handlers(app)
    _add_completions(app, planner, runner, config)
    _add_page(app, config)
    gate = Gate(app, config, api_key, runner.metrics)
    _add_state(app, planner, runner, gate)
    return gate


def _add_completions(app: FastAPI, planner: Planner, runner: Runner, config: ServeConfig) -> None:
    async def answer(
        http: Request, plan: Callable[[], list[Prompt]], form: Form, body: ChatBody | CompletionBody
    ) -> Response:
        if body.stream_options is not None and not body.stream:
            raise ApiError(400, "stream_options needs stream: true", param="stream_options")
        runner.check_room()
        # Long texts and schemas take a while; other clients go on meanwhile.
        try:
            call = await runner.submit(await asyncio.to_thread(plan))
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        num_samples = sum(request.sampling.n for request in call.requests)
        if body.stream:
            has_usage = body.stream_options is not None and body.stream_options.include_usage
            pieces = _pieces(call, form, num_samples, has_usage=has_usage)
            return _EventStream(call, pieces, config.max_stall_s)
        async with _closing(call, http.receive):
            events: list[Numbered] = []
            while some := await call.next():
                events += some
        return JSONResponse(form.whole(events, num_samples, call.num_prompt_tokens))

    name, tokenizer = planner.model.name, planner.model.tokenizer

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, http: Request) -> Response:
        form = ChatForm(name, tokenizer, planner.chat_stops, has_logps=bool(body.logprobs))
        return await answer(http, lambda: planner.chat(body), form, body)

    @app.post("/v1/completions", response_model=None)
    async def completion(body: CompletionBody, http: Request) -> Response:
        form = TextForm(name, tokenizer, planner.text_stops, has_logps=body.logprobs is not None)
        return await answer(http, lambda: planner.completion(body), form, body)


def _add_state(app: FastAPI, planner: Planner, runner: Runner, gate: Gate) -> None:
    model = {
        "id": planner.model.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "tempa",
        "max_model_len": planner.model.max_positions,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != model["id"]:
            raise ApiError(404, f"no model {name!r} here", param="model", code="model_not_found")
        return model

    @app.get("/health")
    async def health() -> JSONResponse:
        status = runner.failure or ("draining" if gate.is_draining else "ok")
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        gauges = {
            "requests_open": ("Requests that have not been answered to the end.", runner.num_calls),
            "requests_waiting": ("Those without a token so far.", runner.num_waiting),
            "samples_running": ("Samples that the engine advances.", runner.num_running),
            "cache_usage_ratio": ("Share of the cache that they hold.", runner.cache_usage),
        }
        return runner.metrics.text(gauges, runner.engine_stats)


def _add_page(app: FastAPI, config: ServeConfig) -> None:
    folder = resources.files("tempa.serve") / "page"

    def serve(path: str, name: str, kind: str) -> None:
        content = (folder / name).read_bytes()

        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            return Response(content, headers=_PAGE_HEADERS, media_type=kind)

    for path, (name, kind) in _PAGE_FILES.items():
        serve(path, name, kind)
    if config.preferences is None:
        return
    file, lock = config.preferences, asyncio.Lock()

    @app.post("/preferences", status_code=204, response_model=None)
    async def add_pair(body: PairBody) -> None:
        if body.messages[-1].role != "user":
            raise ApiError(400, "the last message must be the user's", param="messages")
        if body.chosen == body.rejected:
            raise ApiError(400, "equal answers tell nothing", param="rejected")
        record = {"messages": messages(body.messages), "chosen": body.chosen, "rejected": body.rejected}
        line = json.dumps(record, ensure_ascii=False) + "\n"
        async with lock:
            await asyncio.to_thread(_append, file, line)


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


def _add_error_handlers(app: FastAPI) -> None:
    def answer(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(ApiError)
    async def known(_: Request, error: ApiError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or None
        message = first["msg"] if field is None else f"{field}: {first['msg']}"
        return answer(ApiError(400, message, param=field))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return answer(ApiError(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, __: Exception) -> JSONResponse:
        # The server's log has the reason; the client is told nothing of the inside.
        return answer(ApiError(500, "the server made a mistake"))


@asynccontextmanager
async def _closing(call: Call, receive: Receive) -> AsyncIterator[None]:
    """Close the call at the end, and fail it when the client goes before that."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        call.fail(ApiError(499, "the client has gone"))

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        call.close()


async def _pieces(
    call: Call, form: Form, num_samples: int, *, has_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The server-sent events of a call, those that came together in one piece."""
    num_new_tokens = 0
    # As OpenAI does: every piece names the usage if it is asked for, and the last one has it.
    more: dict[str, Any] = {"usage": None} if has_usage else {}
    try:
        opening = form.opening(num_samples)
        if opening:
            yield form.piece(opening, **more)
        while events := await call.next():
            num_new_tokens += num_tokens(events)
            told = [form.delta(index, event) for index, event in events if not form.is_silent(event)]
            if told:
                yield b"".join(form.piece([choice], **more) for choice in told)
        if has_usage:
            yield form.piece([], usage=usage(call.num_prompt_tokens, num_new_tokens))
        yield END_OF_STREAM
    except ApiError as error:
        yield event_bytes(error.body)


class _EventStream(Response):
    """A response in pieces, which ends when the client goes or takes nothing for too long."""

    media_type = "text/event-stream"

    def __init__(self, call: Call, pieces: AsyncGenerator[bytes, None], max_stall_s: float) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._call, self._pieces, self._max_stall_s = call, pieces, max_stall_s

    async def __call__(self, _scope: Any, receive: Receive, send: Send) -> None:
        """Send the pieces."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with _closing(self._call, receive), aclosing(self._pieces):
            with suppress(TimeoutError):
                await self._send(send, start)
                async for piece in self._pieces:
                    await self._send(send, {"type": "http.response.body", "body": piece, "more_body": True})
                await self._send(send, {"type": "http.response.body", "body": b""})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        async with asyncio.timeout(self._max_stall_s):
            await send(message)
