"""Sends: in each caller's order, tried again under the same message id, never told twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from macp.v1.envelope_pb2 import Ack

from macp_rx import (
    DecisionSession,
    MacpAckError,
    MacpClient,
    MacpClosedError,
    MacpOverflowError,
    MacpTimeoutError,
    MacpTransportError,
    Runtime,
    Stream,
)
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision
from macp_rx.runtime import Settings
from macp_rx.streams.retry import RetryPolicy
from macp_rx.streams.sending import SEND_RETRY, WAITING
from tests.conftest import Connect, Recorder
from tests.runtime.conversation import Conversation
from tests.streams.exact import follow
from tests.streams.wire import CUT, INTERNAL, Fault, Wire


@pytest.fixture
def client(wire: Wire) -> MacpClient:
    return wire.client("chair")


def proposing(client: MacpClient, talk: Conversation, proposal: str, **options: Any) -> Stream[Ack]:
    """A send that says a proposal under its own name for a message id."""
    sender = client.auth.sender if client.auth else ""
    envelope = talk.envelope(sender, decision.propose(proposal, "one"), message_id=proposal)
    return client.rx.send(envelope, **options)


def accepted(talk: Conversation) -> list[str]:
    """The message ids that the runtime accepted, behind the SessionStart."""
    return [envelope.message_id for envelope in talk.history()[1:]]


def code(heard: Recorder) -> str:
    """What a send came to."""
    if heard.error is None:
        return "ok" if heard.completed else "nothing"
    return getattr(heard.error, "code", "") or getattr(heard.error, "status", "") or repr(heard.error)


class TestTryingAgain:
    @pytest.mark.parametrize(
        "fault",
        [
            Fault(error=CUT),
            Fault(error=INTERNAL),
            Fault(error=MacpTransportError("CANCELLED", "GOAWAY")),
            Fault(error=MacpTransportError("INTERNAL", code="INTERNAL_ERROR")),
            Fault(refused="INTERNAL_ERROR"),
            Fault(refused="RATE_LIMITED"),
        ],
        ids=str,
    )
    def test_what_may_pass_is_tried_again_under_the_same_message_id(
        self, client: MacpClient, talk: Conversation, wire: Wire, fault: Fault
    ) -> None:
        wire.next("Send", fault, fault)
        ack = proposing(client, talk, "p1").run()
        assert (ack.ok, ack.duplicate, ack.message_id) == (True, False, "p1")
        assert [call.requests[0].envelope.message_id for call in wire.made("Send")] == ["p1", "p1", "p1"]
        assert accepted(talk) == ["p1"]

    def test_an_answer_that_was_lost_is_asked_for_again_and_nothing_is_said_twice(
        self, client: MacpClient, talk: Conversation, wire: Wire
    ) -> None:
        wire.next("Send", Fault(error=CUT, lost=True))
        assert proposing(client, talk, "p1").run().duplicate
        assert accepted(talk) == ["p1"]

    def test_a_session_is_started_once_though_the_answer_was_lost(self, client: MacpClient, wire: Wire) -> None:
        wire.next("Send", Fault(error=CUT, lost=True))
        session = DecisionSession(client)
        assert session.start(intent="once", participants=["chair"], ttl_ms=60_000).duplicate
        assert len(list(client.history(session.session_id))) == 1

    @pytest.mark.parametrize(
        "fault",
        [
            Fault(refused="FORBIDDEN"),
            Fault(refused="INVALID_ENVELOPE"),
            Fault(refused="POLICY_DENIED"),
            Fault(refused="SESSION_NOT_OPEN"),
            Fault(refused="SESSION_NOT_FOUND"),
            Fault(refused="UNAUTHENTICATED"),
            Fault(refused="PAYLOAD_TOO_LARGE"),
            Fault(error=MacpTransportError("PERMISSION_DENIED", code="FORBIDDEN")),
            Fault(error=MacpTransportError("UNIMPLEMENTED")),
            Fault(error=MacpTransportError("OUT_OF_RANGE", "the frame is too large")),
        ],
        ids=str,
    )
    def test_an_answer_is_an_answer(self, client: MacpClient, talk: Conversation, wire: Wire, fault: Fault) -> None:
        wire.next("Send", fault)
        with pytest.raises((MacpAckError, MacpTransportError)):
            proposing(client, talk, "p1").run()
        assert len(wire.made("Send")) == 1

    def test_the_waits_double_up_to_a_second(
        self, client: MacpClient, talk: Conversation, wire: Wire, no_jitter: None
    ) -> None:
        wire.next("Send", *[Fault(error=CUT)] * 7)
        proposing(client, talk, "p1").run()
        assert wire.times("Send") == pytest.approx([0, 0.05, 0.15, 0.35, 0.75, 1.55, 2.55, 3.55])

    def test_a_rate_limit_is_given_time(
        self, client: MacpClient, talk: Conversation, wire: Wire, no_jitter: None
    ) -> None:
        """Its window slides over a minute; asking at once would only count anew."""
        wire.next("Send", *[Fault(refused="RATE_LIMITED")] * 2)
        proposing(client, talk, "p1").run()
        assert wire.times("Send") == pytest.approx([0, 2.05, 4.15])

    def test_a_runtimes_own_rate_limit_is_waited_out(self, virtual_time: VirtualClock) -> None:
        """60 starts a minute: the 61st goes out when the window has slid."""
        runtime = Runtime(clock=virtual_time, settings=Settings(starts_per_minute=2))
        patience = RetryPolicy(first=1.0, cap=8.0, give_up_after=120)
        with MacpClient.embedded(agent="chair", runtime=runtime, default_timeout=None, retry=patience) as client:
            for _ in range(3):
                DecisionSession(client).start(intent="many", participants=["chair"], ttl_ms=60_000)
            assert 60 <= virtual_time.seconds < 71

    def test_it_gives_up_with_the_last_error(self, talk: Conversation, wire: Wire, virtual_time: VirtualClock) -> None:
        client = wire.client("chair", default_timeout=None)
        wire.next("Send", *[Fault(error=CUT)] * 30, *[Fault(error=INTERNAL)] * 50)
        with pytest.raises(MacpTransportError, match="RST_STREAM"):
            proposing(client, talk, "p1").run()
        assert virtual_time.seconds == pytest.approx(SEND_RETRY.give_up_after, abs=1e-3)

    def test_without_a_policy_there_is_one_try(self, talk: Conversation, wire: Wire) -> None:
        wire.next("Send", Fault(error=CUT))
        with pytest.raises(MacpTransportError, match="reset"):
            proposing(wire.client("chair", retry=None), talk, "p1").run()
        assert len(wire.made("Send")) == 1

    def test_where_nobody_has_ever_answered_it_gives_up_sooner(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        """More likely a wrong address than an outage."""
        wire.reached = False
        wire.next("Send", *[Fault(error=CUT)] * 100)
        with pytest.raises(MacpTransportError, match="reset"):
            proposing(client, talk, "p1").run()
        assert virtual_time.seconds == pytest.approx(SEND_RETRY.first_contact, abs=1e-3)

    def test_a_signal_is_tried_again_too(self, client: MacpClient, wire: Wire) -> None:
        wire.next("Send", Fault(error=CUT))
        assert client.send_signal(signal_type="ping").ok


class TestTimeout:
    def test_it_bounds_all_tries(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("Send", *[Fault(error=CUT)] * 100)
        with pytest.raises(MacpTransportError, match="reset"):
            proposing(client, talk, "p1", timeout=3).run()
        assert 2 <= virtual_time.seconds <= 3

    def test_it_bounds_a_try_by_what_the_ones_before_have_left(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("Send", Fault(error=CUT, delay=2), Fault(hangs=True))
        with pytest.raises(MacpTimeoutError):
            proposing(client, talk, "p1", timeout=3).run()
        assert virtual_time.seconds == pytest.approx(3)

    def test_it_bounds_the_wait_for_those_before(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("Send", Fault(delay=20))
        first, _ = follow(proposing(client, talk, "p1"))
        second, _ = follow(proposing(client, talk, "p2", timeout=1))
        third, _ = follow(proposing(client, talk, "p3"))
        virtual_time.advance_by(1)
        assert isinstance(second.error, MacpTimeoutError)
        virtual_time.advance_by(20)
        assert [code(heard) for heard in (first, third)] == ["ok", "ok"]
        assert accepted(talk) == ["p1", "p3"]

    def test_a_timed_out_message_holds_nobody_up(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("Send", Fault(hangs=True))
        first, _ = follow(proposing(client, talk, "p1", timeout=1))
        second, _ = follow(proposing(client, talk, "p2"))
        virtual_time.advance_by(1)
        assert isinstance(first.error, MacpTimeoutError)
        assert code(second) == "ok"


class TestOrder:
    def test_what_a_caller_says_later_is_not_overtaken_by_a_retry(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("Send", Fault(error=CUT), Fault(delay=1), Fault(error=INTERNAL))
        heard = [follow(proposing(client, talk, f"p{number}"))[0] for number in range(4)]
        virtual_time.advance_by(5)
        assert [code(one) for one in heard] == ["ok"] * 4
        assert accepted(talk) == ["p0", "p1", "p2", "p3"]

    def test_a_refused_message_lets_the_next_one_go(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("Send", Fault(refused="FORBIDDEN", delay=1))
        heard = [follow(proposing(client, talk, f"p{number}"))[0] for number in range(2)]
        virtual_time.advance_by(1)
        assert [code(one) for one in heard] == ["FORBIDDEN", "ok"]

    def test_sessions_do_not_wait_for_each_other(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        other = Conversation(talk.client, DECISION)
        wire.next("Send", Fault(delay=10))
        slow, _ = follow(proposing(client, talk, "p1"))
        swift, _ = follow(proposing(client, other, "p1"))
        virtual_time.advance_by(0)
        assert (code(slow), code(swift)) == ("nothing", "ok")

    def test_senders_do_not_wait_for_each_other(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("Send", Fault(delay=10))
        slow, _ = follow(proposing(client, talk, "p1"))
        swift, _ = follow(proposing(client.acting_as("alice"), talk, "p2"))
        virtual_time.advance_by(0)
        assert (code(slow), code(swift)) == ("nothing", "ok")

    def test_signals_wait_for_nobody(self, client: MacpClient, wire: Wire, virtual_time: VirtualClock) -> None:
        wire.next("Send", Fault(delay=10))
        slow, _ = follow(client.rx.send_signal(signal_type="slow"))
        swift, _ = follow(client.rx.send_signal(signal_type="swift"))
        virtual_time.advance_by(0)
        assert (code(slow), code(swift)) == ("nothing", "ok")

    def test_clients_of_one_connection_stand_in_one_line(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("Send", Fault(delay=1))
        follow(proposing(client, talk, "p1"))
        follow(proposing(client.acting_as("chair"), talk, "p2"))
        virtual_time.advance_by(2)
        assert accepted(talk) == ["p1", "p2"]

    def test_each_of_50_threads_keeps_its_order(self, connect: Connect) -> None:
        """Each caller says 20 things without waiting; the history has them in its order, each once."""
        callers, messages = 50, 20
        names = [f"agent-{number:02}" for number in range(callers)]
        client = connect("chair")
        talk = Conversation(client, DECISION, ["chair", *names])
        heard = Recorder()
        begin = threading.Barrier(callers)

        def speak(name: str) -> None:
            own = client.acting_as(name)
            begin.wait()
            for number in range(messages):
                proposing(own, talk, f"{name}-{number:02}").subscribe(heard.on_next, heard.on_error)

        threads = [threading.Thread(target=speak, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        heard.wait(lambda heard: len(heard.items) == callers * messages or heard.error is not None, seconds=60)
        assert heard.error is None
        said = accepted(talk)
        assert len(said) == callers * messages
        for name in names:
            assert [one for one in said if one.startswith(name)] == [f"{name}-{n:02}" for n in range(messages)]


class TestLine:
    def test_one_message_too_many_is_told_so(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("Send", Fault(delay=1))
        heard = [follow(proposing(client, talk, f"p{number}"))[0] for number in range(WAITING + 2)]
        virtual_time.advance_by(0)
        assert isinstance(heard[-1].error, MacpOverflowError)
        assert str(heard[-1].error) == f"256 messages to {talk.session_id} wait to be sent; await their Acks"
        virtual_time.advance_by(1)
        assert accepted(talk) == [f"p{number}" for number in range(WAITING + 1)]

    def test_who_leaves_the_line_is_not_sent_and_disturbs_nobody(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        wire.next("Send", Fault(delay=1))
        first, _ = follow(proposing(client, talk, "p1"))
        _, second = follow(proposing(client, talk, "p2"))
        third, _ = follow(proposing(client, talk, "p3"))
        virtual_time.advance_by(0)
        second.dispose()
        second.dispose()
        virtual_time.advance_by(1)
        assert [ack.duplicate for ack in (*first.items, *third.items)] == [False, False]  # type: ignore[attr-defined]
        assert [call.requests[0].envelope.message_id for call in wire.made("Send")] == ["p1", "p3"]
        assert accepted(talk) == ["p1", "p3"]

    @pytest.mark.parametrize("fault", [Fault(hangs=True), Fault(error=CUT)], ids=["in flight", "waiting to try again"])
    def test_who_leaves_from_its_head_lets_the_next_one_go(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock, fault: Fault
    ) -> None:
        wire.next("Send", fault)
        first, subscription = follow(proposing(client, talk, "p1"))
        second, _ = follow(proposing(client, talk, "p2"))
        virtual_time.advance_by(0)
        subscription.dispose()
        subscription.dispose()
        virtual_time.advance_by(1)
        assert (code(first), code(second)) == ("nothing", "ok")
        assert accepted(talk) == ["p2"]

    def test_nothing_is_left_of_a_line_that_was_worked_off(
        self, client: MacpClient, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        for number in range(3):
            follow(proposing(client, talk, f"p{number}"))
        virtual_time.advance_by(0)
        assert client._connection.outbox._lines == {}

    def test_a_closed_client_tells_a_whole_line(
        self, client: MacpClient, talk: Conversation, wire: Wire, virtual_time: VirtualClock
    ) -> None:
        """One after the other, not one inside the other: 256 of them would be too deep for Python's stack."""
        wire.next("Send", Fault(hangs=True))
        _, head = follow(proposing(client, talk, "p0"))
        rest = [follow(proposing(client, talk, f"p{number}"))[0] for number in range(1, WAITING + 1)]
        virtual_time.advance_by(0)
        client.close()
        head.dispose()
        virtual_time.advance_by(0)
        assert {type(heard.error) for heard in rest} == {MacpClosedError}

    def test_a_subscriber_that_raises_hears_its_own_error(
        self, client: MacpClient, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        heard = Recorder()

        def raising(_ack: Ack) -> None:
            raise ZeroDivisionError

        proposing(client, talk, "p1").subscribe(raising, heard.on_error)
        second, _ = follow(proposing(client, talk, "p2"))
        virtual_time.advance_by(0)
        assert isinstance(heard.error, ZeroDivisionError)
        assert code(second) == "ok"


SUFFERS = st.sampled_from(
    [
        Fault(),
        Fault(error=CUT),
        Fault(error=INTERNAL, delay=0.2),
        Fault(error=CUT, lost=True),
        Fault(refused="INTERNAL_ERROR"),
        Fault(refused="RATE_LIMITED"),
        Fault(refused="FORBIDDEN"),
        Fault(delay=0.3),
        Fault(delay=29),
        Fault(hangs=True),
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from(["chair", "alice"])),
        st.tuples(st.just("leave"), st.integers(0, 30)),
        st.tuples(st.just("pass"), st.sampled_from([0.0, 0.1, 5.0])),
    ),
    max_size=30,
)


@given(faults=st.lists(SUFFERS, max_size=40), steps=STEPS, timeout=st.sampled_from([None, 1.0, 40.0]))
def test_whatever_happens_each_is_answered_once_and_none_is_overtaken(
    faults: list[Fault], steps: list[tuple[str, Any]], timeout: float | None
) -> None:
    """What was answered with ok was accepted, once; what each caller said is accepted in its order."""
    clock = VirtualClock()
    wire = Wire(Runtime(clock=clock))
    talk = Conversation(wire.client("chair"), DECISION, ttl_ms=86_400_000)
    wire.next("Send", *faults)
    sent: list[tuple[str, str, Recorder, Callable[[], None]]] = []
    for step, what in steps:
        if step == "say":
            name = f"{what}-{len(sent):02}"
            heard, subscription = follow(proposing(talk.client.acting_as(what), talk, name, timeout=timeout))
            sent.append((what, name, heard, subscription.dispose))
        elif step == "leave" and what < len(sent):
            sent[what][3]()
            clock.advance_by(0)
            sent[what][2].items.append("left")
        elif step == "pass":
            clock.advance_by(what)
    clock.advance_by(3600)
    said = accepted(talk)
    assert len(set(said)) == len(said)
    for _, name, heard, _ in sent:
        answers = len([item for item in heard.items if item != "left"]) + (heard.error is not None)
        assert answers == 1 or ("left" in heard.items and not answers)
        if heard.completed:
            assert name in said
    for caller in ("chair", "alice"):
        own = [name for who, name, _, _ in sent if who == caller and name in said]
        assert [name for name in said if name.startswith(caller)] == own
    assert talk.client._connection.outbox._lines == {}
