"""Fixtures for streams: a wire that misbehaves when told to, and somebody who speaks past it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from macp_rx import MacpClient, Runtime
from macp_rx.protocol.messages import DECISION
from tests.runtime.conversation import Conversation
from tests.streams.wire import Wire


@pytest.fixture
def wire(macp_runtime: Runtime) -> Iterator[Wire]:
    """A wire into the embedded runtime under the test's virtual time. Afterwards it is closed, and with it its clients."""
    wire = Wire(macp_runtime)
    yield wire
    wire.close(lambda: None)


@pytest.fixture
def talk(macp_runtime: Runtime) -> Conversation:
    """A decision session of the embedded runtime, spoken in past the wire: it knows nothing of its faults."""
    return Conversation(MacpClient.embedded(agent="chair", runtime=macp_runtime), DECISION, ttl_ms=86_400_000)


@pytest.fixture
def no_jitter(virtual_time: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait of a backoff is its longest."""
    monkeypatch.setattr(virtual_time, "jitter", lambda: 1.0)
