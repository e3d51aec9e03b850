"""Live queries: the current set, then each new one, on every runtime."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import SessionState

from macp_rx import DecisionSession, MacpClient, MacpTransportError
from macp_rx.clock import VirtualClock
from macp_rx.protocol.policy import build_decision_policy
from macp_rx.streams.retry import RECONNECT
from tests.conftest import Connect, Recorder, wait_until
from tests.streams.wire import CUT, Wire


def last(recorder: Recorder) -> Mapping[str, object]:
    found = recorder.items[-1]
    assert isinstance(found, Mapping)
    return found


def test_policies(connect: Connect) -> None:
    client = connect("live")
    recorder = Recorder()
    client.live_policies().subscribe(recorder)
    recorder.wait(lambda heard: bool(heard.items) and "policy.default" in last(heard))
    client.register_policy(build_decision_policy("policy.live"))
    recorder.wait(lambda heard: "policy.live" in last(heard))
    client.unregister_policy("policy.live")
    recorder.wait(lambda heard: "policy.live" not in last(heard))


def test_modes(connect: Connect) -> None:
    client = connect("live")
    recorder = Recorder()
    client.live_modes().subscribe(recorder)
    recorder.wait(lambda heard: bool(heard.items) and "ext.multi_round.v1" in last(heard))
    descriptor = core_pb2.ModeDescriptor(
        mode="ext.live.v1", mode_version="1", message_types=["Say", "Commitment"], terminal_message_types=["Commitment"]
    )
    client.register_ext_mode(descriptor)
    recorder.wait(lambda heard: "ext.live.v1" in last(heard))
    client.unregister_ext_mode("ext.live.v1")
    recorder.wait(lambda heard: "ext.live.v1" not in last(heard))


def test_roots(connect: Connect) -> None:
    recorder = Recorder()
    connect("live").live_roots().subscribe(recorder)
    recorder.wait_for(1)
    assert recorder.items == [()]


def test_sessions(connect: Connect) -> None:
    client = connect("live")
    recorder = Recorder()
    client.live_sessions().subscribe(recorder)
    session = DecisionSession(client)

    def state(heard: Recorder) -> int | None:
        found = last(heard).get(session.session_id) if heard.items else None
        return found.state if isinstance(found, core_pb2.SessionMetadata) else None

    session.start(intent="live", participants=["live"], ttl_ms=60_000)
    recorder.wait(lambda heard: state(heard) == SessionState.SESSION_STATE_OPEN)
    session.suspend()
    recorder.wait(lambda heard: state(heard) == SessionState.SESSION_STATE_SUSPENDED)
    session.cancel()
    recorder.wait(lambda heard: state(heard) == SessionState.SESSION_STATE_CANCELLED)


def test_where_there_are_no_sessions_that_is_told_too() -> None:
    with MacpClient.embedded(agent="live") as client:
        assert next(iter(client.live_sessions())) == {}


def test_a_subscriber_that_raises_hears_its_own_error_and_its_watch_ends(connect: Connect) -> None:
    client, heard = connect("live"), Recorder()

    def fail(_modes: object) -> None:
        raise ArithmeticError("mine")

    client.live_modes().subscribe(fail, heard.on_error, heard.on_completed)
    heard.wait_for_end()
    assert str(heard.error) == "mine"
    wait_until(client.clock, lambda: client.subscriptions == ())


def test_it_is_one_subscription(connect: Connect) -> None:
    client = connect("live")
    client.live_modes().subscribe(recorder := Recorder())
    recorder.wait_for(1)
    assert [running.what for running in client.subscriptions] == ["live modes"]


def test_a_set_that_is_the_same_is_not_told_again(connect: Connect) -> None:
    client = connect("live")
    recorder = Recorder()
    client.live_policies(mode="macp.mode.task.v1").subscribe(recorder)
    recorder.wait_for(1)
    client.register_policy(build_decision_policy("policy.other"))  # a hint, and no change for this mode
    client.unregister_policy("policy.other")
    client.live_policies().subscribe(other := Recorder())
    other.wait_for(1)
    assert len(recorder.items) == 1


def test_a_close_is_silence_while_it_waits_to_watch_again_too(
    wire: Wire, virtual_time: VirtualClock, no_jitter: None
) -> None:
    client = wire.client()
    client.live_policies().subscribe(recorder := Recorder())
    virtual_time.advance_by(0)
    wire.cut()
    virtual_time.advance_by(0)
    client.close()
    virtual_time.advance_by(60)
    assert len(recorder.items) == 1
    assert recorder.error is None


def test_where_nobody_has_ever_answered_it_waits_a_while(wire: Wire, virtual_time: VirtualClock) -> None:
    wire.reached = False
    wire.down = CUT
    client = wire.client()
    early, late = Recorder(), Recorder()
    client.live_policies().subscribe(early)
    virtual_time.advance_by(RECONNECT.first_contact)
    assert early.error is CUT
    client.live_policies().subscribe(late)
    virtual_time.advance_by(RECONNECT.first_contact / 2)
    wire.up()
    virtual_time.advance_by(1)
    assert late.error is None
    assert "policy.default" in last(late)


def test_who_may_not_ask_is_told_once(connect: Connect) -> None:
    nobody = connect("live").acting_as("live")
    nobody.auth = None
    recorder = Recorder()
    nobody.live_policies().subscribe(recorder)
    recorder.wait_for_end()
    assert isinstance(recorder.error, MacpTransportError)
    assert recorder.error.code == "UNAUTHENTICATED"
    with pytest.raises(MacpTransportError):
        next(iter(nobody.live_sessions()))
