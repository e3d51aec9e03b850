"""The client: every RPC, its errors, its ways of waiting, its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Envelope, SessionState
from reactivex import abc
from reactivex import operators as ops
from reactivex.disposable import Disposable
from reactivex.scheduler.eventloop import AsyncIOScheduler

from macp_rx import (
    AuthConfig,
    DecisionSession,
    MacpAckError,
    MacpClient,
    MacpClosedError,
    MacpIdentityMismatchError,
    MacpRefusedError,
    MacpSessionError,
    MacpStreamError,
    MacpTimeoutError,
    MacpTransportError,
    MacpWouldBlockError,
    Runtime,
    Stream,
    new_session_id,
)
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from tests.conftest import Connect, RealServer, Recorder

SNAKE_CASE = {
    "StreamSession": ["open_stream", "session_events", "history"],
    "ListSessions": ["list_sessions", "list_sessions_page"],
}

PEM = b"-----BEGIN CERTIFICATE-----"


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


@pytest.mark.parametrize(
    "rpc", [method.name for method in core_pb2.DESCRIPTOR.services_by_name["MACPRuntimeService"].methods]
)
def test_no_rpc_of_the_service_is_missing(rpc: str) -> None:
    for name in SNAKE_CASE.get(rpc, [snake(rpc)]):
        assert hasattr(MacpClient, name)


class TestUnary:
    def test_initialize(self, client: MacpClient) -> None:
        reply = client.initialize()
        assert reply.selected_protocol_version == "1.0"
        assert "macp.mode.decision.v1" in reply.supported_modes

    def test_manifest_and_its_error(self, client: MacpClient) -> None:
        assert "macp.mode.decision.v1" in client.get_manifest().manifest.supported_modes
        with pytest.raises(MacpTransportError) as failed:
            client.get_manifest("nobody")
        assert (failed.value.status, failed.value.code) == ("NOT_FOUND", "AGENT_NOT_FOUND")

    def test_modes_and_roots(self, client: MacpClient) -> None:
        assert client.list_modes().modes[0].mode == "macp.mode.decision.v1"
        assert "ext.multi_round.v1" in [mode.mode for mode in client.list_ext_modes().modes]
        assert list(client.list_roots().roots) == []

    def test_an_error_keeps_its_evidence(self, client: MacpClient) -> None:
        with pytest.raises(MacpTransportError) as failed:
            client.get_session(new_session_id())
        error = failed.value
        assert (error.status, error.code) == ("NOT_FOUND", "SESSION_NOT_FOUND")
        assert error.method == "/macp.v1.MACPRuntimeService/GetSession"
        assert ("macp-error-code", "SESSION_NOT_FOUND") in error.trailing_metadata

    def test_a_refused_message_is_an_error_with_its_ack(self, client: MacpClient, session: DecisionSession) -> None:
        with pytest.raises(MacpAckError) as refused:
            session.vote("unknown", "APPROVE")
        assert refused.value.code == "INVALID_ENVELOPE"
        assert not refused.value.ack.ok
        assert "Vote" in str(refused.value)

    def test_sending_an_envelope_again_is_a_duplicate(self, client: MacpClient, session: DecisionSession) -> None:
        (start,) = client.history(session.session_id)
        assert client.send(start.envelope).duplicate

    def test_one_rx_call_subscribed_twice_is_sent_once_for_the_runtime(
        self, client: MacpClient, session: DecisionSession
    ) -> None:
        proposing = session.rx.propose("p1", "one")
        assert not proposing.run().duplicate
        assert proposing.run().duplicate

    def test_nothing_is_sent_before_subscribe(self, client: MacpClient, session: DecisionSession) -> None:
        session.rx.propose("p1", "one")
        assert len(list(client.history(session.session_id))) == 1

    def test_a_foreign_sender_is_refused_before_the_wire(self, client: MacpClient, session: DecisionSession) -> None:
        with pytest.raises(MacpIdentityMismatchError, match="acting_as"):
            client.send(Envelope(sender="alice"))

    def test_lifecycle(self, client: MacpClient, session: DecisionSession) -> None:
        assert session.metadata().state == SessionState.SESSION_STATE_OPEN
        assert session.suspend(reason="wait").session_state == SessionState.SESSION_STATE_SUSPENDED
        with pytest.raises(MacpAckError, match="SESSION_NOT_OPEN"):
            session.propose("p1", "one")
        with pytest.raises(MacpAckError, match="SESSION_NOT_OPEN"):
            session.suspend()
        assert session.resume().session_state == SessionState.SESSION_STATE_OPEN
        assert session.cancel(reason="enough").session_state == SessionState.SESSION_STATE_CANCELLED
        assert session.cancel().session_state == SessionState.SESSION_STATE_CANCELLED

    def test_sessions_are_listed_page_by_page(self, client: MacpClient) -> None:
        started = {DecisionSession(client).session_id for _ in range(5)}
        for session_id in started:
            DecisionSession(client, session_id).start(intent="listed", participants=["chair"], ttl_ms=60_000)
        listed = [session.session_id for session in client.list_sessions(page_size=2)]
        assert started <= set(listed)
        assert listed == sorted(listed)
        first = client.list_sessions_page(page_size=2)
        assert len(first.sessions) == 2
        assert first.next_page_token

    def test_signals_and_progress_reach_the_watchers(self, client: MacpClient) -> None:
        heard = Recorder()
        client.watch_signals().subscribe(heard)
        # the watch says nothing at first, so knock until it hears
        for index in range(200):
            client.send_signal(signal_type=f"knock-{index}", data=b"x", confidence=0.5)
            if heard.items:
                break
        client.send_progress(progress_token="t", progress=1, total=2)
        heard.wait(lambda so_far: any(item.envelope.message_type == "Progress" for item in so_far.items))  # type: ignore[attr-defined]

    def test_a_call_takes_observers_as_rxpy_does(self, client: MacpClient) -> None:
        heard = Recorder()  # no ObserverBase, but it can do what one can
        client.rx.initialize().subscribe(heard)
        heard.wait_for_end()
        assert len(heard.items) == 1

    def test_bad_input_never_reaches_the_wire(self, client: MacpClient) -> None:
        with pytest.raises(MacpSessionError):
            client.send_signal(signal_type=" ")
        with pytest.raises(MacpSessionError):
            client.send_progress(progress_token="t", progress=1, total=2, session_id=new_session_id())
        with pytest.raises(MacpSessionError):
            client.session_events("my-session")


class TestBadInput:
    @pytest.mark.parametrize("target", ["", " ", None, 50051, "http://127.0.0.1:50051"])
    def test_a_target_that_can_never_work_is_refused_at_once(self, target: Any, no_thread_left: None) -> None:
        with pytest.raises(MacpSessionError, match="'host:port'"):
            MacpClient(target=target)

    @pytest.mark.parametrize(
        ("certificates", "told"),
        [
            ({"private_key": PEM}, "both private_key and certificate_chain"),
            ({"certificate_chain": PEM}, "both private_key and certificate_chain"),
            ({"root_certificates": b"/etc/ssl/ca.pem"}, r"root_certificates is the content of a PEM file.*read_bytes"),
            ({"root_certificates": PEM.decode()}, "root_certificates is the content"),
        ],
    )
    def test_certificates_that_can_never_work_are_refused_at_once(
        self, certificates: Any, told: str, no_thread_left: None
    ) -> None:
        """grpc aborts the process for a key without its certificate (measured)."""
        with pytest.raises(MacpSessionError, match=told):
            MacpClient(target="127.0.0.1:1", **certificates)

    def test_what_grpc_refuses_is_the_calls_error_and_not_silence(self, no_thread_left: None) -> None:
        wrong: Any = [("an option", "has", "two parts")]
        with MacpClient(target="127.0.0.1:1", secure=False, options=wrong) as client:
            for refused in (client.rx.initialize(), client.watch_roots(), client.session_events(new_session_id())):
                heard = Recorder()
                refused.subscribe(heard)
                heard.wait_for_end()
                assert isinstance(heard.error, ValueError)

    @pytest.mark.parametrize("envelope", [None, "Vote"])
    def test_only_envelopes_are_sent(self, client: MacpClient, envelope: Any) -> None:
        with pytest.raises(MacpSessionError, match="send takes an Envelope"):
            client.send(envelope)

    def test_a_position_is_not_negative(self, client: MacpClient) -> None:
        for read in (client.session_events, client.history, client.acting_as("chair").open_stream):
            with pytest.raises(MacpSessionError, match="after_sequence -1 is negative"):
                read(new_session_id(), after_sequence=-1)


class TestRegistries:
    def test_extension_modes(self, client: MacpClient) -> None:
        mode = f"ext.test.{new_session_id()[:8]}.v1"
        descriptor = core_pb2.ModeDescriptor(
            mode=mode, mode_version="1.0.0", message_types=["Note", "Commitment"], terminal_message_types=["Commitment"]
        )
        assert client.register_ext_mode(descriptor).ok
        with pytest.raises(MacpRefusedError):
            client.register_ext_mode(descriptor)
        assert mode in [known.mode for known in client.list_ext_modes().modes]
        promoted = client.promote_mode(mode).mode
        assert promoted == mode
        other = core_pb2.ModeDescriptor()
        other.CopyFrom(descriptor)
        other.mode = f"{mode}.b"
        client.register_ext_mode(other)
        assert client.unregister_ext_mode(other.mode).ok

    def test_policies(self, client: MacpClient) -> None:
        policy = policy_pb2.PolicyDescriptor(
            policy_id=f"policy.test.{new_session_id()[:8]}",
            mode="macp.mode.decision.v1",
            rules='{"voting":{"algorithm":"majority","threshold":0.5}}',
            schema_version=3,
        )
        assert client.register_policy(policy).ok
        assert client.get_policy(policy.policy_id).policy_descriptor.mode == "macp.mode.decision.v1"
        assert policy.policy_id in [known.policy_id for known in client.list_policies().descriptors]
        bad = policy_pb2.PolicyDescriptor(policy_id="x", mode="*", rules="[]", schema_version=3)
        with pytest.raises(MacpRefusedError) as refused:
            client.register_policy(bad)
        assert refused.value.code == "INVALID_POLICY_DEFINITION"
        assert client.unregister_policy(policy.policy_id).ok
        with pytest.raises(MacpTransportError, match="UNKNOWN_POLICY_VERSION"):
            client.get_policy(policy.policy_id)

    def test_what_if_and_receipts(self, client: MacpClient, session: DecisionSession) -> None:
        session.propose("p1", "one")
        with pytest.raises(MacpTransportError, match="RECEIPT_UNAVAILABLE"):
            client.get_decision_receipt(session.session_id)
        session.commit(action="decision.approved", authority_scope="test", reason="because")
        assert "macp-receipt/1" in client.get_decision_receipt(session.session_id).receipt_json
        assert client.get_receipt_keys().jwks_json == '{"keys":[]}'
        strict = policy_pb2.PolicyDescriptor(
            policy_id="candidate",
            mode="macp.mode.decision.v1",
            rules='{"voting":{"algorithm":"unanimous"}}',
            schema_version=3,
        )
        replay = client.what_if_replay(session.session_id, strict)
        assert replay.candidate.state == SessionState.SESSION_STATE_OPEN
        assert replay.recorded.state == SessionState.SESSION_STATE_RESOLVED


class TestStreams:
    def test_watches_tell_the_present_at_once(self, client: MacpClient, session: DecisionSession) -> None:
        assert next(iter(client.watch_mode_registry())).change.registry == "modes"
        assert next(iter(client.watch_roots())).change.observed_at_unix_ms > 0
        policies = next(iter(client.watch_policies())).descriptors
        assert "policy.default" in [policy.policy_id for policy in policies]
        known = Recorder()
        watching = client.watch_sessions().subscribe(known)
        ids = lambda heard: {item.event.session.session_id for item in heard.items}  # noqa: E731
        known.wait(lambda heard: session.session_id in ids(heard))
        watching.dispose()

    def test_a_timeout_ends_a_watch_cleanly(self, client: MacpClient) -> None:
        assert len(list(client.watch_roots(timeout=0.1))) == 1

    def test_the_default_timeout_never_ends_a_stream(self, connect: Connect) -> None:
        impatient = connect("chair")
        impatient.default_timeout = 0.2
        heard = Recorder()
        impatient.watch_roots().subscribe(heard)
        heard.wait_for(1)
        with pytest.raises(MacpTimeoutError):
            next(iter(impatient.watch_roots().pipe(ops.skip(1), mo.within(0.5))))
        assert heard.error is None
        assert not heard.completed

    def test_events_replay_go_on_live_and_complete_with_the_commitment(
        self, client: MacpClient, session: DecisionSession
    ) -> None:
        heard = Recorder()
        session.events.subscribe(heard)
        heard.wait_for(1)
        session.propose("p1", "one")
        session.commit(action="decision.approved", authority_scope="test", reason="because")
        heard.wait_for_end()
        assert heard.completed
        assert [(accepted.sequence, accepted.message_type) for accepted in heard.items] == [  # type: ignore[attr-defined]
            (1, "SessionStart"),
            (2, "Proposal"),
            (3, "Commitment"),
        ]
        assert [accepted.sequence for accepted in client.session_events(session.session_id, after_sequence=2)] == [3]

    def test_history_ends_by_itself(self, client: MacpClient, session: DecisionSession) -> None:
        session.propose("p1", "one")
        assert [accepted.message_type for accepted in client.history(session.session_id)] == [
            "SessionStart",
            "Proposal",
        ]
        assert [accepted.sequence for accepted in client.history(session.session_id, after_sequence=1)] == [2]

    def test_an_outsider_is_told_so(self, connect: Connect, session: DecisionSession) -> None:
        with pytest.raises(MacpStreamError, match="FORBIDDEN"):
            list(connect("mallory").session_events(session.session_id))

    def test_each_subscription_is_its_own_call(self, client: MacpClient, session: DecisionSession) -> None:
        events = client.session_events(session.session_id)
        first, second = Recorder(), Recorder()
        events.subscribe(first)
        leaving = events.subscribe(second)
        first.wait_for(1)
        second.wait_for(1)
        leaving.dispose()
        session.propose("p1", "one")
        first.wait_for(2)
        assert len(second.items) == 1

    def test_dispose_from_inside_on_next_delivers_nothing_more(
        self, client: MacpClient, session: DecisionSession
    ) -> None:
        heard: list[object] = []
        other = Recorder()

        def once(item: object) -> None:
            heard.append(item)
            subscription.dispose()

        def subscribe() -> None:  # on the clock's thread, so that nothing comes before the subscription is known
            nonlocal subscription
            subscription = session.events.subscribe(once)

        subscription: abc.DisposableBase = Disposable()
        client.clock.run_soon(subscribe)
        session.events.subscribe(other)
        session.propose("p1", "one")
        session.propose("p2", "two")
        other.wait_for(3)
        assert len(heard) == 1
        subscription.dispose()

    def test_a_consumer_that_raises_gets_its_own_error(self, client: MacpClient, session: DecisionSession) -> None:
        ended = Recorder()

        def broken(_item: object) -> None:
            raise ZeroDivisionError

        client.session_events(session.session_id).subscribe(broken, ended.on_error)
        ended.wait_for_end()
        assert isinstance(ended.error, ZeroDivisionError)
        assert client.initialize().selected_protocol_version == "1.0"  # and the loop lives on


class TestWaiting:
    def test_rx_awaits_on_any_loop(self, client: MacpClient) -> None:
        async def ask() -> str:
            assert isinstance(client.rx.initialize(), Stream)
            return (await client.rx.initialize()).selected_protocol_version

        assert asyncio.run(ask()) == "1.0"

    def test_a_blocking_call_on_the_io_thread_raises(self, client: MacpClient) -> None:
        outcome = Recorder()

        def block() -> None:
            try:
                client.initialize()
            except Exception as error:
                outcome.on_error(error)

        client.clock.run_soon(block)
        outcome.wait_for_end()
        assert isinstance(outcome.error, MacpWouldBlockError)

    def test_calls_from_many_threads(self, client: MacpClient, session: DecisionSession) -> None:
        def propose(index: int) -> None:
            session.propose(f"p{index}", "one")

        threads = [threading.Thread(target=propose, args=(index,)) for index in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(client.history(session.session_id))) == 17


def _reading(session: DecisionSession, began: Callable[[], None]) -> None:
    for _ in session.events:
        began()


def _running(session: DecisionSession, began: Callable[[], None]) -> None:
    session.events.pipe(ops.do_action(lambda _: began())).run()


async def _awaiting(session: DecisionSession, began: Callable[[], None]) -> None:
    await session.events.pipe(ops.do_action(lambda _: began()))


async def _async_reading(session: DecisionSession, began: Callable[[], None]) -> None:
    async for _ in session.events:
        began()


def _stream_reading(session: DecisionSession, began: Callable[[], None]) -> None:
    stream = session.open_stream()
    while stream.read() is not None:
        began()


WAITING: dict[str, Callable[[DecisionSession, Callable[[], None]], object]] = {
    "for": _reading,
    "run": _running,
    "await": lambda session, began: asyncio.run(_awaiting(session, began)),
    "async for": lambda session, began: asyncio.run(_async_reading(session, began)),
    "read": _stream_reading,
}
"""Ways of waiting for what never comes; each says when its first item has come."""


class TestEnd:
    def test_close_ends_live_subscriptions_silently(self, client: MacpClient, session: DecisionSession) -> None:
        heard = Recorder()
        session.events.subscribe(heard)
        heard.wait_for(1)
        client.close()
        client.close()
        assert heard.error is None

    @pytest.mark.parametrize("wait", WAITING.values(), ids=WAITING.keys())
    def test_close_leaves_nobody_waiting(
        self,
        client: MacpClient,
        session: DecisionSession,
        wait: Callable[[DecisionSession, Callable[[], None]], object],
    ) -> None:
        began, ended = threading.Event(), Recorder()

        def work() -> None:
            try:
                wait(session, began.set)
            except MacpClosedError as error:
                ended.on_error(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert began.wait(5)
        client.close()
        ended.wait_for_end()
        assert "the client was closed" in str(ended.error)
        thread.join()

    def test_every_close_returns_when_nothing_is_left(self, client: MacpClient, session: DecisionSession) -> None:
        session.events.subscribe(Recorder())
        closed = Recorder()

        def close() -> None:
            client.close()
            with pytest.raises(MacpClosedError):
                client.initialize()
            closed.on_next("closed")

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(client.aclose())
        assert len(closed.items) == 4

    def test_after_close_a_call_says_so(self, client: MacpClient) -> None:
        client.initialize()
        client.close()
        with pytest.raises(MacpClosedError):
            client.initialize()
        with pytest.raises(MacpClosedError):
            list(client.watch_roots())

    def test_acting_as_shares_the_connection(self, client: MacpClient, session: DecisionSession) -> None:
        session.propose("p1", "one")
        session.acting_as("alice").vote("p1", "APPROVE")
        assert [accepted.sender for accepted in client.history(session.session_id)] == ["chair", "chair", "alice"]


def test_under_virtual_time_a_client_is_an_async_context_manager_too() -> None:
    async def main() -> list[str]:
        async with MacpClient.embedded(agent="chair", runtime=Runtime(clock=VirtualClock())) as client:
            session = DecisionSession(client)
            await session.rx.start(intent="virtual", participants=["chair"], ttl_ms=60_000)
            return [accepted.message_type async for accepted in client.history(session.session_id)]

    assert asyncio.run(asyncio.wait_for(main(), 5)) == ["SessionStart"]


@pytest.mark.server
class TestOwnLoop:
    def test_an_await_ends_with_the_client(self, real_server: RealServer, no_thread_left: None) -> None:
        async def main() -> None:
            scheduler = AsyncIOScheduler(asyncio.get_running_loop())
            auth = AuthConfig.for_bearer(lambda: asyncio.Future())  # a call that is under way for ever
            async with MacpClient(target=real_server.target, secure=False, auth=auth, scheduler=scheduler) as client:
                waiting = [asyncio.ensure_future(client.rx.initialize()) for _ in range(3)]
                await asyncio.sleep(0)  # one turn of the loop, in which they begin
            for one in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(one, MacpClosedError)

        asyncio.run(main())

    def test_calls_live_on_a_loop_that_is_handed_over(self, real_server: RealServer, no_thread_left: None) -> None:
        async def main() -> None:
            scheduler = AsyncIOScheduler(asyncio.get_running_loop())
            auth = AuthConfig.for_dev_agent("chair")
            async with MacpClient(target=real_server.target, secure=False, auth=auth, scheduler=scheduler) as client:
                session = DecisionSession(client)
                await session.rx.start(intent="own loop", participants=["chair"], ttl_ms=60_000)
                with pytest.raises(MacpWouldBlockError):
                    session.propose("p1", "one")
                await session.rx.propose("p1", "one")
                kinds = [accepted.message_type async for accepted in client.history(session.session_id)]
                assert kinds == ["SessionStart", "Proposal"]
                assert not [thread for thread in threading.enumerate() if thread.name == "macp_rx-io"]

        asyncio.run(main())
