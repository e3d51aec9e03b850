"""How soon a stream delivers again once the server can be reached again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from macp_rx import DecisionSession
from macp_rx.streams.status import Connection
from tests.chaos.proxy import Proxy
from tests.conftest import RealServer, Recorder, dial

WITHIN = 1.5


class Arrivals(Recorder):
    """A recorder that knows when each item came."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def on_next(self, value: object) -> None:
        self.at.append(time.monotonic())
        super().on_next(value)


def refused(proxy: Proxy, seconds: float) -> None:
    proxy.refuse_for(seconds)
    proxy.cut()


@pytest.mark.server
@pytest.mark.parametrize("unreachable", [refused])
def test_a_stream_delivers_within_a_moment_of_the_servers_return(
    real_server: RealServer, unreachable: Callable[[Proxy, float], None], pytestconfig: pytest.Config
) -> None:
    """All outages at once, each behind a proxy of its own."""
    outages = pytestconfig.getoption("--outage") or [1, 10]
    with ExitStack() as stack:
        speaker = stack.enter_context(dial(real_server.target))
        session = DecisionSession(speaker)
        session.start(intent="outage", participants=["chair"], ttl_ms=600_000)
        back: list[tuple[float, Arrivals]] = []
        for seconds in outages:
            proxy = stack.enter_context(Proxy(real_server.target))
            heard = Arrivals()
            stack.enter_context(dial(proxy.target)).session_events(session.session_id).subscribe(heard)
            heard.wait_for(1)
            unreachable(proxy, seconds)
            back.append((time.monotonic() + seconds, heard))
        session.propose("p1", "one")  # while nobody can hear it
        for at, heard in back:
            heard.wait(lambda heard: len(heard.items) == 2, at - time.monotonic() + WITHIN)
            assert heard.at[1] - at >= 0


@pytest.mark.server
def test_a_connection_that_died_silently_is_found_after_a_long_silence(real_server: RealServer) -> None:
    """By default grpc pings an idle stream twice and never again, and waits a minute for the answer."""
    pings = [("grpc.keepalive_time_ms", 300), ("grpc.http2.ping_timeout_ms", 300)]
    with Proxy(real_server.target) as proxy, dial(proxy.target, options=pings) as client:
        session = DecisionSession(client)
        session.start(intent="silence", participants=["chair"], ttl_ms=600_000)
        lost, caught_up, long_after = threading.Event(), threading.Event(), threading.Event()
        told = {Connection.LOST: lost, Connection.CAUGHT_UP: caught_up}
        events = client.session_events(session.session_id)
        events.status.subscribe(lambda status: told.get(status.connection, threading.Event()).set())
        events.subscribe()
        assert caught_up.wait(5)
        client.clock.run_later(2.8, long_after.set)  # two pings, which are a second apart at least
        long_after.wait()
        assert not lost.is_set()
        proxy.silence()
        assert lost.wait(2)
