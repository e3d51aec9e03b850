"""How soon a stream delivers again once the server can be reached again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from reactivex import operators as ops

from macp_rx import DecisionSession, MacpTransportError, RetryPolicy
from macp_rx.streams.status import Connection
from tests.chaos.conftest import Serve
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
def test_a_client_may_begin_before_its_server(serve: Serve) -> None:
    """What subscribes, watches and sends meets a server that is still starting."""
    server = serve()
    with dial(server.target) as speaker:
        session_id = DecisionSession(speaker).start(intent="early", participants=["chair"], ttl_ms=600_000).session_id
    server.stop(signal.SIGTERM)
    heard, policies, sent, refused = Recorder(), Recorder(), Recorder(), threading.Event()
    with dial(server.target) as client:
        events = client.session_events(session_id)
        events.status.pipe(ops.filter(lambda status: status.connection is Connection.LOST)).subscribe(
            lambda _status: refused.set()
        )
        events.subscribe(heard)
        client.live_policies().subscribe(policies)
        DecisionSession(client, session_id).rx.propose("p1", "one").subscribe(sent)
        assert refused.wait(5)
        server.start()
        heard.wait_for(2)
        policies.wait_for(1)
        sent.wait_for_end()
        assert [ended.error for ended in (heard, policies, sent)] == [None] * 3


@pytest.mark.server
def test_a_wrong_address_is_told_in_time_with_the_reason(serve: Serve) -> None:
    server = serve()
    server.stop(signal.SIGTERM)
    heard, sent = Recorder(), Recorder()
    retry = RetryPolicy(first=0.05, cap=0.1, first_contact=0.5)
    with dial(server.target, retry=retry) as client:
        began = time.monotonic()
        client.session_events("s" * 36, retry=retry).subscribe(heard)
        client.rx.send_signal(signal_type="ping").subscribe(sent)
        for told in heard, sent:
            told.wait_for_end()
            assert isinstance(told.error, MacpTransportError)
            assert told.error.status == "UNAVAILABLE"
            assert server.target in str(told.error)
        assert 0.3 < time.monotonic() - began < 2


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
