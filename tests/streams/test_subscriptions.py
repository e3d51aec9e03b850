"""What runs can be listed, what blocks is named, and what nobody holds ends."""

from __future__ import annotations

import gc
import logging
import threading

import pytest
from reactivex import operators as ops

from macp_rx import Accepted, DecisionSession, MacpClient, Runtime
from tests.conftest import SERVER, Connect, Recorder, wait_until


def show(accepted: Accepted) -> None:
    """A callback with a name."""


def started(client: MacpClient) -> DecisionSession:
    session = DecisionSession(client)
    session.start(intent="subscriptions", participants=["chair"], ttl_ms=60_000)
    return session


def test_a_cell_that_runs_twice_has_two_subscriptions(connect: Connect) -> None:
    client = connect("chair")
    session = started(client)
    heard = Recorder()
    for _ in range(2):
        client.session_events(session.session_id).pipe(
            ops.do_action(heard.on_next, on_completed=heard.on_completed)
        ).subscribe(show)
    heard.wait_for(2)
    two = client.subscriptions
    assert [subscription.what for subscription in two] == [f"events of {session.session_id}"] * 2
    assert all("show" in subscription.who and "test_subscriptions.py" in subscription.who for subscription in two)
    session.cancel()
    heard.wait_for_end()
    wait_until(client.clock, lambda: client.subscriptions == ())


@pytest.mark.parametrize("connect", ["port", SERVER], indirect=True)
def test_a_callback_that_blocks_the_io_thread_is_named(client: MacpClient, caplog: pytest.LogCaptureFixture) -> None:
    """Not in memory: there is no gRPC call that others would wait for."""
    session = started(client)
    done = threading.Event()

    def slow(_accepted: Accepted) -> None:
        threading.Event().wait(0.15)  # what it does takes so long
        done.set()

    with caplog.at_level(logging.WARNING, "macp_rx"):
        client.session_events(session.session_id).subscribe(slow)
        assert done.wait(5)
        session.metadata()  # behind it, on the same thread
    assert any("slow" in record.message and "deliver_on" in record.message for record in caplog.records)


def test_a_client_that_is_collected_ends_its_calls_and_its_thread(no_thread_left: None) -> None:
    with Runtime() as runtime:
        client = MacpClient.embedded(agent="chair", runtime=runtime)
        heard = Recorder()
        session = started(client)
        client.session_events(session.session_id).subscribe(heard)
        heard.wait_for(1)
        assert runtime.open_calls >= 1
        del client, session
        gc.collect()
        wait_until(runtime.clock, lambda: runtime.open_calls == 0)
        assert not heard.completed
        assert heard.error is None


def test_a_stream_keeps_the_client_that_it_comes_from() -> None:
    with Runtime() as runtime:
        session_id = started(MacpClient.embedded(agent="chair", runtime=runtime)).session_id
        gc.collect()
        events = MacpClient.embedded(agent="chair", runtime=runtime).session_events(session_id)
        gc.collect()
        assert next(iter(events.pipe(ops.map(lambda accepted: accepted.message_type)))) == "SessionStart"
