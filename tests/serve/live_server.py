"""Servers on free ports, over a tiny model or over an engine that does as it is told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
from openai import OpenAI

from tempa.engine import Engine
from tempa.engine.request import Event, Request
from tempa.model import ModelConfig, Transformer
from tempa.serve.completions import Model
from tempa.serve.server import Service
from tempa.serve.settings import ServeConfig
from tempa.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["hello"], vocab_size=261)
# Long enough for a busy machine, and the end of a test that hangs.
PATIENCE_S = 120


class Told:
    """An engine that gives the same text at every step while it is open."""

    def __init__(self, text: str = "x", *, is_open: bool = True) -> None:
        self.text, self.is_open, self.error = text, is_open, None
        self.running: dict[int, tuple[Request, int]] = {}
        self.num_tickets = 0

    @property
    def is_idle(self) -> bool:
        return not self.running

    @property
    def num_running(self) -> int:
        return len(self.running)

    @property
    def cache_usage(self) -> float:
        return float(bool(self.running))

    def stats(self) -> dict[str, int]:
        return {}

    def submit(self, request: Request) -> int:
        self.num_tickets += 1
        self.running[self.num_tickets] = request, 0
        return self.num_tickets

    def cancel(self, ticket: int) -> None:
        self.running.pop(ticket, None)

    def step(self) -> list[Event]:
        if self.error is not None:
            raise self.error
        if not self.is_open:
            time.sleep(0.001)
            return []
        events = []
        for ticket, (request, drawn) in list(self.running.items()):
            sampling = request.sampling
            is_last = drawn + 1 == sampling.max_new_tokens
            reason = "length" if is_last else None
            events += [Event(ticket, i, 65, -1.0, (), self.text, reason) for i in range(sampling.n)]
            self.running[ticket] = request, drawn + 1
            if is_last:
                del self.running[ticket]
        return events


class Live:
    """A server in a thread of its own."""

    def __init__(self, engine: Engine | Told, api_key: str | None = None, **settings: object) -> None:
        self.engine = engine
        config = ServeConfig(model=Path("tiny"), port=0, **{"max_request_s": PATIENCE_S, **settings})
        max_positions = engine.model.config.max_positions if isinstance(engine, Engine) else 100_000
        model = Model(
            name="tiny", tokenizer=TOKENIZER, vocab_size=TOKENIZER.vocab_size, max_positions=max_positions
        )
        self.service = Service(engine, model, config, api_key)
        self.runner = self.service.runner
        self.listener = self.service.listen()
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.status: int | None = None
        self._ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.thread.start()
        assert self._ready.wait(PATIENCE_S)
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self.http = httpx2.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S)
        self.openai = OpenAI(
            base_url=f"{self.url}/v1", api_key=api_key or "none", max_retries=0, timeout=PATIENCE_S
        )

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.status = await self.service.serve(self.listener, self._ready.set)

    def drain(self) -> None:
        """As SIGTERM does."""
        asyncio.run_coroutine_threadsafe(self.service.drain(), self._loop)

    def chat(self, text: str = "hi", **fields: object) -> httpx2.Response:
        """The response to a chat of one message."""
        return self.post({"messages": [{"role": "user", "content": text}], **fields})

    def post(self, body: dict[str, object]) -> httpx2.Response:
        """The response to a chat."""
        return self.http.post("/v1/chat/completions", json={"model": "tiny", **body})

    def close(self) -> None:
        """End, and take care that nothing is left behind."""
        self.http.close()
        self.openai.close()
        if self.thread.is_alive():
            self.drain()
            self._loop.call_soon_threadsafe(self.service._exit)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again, for what another thread does."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def make_engine(**settings: object) -> Engine:
    shape = {"vocab_size": TOKENIZER.vocab_size, "depth": 2, "width": 32, "num_heads": 2}
    model = Transformer(ModelConfig(**shape, max_positions=512), seed=0)
    return Engine(model, TOKENIZER, **settings)
