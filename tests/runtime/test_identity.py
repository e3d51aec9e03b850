"""Who may do what, by token: on the embedded runtime and on the real server, with the same tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import reactivex as rx
from reactivex import operators as ops

from macp_rx import (
    AuthConfig,
    DecisionSession,
    MacpAckError,
    MacpClient,
    MacpRefusedError,
    MacpSessionError,
    MacpStreamError,
    MacpTransportError,
    Runtime,
)
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import TASK
from macp_rx.protocol.policy import build_decision_policy
from macp_rx.runtime import Settings, static_tokens
from macp_rx.runtime.identity import CROWD, WINDOW_MS, Rates
from tests.conftest import RUNTIMES, RealServer, runtime_binary

TOKENS = [
    {"token": "t-chair", "sender": "chair"},
    {"token": "t-chair-2", "sender": "chair"},
    {"token": "t-reader", "sender": "reader", "is_observer": True},
    {"token": "t-tasks", "sender": "tasks", "allowed_modes": [TASK]},
    {"token": "t-guest", "sender": "guest", "can_start_sessions": False},
    {"token": "t-one", "sender": "one", "max_open_sessions": 1},
    {"token": "t-admin", "sender": "admin", "can_manage_mode_registry": True},
    {"token": "t.dotted", "sender": "dotted"},
    {"token": "t-twice", "sender": "first"},
    {"token": "t-twice", "sender": "second", "unknown key": "is ignored"},
]


@pytest.fixture(params=RUNTIMES)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MacpClient]:
    """A client of a runtime that knows those tokens, without one of its own."""
    if request.param == "server":
        binary = runtime_binary()
        assert binary is not None
        server = RealServer(binary, MACP_AUTH_TOKENS_JSON=json.dumps({"tokens": TOKENS}))
        with MacpClient(target=server.target, secure=False, retry=None) as client:
            yield client
        server.close()
        return
    with Runtime(identify=static_tokens(json.dumps(TOKENS))) as runtime:
        if request.param == "memory":
            yield MacpClient.embedded(agent="nobody", runtime=runtime, retry=None).acting_as(
                AuthConfig("no such token")
            )
        else:
            with runtime.serve() as server, MacpClient(target=server.target, secure=False, retry=None) as client:
                yield client


def speaking(client: MacpClient, token: str) -> MacpClient:
    return client.acting_as(AuthConfig.for_bearer(token))


def started(client: MacpClient, *, participants: tuple[str, ...] = ("chair",)) -> DecisionSession:
    session = DecisionSession(client)
    session.start(intent="identity", participants=participants, ttl_ms=60_000)
    return session


def test_the_token_decides_who_speaks(client: MacpClient) -> None:
    session = started(speaking(client, "t-chair"))
    assert session.metadata().initiator == "chair"
    assert started(speaking(client, "t-twice"), participants=("x",)).metadata().initiator == "second"


@pytest.mark.parametrize("token", ["no such token", "t.dotted", "T-CHAIR"])
def test_a_token_that_nobody_has(client: MacpClient, token: str) -> None:
    stranger = speaking(client, token)
    with pytest.raises(MacpAckError) as refused:
        started(stranger)
    assert refused.value.code == "UNAUTHENTICATED"
    with pytest.raises(MacpTransportError) as failed:
        stranger.list_policies()
    assert (failed.value.status, failed.value.code) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert stranger.list_modes().modes, "what is open to all needs no credential"


def test_the_sender_of_another_is_refused(client: MacpClient) -> None:
    forger = client.acting_as(AuthConfig.for_bearer("t-guest", sender_hint="chair"))
    with pytest.raises(MacpAckError) as refused:
        started(forger)
    assert refused.value.code == "UNAUTHENTICATED"


def test_an_observer_reads_everything_and_does_nothing(client: MacpClient) -> None:
    chair = started(speaking(client, "t-chair"))
    chair.propose("p1", "canary")
    watched = DecisionSession(speaking(client, "t-reader"), chair.session_id)
    assert [accepted.message_type for accepted in speaking(client, "t-reader").history(chair.session_id)] == [
        "SessionStart",
        "Proposal",
    ]
    assert watched.metadata().initiator == "chair"
    with pytest.raises(MacpAckError) as refused:
        watched.vote("p1", "APPROVE")
    assert refused.value.code == "FORBIDDEN"
    with pytest.raises(MacpTransportError) as failed:
        watched.cancel()
    assert failed.value.code == "FORBIDDEN"


def test_an_outsider_reads_nothing(client: MacpClient) -> None:
    session = started(speaking(client, "t-chair"))
    guest = speaking(client, "t-guest")
    with pytest.raises(MacpTransportError) as failed:
        guest.get_session(session.session_id)
    assert failed.value.code == "FORBIDDEN"
    with pytest.raises(MacpStreamError) as refused:
        list(guest.history(session.session_id))
    assert refused.value.code == "FORBIDDEN"


def test_allowed_modes_forbid_other_modes_and_ambient_signals(client: MacpClient) -> None:
    tasks = speaking(client, "t-tasks")
    with pytest.raises(MacpAckError) as refused:
        started(tasks)
    assert refused.value.code == "FORBIDDEN"
    with pytest.raises(MacpAckError) as refused:
        tasks.send_signal(signal_type="heartbeat")
    assert refused.value.code == "FORBIDDEN"
    assert speaking(client, "t-guest").send_signal(signal_type="heartbeat").ok


def test_who_may_not_start_sessions(client: MacpClient) -> None:
    with pytest.raises(MacpAckError) as refused:
        started(speaking(client, "t-guest"))
    assert refused.value.code == "FORBIDDEN"


def test_open_sessions_are_counted_and_suspended_ones_are_not(client: MacpClient) -> None:
    one = speaking(client, "t-one")
    first = started(one)
    with pytest.raises(MacpAckError) as refused:
        started(one)
    assert refused.value.code == "RATE_LIMITED"
    first.suspend()
    started(one).cancel()
    first.resume()
    first.cancel()
    assert started(one).metadata().initiator == "one"


def test_only_who_may_manage_changes_the_registries(client: MacpClient) -> None:
    policy = build_decision_policy("policy.identity")
    with pytest.raises(MacpTransportError) as failed:
        speaking(client, "t-chair").register_policy(policy)
    assert failed.value.code == "FORBIDDEN"
    admin = speaking(client, "t-admin")
    assert admin.register_policy(policy).ok
    assert admin.unregister_policy("policy.identity").ok


def test_signals_say_whether_their_sender_is_authenticated(client: MacpClient) -> None:
    chair = speaking(client, "t-chair")
    heard = iter(chair.watch_signals())
    # a watch says nothing at first, so its start cannot be waited for: signal until it hears one
    pings = rx.interval(0.01, scheduler=chair.clock).pipe(
        ops.flat_map(lambda _: chair.rx.send_signal(signal_type="ping"))
    )
    with pings.subscribe():
        assert next(heard).sender_authenticated


def test_starts_and_messages_are_limited_apart_and_the_window_slides(virtual_time: VirtualClock) -> None:
    settings = Settings(starts_per_minute=2, messages_per_minute=3)
    with Runtime(clock=virtual_time, settings=settings) as runtime:
        client = MacpClient.embedded(agent="chair", runtime=runtime, retry=None)
        session = started(client)
        started(client)
        with pytest.raises(MacpAckError) as refused:
            started(client)
        assert refused.value.code == "RATE_LIMITED"
        session.propose("p1", "one")
        virtual_time.advance_by(30)
        session.propose("p2", "two")
        with pytest.raises(MacpAckError) as refused:
            session.vote("p3", "APPROVE")
        assert refused.value.code == "INVALID_ENVELOPE", "refused by a rule, it still counts"
        with pytest.raises(MacpAckError) as refused:
            session.vote("p1", "APPROVE")
        assert refused.value.code == "RATE_LIMITED"
        assert started(client.acting_as("other")).metadata().initiator == "other", "each sender has its own"
        virtual_time.advance_by(30)  # a minute after the first message; what was refused for the rate did not count
        session.vote("p1", "APPROVE")
        with pytest.raises(MacpAckError) as refused:
            session.vote("p2", "APPROVE")
        assert refused.value.code == "RATE_LIMITED"


def test_a_limit_of_nothing_refuses_everybody() -> None:
    with pytest.raises(MacpRefusedError) as refused:
        Rates().counting("agent", 0, 1)
    assert refused.value.code == "RATE_LIMITED"


def test_of_a_crowd_those_who_are_silent_are_forgotten() -> None:
    rates = Rates()
    for number in range(CROWD + 1):
        rates = rates.counting(f"agent-{number}", 1, number)
    with pytest.raises(MacpRefusedError):
        rates.counting("agent-1", 1, WINDOW_MS)
    rates = rates.counting("agent-0", 1, WINDOW_MS)
    with pytest.raises(MacpRefusedError):
        rates.counting(f"agent-{CROWD}", 1, WINDOW_MS)
    later = 3 * WINDOW_MS
    assert rates.counting("another", 1, later) == Rates().counting("another", 1, later)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON"),
        ("3", "must be a JSON list"),
        ('[{"token": "x"}]', "tokens[0] needs a token and a sender"),
        ('[{"token": "x", "sender": 3}]', "tokens[0].sender must be of type str"),
        ('[{"token": "x", "sender": "y", "is_observer": "yes"}]', "tokens[0].is_observer must be of type bool"),
        ('[{"token": "x", "sender": "y", "max_open_sessions": true}]', "max_open_sessions must be of type int"),
        ('[{"token": "x", "sender": "y", "allowed_modes": [3]}]', "tokens[0].allowed_modes must be a list of strings"),
        ("[3]", "tokens[0] must be an object"),
    ],
)
def test_a_tokens_file_that_is_wrong_says_where(text: str, says: str) -> None:
    with pytest.raises(MacpSessionError) as wrong:
        static_tokens(text)
    assert says in str(wrong.value)
