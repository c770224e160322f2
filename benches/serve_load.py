"""Clients by the hundred, many of which leave early, against `tempa serve`

    python benches/serve_load.py [--clients 200] [--seconds 60] [--model DIR]

Each client asks again and again: prompts of random lengths, half of the answers streamed, up to four
samples, and a third of the requests left at a random moment by closing the connection. Afterwards the server
must have answered with nothing but 200 and 429, hold no block and no request, and be no larger than after the
first quarter by more than a tenth; its cache is small, so that it is full by then. Without a model, one of 1M
parameters with random weights is made.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tempa.bench.machine import machine
from tempa.model import ModelConfig, Transformer, save_model
from tempa.tokenizer import Tokenizer

LEAVES = 1 / 3
WORDS = ("the", "sun", "and", "the", "sea", "are", "far", "away", "and", "nobody", "knows", "why", "it", "is")
CACHE_BYTES = 48 << 20


class Load:
    """What clients met."""

    def __init__(self, port: int, name: str, seed: int) -> None:
        self.port, self.name, self.rng = port, name, random.Random(seed)
        self.statuses: Counter[int] = Counter()
        self.num_left = 0
        self.first_s: list[float] = []
        self.wrong: list[str] = []

    async def client(self, until: float) -> None:
        """Ask until the time is over."""
        while time.monotonic() < until:
            leaves_s = self.rng.expovariate(1) if self.rng.random() < LEAVES else None
            try:
                async with asyncio.timeout(leaves_s):
                    status = await self.ask()
            except TimeoutError:
                self.num_left += 1
                continue
            self.statuses[status] += 1
            if status == 429:
                await asyncio.sleep(self.rng.random())

    async def ask(self) -> int:
        """One request, read to its end."""
        stream = self.rng.random() < 0.5
        words = self.rng.choices(WORDS, k=self.rng.randint(1, 60))
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": " ".join(words)}],
            "max_tokens": self.rng.randint(1, 120),
            "n": self.rng.choice([1, 1, 1, 4]),
            "stream": stream,
        }
        status, data = await fetch(
            self.port, "POST", "/v1/chat/completions", json.dumps(body), self.first_s if stream else None
        )
        if status == 200 and stream and not data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            self.wrong.append(f"a stream without its end: {data[-200:]!r}")
        return status


async def fetch(
    port: int, method: str, path: str, body: str = "", first_s: list[float] | None = None
) -> tuple[int, bytes]:
    """Status and raw body of a response; the connection is for this request alone."""
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        status = int((await reader.readline()).split()[1])
        if first_s is not None and status == 200:
            first_s.append(time.perf_counter() - start)
        await reader.readuntil(b"\r\n\r\n")
        return status, await reader.read()
    finally:
        writer.transport.abort()


async def metrics(port: int) -> dict[str, float]:
    """The server's own counts."""
    _, data = await fetch(port, "GET", "/metrics")
    lines = [line for line in data.decode().splitlines() if line.startswith("tempa_")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def run(port: int, name: str, process: psutil.Process, clients: int, seconds: float) -> None:
    """Put the load on, and check what is left."""
    load = Load(port, name, seed=0)
    start = time.monotonic()
    tasks = [asyncio.create_task(load.client(start + seconds)) for _ in range(clients)]
    await asyncio.sleep(seconds / 4)
    early_bytes = process.memory_info().rss
    await asyncio.gather(*tasks)
    elapsed_s = time.monotonic() - start
    late_bytes = process.memory_info().rss
    deadline = time.monotonic() + 10
    while (left := await metrics(port))["tempa_requests_open"] and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    first_s = sorted(load.first_s)
    print(f"machine    {json.dumps(machine())}")
    print(f"requests   {dict(sorted(load.statuses.items()))}, {load.num_left} left early, {elapsed_s:.0f} s")
    print(f"new tokens {left['tempa_new_tokens_total'] / elapsed_s:,.0f}/s")
    median_s, slow_s = first_s[len(first_s) // 2], first_s[len(first_s) * 99 // 100]
    print(f"streams    begin after {median_s:.3f} s, 99% after {slow_s:.3f} s")
    print(f"memory     {early_bytes >> 20} MiB after a quarter, {late_bytes >> 20} MiB at the end")
    print(
        f"left over  {left['tempa_requests_open']:.0f} requests, cache {left['tempa_cache_usage_ratio']:.4f}"
    )
    assert set(load.statuses) <= {200, 429}, load.statuses
    assert not load.wrong, load.wrong[0]
    assert left["tempa_requests_open"] == left["tempa_cache_usage_ratio"] == 0
    assert late_bytes <= 1.1 * early_bytes, "memory grows"


def make_model(directory: Path) -> None:
    """A small model that has learnt nothing."""
    tokenizer = Tokenizer.train([" ".join(WORDS) * 50], vocab_size=320)
    save_model(directory, Transformer(ModelConfig.preset("1m", tokenizer.vocab_size), seed=0), tokenizer)


def main() -> None:
    """Start a server, load it, end it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = options.model or Path(folder) / "tiny"
        if options.model is None:
            make_model(directory)
        command = [sys.executable, "-m", "tempa", "serve", "--model", str(directory), "--port", "0"]
        command += ["--cache-bytes", str(CACHE_BYTES)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                name, _, address = server.stdout.readline().split()
                port = int(address.rpartition(":")[2])
                asyncio.run(run(port, name, psutil.Process(server.pid), options.clients, options.seconds))
                server.send_signal(signal.SIGTERM)
                assert server.wait(30) == 0
            finally:
                server.kill()


if __name__ == "__main__":
    main()
