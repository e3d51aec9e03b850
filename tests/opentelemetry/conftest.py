"""Clients whose OpenTelemetry is watched, on an embedded runtime, on ports, and on a wire that only notes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from macp_rx import (
    AuthConfig,
    MacpClient,
    Runtime,
)
from macp_rx.opentelemetry import OpenTelemetry
from macp_rx.runtime import Settings
from macp_rx.streams.retry import RetryPolicy
from macp_rx.testing.guard import GuardedClock
from tests.opentelemetry.watched import (
    Embedded,
    NotingWire,
    Watched,
)


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.close()


@pytest.fixture
def embedded(watched: Watched, virtual_time: GuardedClock) -> Iterator[Embedded]:
    """Makes the chair's client of an embedded runtime under virtual time; settings are the runtime's."""
    made: list[MacpClient | Runtime] = []

    def embedded(
        retry: RetryPolicy | None = None, telemetry: OpenTelemetry = watched.telemetry, **settings: Any
    ) -> MacpClient:
        runtime = Runtime(clock=virtual_time, settings=Settings(**settings))
        client = MacpClient.embedded(
            agent="chair", runtime=runtime, telemetry=telemetry, retry=retry, default_timeout=None
        )
        made[:0] = [client, runtime]
        return client

    yield embedded
    for each in made:
        each.close()


@pytest.fixture
def connected(watched: Watched, connected_to: str) -> Iterator[MacpClient]:
    auth = AuthConfig.for_dev_agent("chair")
    with MacpClient(target=connected_to, secure=False, auth=auth, telemetry=watched.telemetry) as client:
        yield client


@pytest.fixture(params=["port", pytest.param("server", marks=pytest.mark.server)])
def connected_to(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "server":
        yield request.getfixturevalue("real_server").target
        return
    with Runtime() as runtime, runtime.serve() as server:
        yield server.target


@pytest.fixture
def wire() -> Iterator[tuple[NotingWire, str]]:
    wire = NotingWire()
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, [wire])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield wire, f"127.0.0.1:{port}"
        server.stop(None).wait()
