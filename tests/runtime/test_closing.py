"""A runtime that closes ends its calls with UNAVAILABLE, in memory as on a port."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from macp_rx import DecisionSession, MacpClient, MacpTransportError, Runtime
from macp_rx.clock import VirtualClock
from macp_rx.transport.loop import LoopLease
from tests.conftest import Recorder, dial


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    """A runtime, on a loop that goes on without it."""
    lease = LoopLease()
    yield Runtime()
    lease.release()


@pytest.fixture(params=["memory", "port"])
def client(request: pytest.FixtureRequest, runtime: Runtime) -> Iterator[MacpClient]:
    if request.param == "memory":
        client = MacpClient.embedded(agent="chair", runtime=runtime, retry=None)
    else:
        client = dial(runtime.serve().target, retry=None)
    with client:
        yield client


def start(client: MacpClient) -> str:
    session = DecisionSession(client)
    session.start(intent="close", participants=["chair"], ttl_ms=60_000)
    return session.session_id


def test_who_listens_hears_it(runtime: Runtime, client: MacpClient) -> None:
    stream, watch = Recorder(), Recorder()
    client.open_stream(start(client)).subscribe(stream)
    client.watch_sessions().subscribe(watch)
    stream.wait_for(1)
    watch.wait_for(1)
    runtime.close()
    for heard in (stream, watch):
        heard.wait_for_end()
        assert isinstance(heard.error, MacpTransportError)
        assert (heard.error.status, heard.error.code) == ("UNAVAILABLE", "")
    assert not runtime.open_calls


def test_who_waits_is_not_left_waiting(runtime: Runtime, client: MacpClient) -> None:
    with client.open_stream(start(client)) as stream, ThreadPoolExecutor() as readers:
        stream.read()
        waiting = readers.submit(stream.read, 10)
        runtime.close()
        with pytest.raises(MacpTransportError) as failed:
            waiting.result()
    assert failed.value.status == "UNAVAILABLE"


def test_nobody_is_answered_any_more(runtime: Runtime, client: MacpClient) -> None:
    session_id = start(client)
    runtime.close()
    with pytest.raises(MacpTransportError) as failed:
        client.get_session(session_id)
    assert failed.value.status == "UNAVAILABLE"
    with pytest.raises(MacpTransportError) as failed:
        next(iter(client.watch_roots()))
    assert failed.value.status == "UNAVAILABLE"


def test_under_virtual_time_it_is_told_at_the_same_instant() -> None:
    clock, heard = VirtualClock(), Recorder()
    runtime = Runtime(clock=clock)
    client = MacpClient.embedded(agent="chair", runtime=runtime, retry=None)
    client.open_stream(start(client)).subscribe(heard)
    clock.advance_by(1)
    before = clock.now_ms
    runtime.close()
    clock.advance_by(0)
    assert isinstance(heard.error, MacpTransportError)
    assert heard.error.status == "UNAVAILABLE"
    assert clock.now_ms == before
    assert len(heard.items) == 1


def test_a_runtime_that_ends_the_loop_tells_before_it_does(no_thread_left: None) -> None:
    heard = Recorder()
    with Runtime() as runtime:
        client = MacpClient.embedded(agent="chair", runtime=runtime, retry=None)
        client.open_stream(start(client)).subscribe(heard)
        heard.wait_for(1)
    assert isinstance(heard.error, MacpTransportError)
    assert heard.error.status == "UNAVAILABLE"


def test_it_can_be_closed_from_its_own_loop() -> None:
    heard = Recorder()
    lease = LoopLease()
    runtime = Runtime()
    client = MacpClient.embedded(agent="chair", runtime=runtime, retry=None)
    client.open_stream(start(client)).subscribe(heard)
    heard.wait_for(1)
    runtime.clock.run_soon(runtime.close)
    heard.wait_for_end()
    assert isinstance(heard.error, MacpTransportError)
    lease.release()
