"""What the log says: what was lost and what came back, and nothing while all is well."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from macp_rx import DecisionSession, MacpAckError, MacpClient, MacpTransportError, Runtime
from macp_rx.errors import MacpGapError
from macp_rx.runtime import Settings
from macp_rx.streams.retry import RetryPolicy
from macp_rx.streams.stream import HIGH_WATER
from macp_rx.testing.guard import GuardedClock
from tests.chaos.proxy import Proxy
from tests.conftest import Recorder, dial
from tests.streams.wire import CUT, Fault, Wire

Start = Callable[..., DecisionSession]

TOLD_AT_ONCE = 1 + HIGH_WATER
"""Of a session that nobody reads on: the SessionStart was read, and 256 wait at the reader."""


@pytest.fixture(autouse=True)
def listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "macp_rx")


@pytest.fixture
def start(virtual_time: GuardedClock) -> Iterator[Start]:
    """Starts a session on an embedded runtime under virtual time; settings are the runtime's."""
    made: list[MacpClient | Runtime] = []

    def start(retry: RetryPolicy | None = None, **settings: Any) -> DecisionSession:
        runtime = Runtime(clock=virtual_time, settings=Settings(**settings))
        client = MacpClient.embedded(agent="chair", runtime=runtime, retry=retry, default_timeout=None)
        made[:0] = [client, runtime]
        session = DecisionSession(client)
        session.start(intent="logs", participants=["chair"], ttl_ms=3_600_000)
        return session

    yield start
    for each in made:
        each.close()


def fall_behind(session: DecisionSession, on_gap: Any = "fail") -> Iterator[object]:
    """Reads the start alone while 769 more are accepted, the last of which resolves the session."""
    reading = iter(session._client.session_events(session.session_id, on_gap=on_gap))
    next(reading)
    for number in range(3 * HIGH_WATER):
        session.propose(f"p{number}", "one of many")
    session.commit(action="decision.approved", authority_scope="test", reason="because")
    return reading


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    assert {record.name for record in caplog.records} <= {"macp_rx.streams"}
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_all_is_well(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    session = start()
    session.propose("p1", "canary")
    with pytest.raises(MacpAckError):  # a refusal is an answer
        session.acting_as("mallory").propose("p2", "mine")
    session.commit(action="decision.approved", authority_scope="test", reason="because")
    assert len(list(session.events)) == 3
    assert said(caplog) == []


def test_a_lost_connection_and_its_return(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    session = start()
    assert len(list(fall_behind(session))) == 3 * HIGH_WATER + 1
    lagged = "StreamSession failed with RESOURCE_EXHAUSTED/STREAM_LAGGED: StreamSession receiver fell behind by 257 envelopes"
    assert said(caplog) == [
        ("WARNING", f"session {session.session_id}: connection lost behind sequence {TOLD_AT_ONCE}: {lagged}"),
        ("INFO", f"session {session.session_id}: connected again behind sequence {TOLD_AT_ONCE}"),
    ]


def test_where_nobody_has_ever_answered_the_first_failure_warns(
    wire: Wire, virtual_time: GuardedClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The address may be wrong, and whoever waits should see it before the send is given up."""
    wire.reached = False
    wire.next("Send", Fault(error=CUT), Fault(error=CUT))
    assert wire.client().send_signal(signal_type="ping").ok
    assert [level for level, _ in said(caplog)] == ["WARNING", "INFO"]


def test_a_gap(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    session = start(compact_ended=True)
    assert len(list(fall_behind(session, "continue"))) == HIGH_WATER
    last = 3 * HIGH_WATER + 2
    gap = f"up to sequence {last} there are {last - TOLD_AT_ONCE} envelopes that did not come"
    assert said(caplog)[1:] == [
        ("WARNING", f"session {session.session_id}: {gap}"),
        ("INFO", f"session {session.session_id}: connected again behind sequence {last}"),
    ]


def test_a_stream_that_does_not_come_back(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    session = start(compact_ended=True)
    with pytest.raises(MacpGapError) as gap:
        list(fall_behind(session))
    given_up = f"session {session.session_id}: given up behind sequence {TOLD_AT_ONCE}: {gap.value}"
    assert said(caplog)[1:] == [("WARNING", given_up)]


def test_a_send_that_is_tried_again_and_given_up(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    session = start(RetryPolicy(first=5, cap=5, give_up_after=10), messages_per_minute=1)
    session.propose("p1", "one")
    assert said(caplog) == []
    with pytest.raises(MacpAckError) as refused:
        session.propose("p2", "another")
    which = f"Proposal {refused.value.ack.message_id} was not accepted in session {session.session_id}"
    *again, given_up = said(caplog)
    assert given_up == ("WARNING", f"{which}, and is given up: {refused.value}")
    assert len(again) > 1
    for level, text in again:
        assert level == "INFO"
        assert text.startswith(f"{which}, and is sent again in ")
        assert text.endswith(f" s: {refused.value}")


@pytest.mark.parametrize(
    ("watches", "name"),
    [
        (lambda client: client.live_policies(), "live policies"),
        (lambda client: client.all_events(), "events of all sessions"),
    ],
)
def test_a_watch_that_is_lost_and_comes_back(
    wire: Wire, virtual_time: GuardedClock, caplog: pytest.LogCaptureFixture, watches: Any, name: str
) -> None:
    with wire.client() as client:
        DecisionSession(client).start(intent="logs", participants=["chair"], ttl_ms=3_600_000)
        watches(client).subscribe()
        virtual_time.advance_by(1)
        for rpc in ("WatchPolicies", "WatchSessions"):
            wire.next(rpc, *[Fault(error=CUT)] * 3)
        wire.cut()
        virtual_time.advance_by(10)
        told = [line for line in said(caplog) if line[1].startswith(f"{name}: ")]
        assert told == [("WARNING", f"{name}: connection lost: {CUT}"), ("INFO", f"{name}: connected again")]


def test_a_server_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    with (
        Runtime() as runtime,
        runtime.serve() as server,
        Proxy(server.target) as proxy,
        dial(proxy.target) as client,
    ):
        session = DecisionSession(client)
        session.start(intent="logs", participants=["chair"], ttl_ms=60_000)
        heard = Recorder()
        retry = RetryPolicy(first=0.01, cap=0.01, give_up_after=0.05)
        client.session_events(session.session_id, retry=retry).subscribe(heard)
        heard.wait_for(1)
        proxy.refuse()
        proxy.cut()
        heard.wait_for_end()
        assert isinstance(heard.error, MacpTransportError)
    lost, given_up = said(caplog)
    where = f"session {session.session_id}:"
    assert lost[0] == "WARNING"
    assert lost[1].startswith(f"{where} connection lost behind sequence 1: StreamSession failed with UNAVAILABLE: ")
    assert given_up == ("WARNING", f"{where} given up behind sequence 1: {heard.error}")
