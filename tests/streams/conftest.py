"""Fixtures for streams: a wire that misbehaves when told to, and somebody who speaks past it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from macp_rx import MacpClient, Runtime, SessionStream
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION
from macp_rx.runtime import Settings
from tests.conftest import Recorder
from tests.runtime.conversation import Conversation
from tests.streams.exact import follow
from tests.streams.wire import Wire


@pytest.fixture
def wire(macp_runtime: Runtime) -> Iterator[Wire]:
    """A wire into the embedded runtime under the test's virtual time. Afterwards it is closed, and with it its clients."""
    wire = Wire(macp_runtime)
    yield wire
    wire.close(lambda: None)


@pytest.fixture
def forgetful_wire(virtual_time: VirtualClock) -> Iterator[Wire]:
    """A wire to a runtime that forgets a session's history when the session ends, as a file-backed server does."""
    wire = Wire(Runtime(clock=virtual_time, settings=Settings(compact_ended=True)))
    yield wire
    wire.close(lambda: None)


@pytest.fixture
def talk(macp_runtime: Runtime) -> Conversation:
    """A decision session of the embedded runtime, spoken in past the wire: it knows nothing of its faults."""
    return Conversation(MacpClient.embedded(agent="chair", runtime=macp_runtime), DECISION, ttl_ms=86_400_000)


@pytest.fixture
def events(wire: Wire, talk: Conversation) -> SessionStream:
    """That session's stream, over the wire."""
    return wire.client().session_events(talk.session_id)


@pytest.fixture
def heard(events: SessionStream, virtual_time: VirtualClock) -> Recorder:
    """Somebody who listens to it, and has caught up."""
    heard, _ = follow(events)
    virtual_time.advance_by(0)
    return heard


@pytest.fixture
def no_jitter(virtual_time: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait of a backoff is its longest."""
    monkeypatch.setattr(virtual_time, "jitter", lambda: 1.0)
