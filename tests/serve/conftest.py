"""Servers for the tests; `live_server` is importable whatever the import mode."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from live_server import Live, Told, make_engine

from tempa.engine import Engine


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """A tiny random model, shared by the tests of a file."""
    server = Live(make_engine())
    yield server
    server.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Live]]:
    """Starts servers that the test needs for itself."""
    servers: list[Live] = []

    def one(engine: Engine | Told, **settings: object) -> Live:
        servers.append(Live(engine, **settings))
        return servers[-1]

    yield one
    for server in servers:
        server.close()
