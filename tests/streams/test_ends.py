"""How a client learns that a session has ended, of which its stream says nothing: within a second, few or many."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from macp.v1.envelope_pb2 import SessionState
from reactivex import operators as ops

from macp_rx import MacpClient, MacpTransportError, Runtime
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION
from macp_rx.runtime import Settings
from macp_rx.streams.ends import ASK_EVERY, AT_ONCE, FEW, STALE
from macp_rx.streams.status import Connection
from tests.conftest import Connect, Recorder
from tests.runtime.conversation import Conversation
from tests.streams.exact import exact, say
from tests.streams.wire import CUT, LAGGED, Fault, Wire

MANY = FEW + 1


@pytest.fixture
def far(wire: Wire) -> Wire:
    """The wire to a server that tells nobody of an expiry until somebody asks, as the reference runtime."""
    wire.in_process = False
    return wire


@pytest.fixture
def client(far: Wire) -> MacpClient:
    return far.client()


Following = Callable[..., "list[tuple[Conversation, Recorder]]"]


@pytest.fixture
def following(client: MacpClient, macp_runtime: Runtime, virtual_time: VirtualClock) -> Following:
    """Starts sessions past the wire and follows them over it."""
    speaker = MacpClient.embedded(agent="chair", runtime=macp_runtime)

    def following(count: int, **session: Any) -> list[tuple[Conversation, Recorder]]:
        made: list[tuple[Conversation, Recorder]] = []
        for _ in range(count):
            talk, heard = Conversation(speaker, DECISION, **{"ttl_ms": 86_400_000, **session}), Recorder()
            client.session_events(talk.session_id).subscribe(heard)
            made.append((talk, heard))
        virtual_time.advance_by(0)
        return made

    return following


def cancel(talk: Conversation) -> None:
    talk.client.cancel_session(talk.session_id)


class TestFew:
    def test_each_is_asked_about(self, following: Following, far: Wire, virtual_time: VirtualClock) -> None:
        (_, first), (talk, second), _ = following(3)
        virtual_time.advance_by(10)
        cancel(talk)
        virtual_time.advance_by(1)
        assert (first.completed, second.completed) == (False, True)
        assert far.made("WatchSessions") == []
        asked = far.times("GetSession")
        assert len(asked) == pytest.approx(3 * 11 / ASK_EVERY, abs=6)

    def test_an_ended_session_is_asked_about_no_more(
        self, following: Following, far: Wire, virtual_time: VirtualClock
    ) -> None:
        for talk, _ in following(3):
            cancel(talk)
        virtual_time.advance_by(2)
        asked = len(far.made("GetSession"))
        virtual_time.advance_by(10)
        assert len(far.made("GetSession")) == asked

    def test_one_that_ended_by_a_commitment_long_ago_is_not_asked_about(
        self, following: Following, far: Wire, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        say(talk)
        talk.commit()
        heard = Recorder()
        far.client().session_events(talk.session_id).subscribe(heard)
        virtual_time.advance_by(5)
        assert heard.completed
        assert far.made("GetSession") == []

    @pytest.mark.parametrize("fault", [Fault(error=CUT), Fault(hangs=True)], ids=str)
    def test_a_question_without_an_answer_is_asked_again(
        self, following: Following, far: Wire, virtual_time: VirtualClock, fault: Fault
    ) -> None:
        far.next("GetSession", fault, fault)
        ((talk, heard),) = following(1)
        cancel(talk)
        virtual_time.advance_by(20)
        exact(heard, talk)
        assert heard.completed

    def test_one_whose_last_envelope_was_heard_before_it_is_told_of_its_end_too(
        self, far: Wire, talk: Conversation, virtual_time: VirtualClock
    ) -> None:
        heard = Recorder()
        far.client().session_events(talk.session_id, 1).subscribe(heard)
        virtual_time.advance_by(1)
        cancel(talk)
        virtual_time.advance_by(1)
        assert (heard.items, heard.completed) == ([], True)

    @pytest.mark.parametrize("after", [0, 1])
    def test_one_that_is_forgotten_altogether_has_ended(self, virtual_time: VirtualClock, after: int) -> None:
        """A long session can be evicted on the first pass after its end (`protocol.md` 3.3)."""
        runtime = Runtime(clock=virtual_time, settings=Settings(retention_ms=500))
        wire = Wire(runtime)
        wire.in_process = False
        client = wire.client()
        talk = Conversation(client, DECISION, ttl_ms=60_000)
        heard = Recorder()
        client.session_events(talk.session_id, after).subscribe(heard)
        virtual_time.advance_by(1)
        cancel(talk)
        virtual_time.advance_by(0.01)
        with pytest.raises(MacpTransportError, match="SESSION_NOT_FOUND"):
            talk.metadata()
        virtual_time.advance_by(1)
        assert heard.completed
        assert len(heard.items) == 1 - after
        wire.close(lambda: None)

    def test_who_has_left_asks_nobody(self, far: Wire, talk: Conversation, virtual_time: VirtualClock) -> None:
        subscription = far.client().session_events(talk.session_id).subscribe()
        virtual_time.advance_by(5)
        subscription.dispose()
        virtual_time.advance_by(0)
        asked = len(far.made("GetSession"))
        virtual_time.advance_by(20)
        assert len(far.made("GetSession")) == asked

    @pytest.mark.parametrize("count", [1, MANY])
    def test_a_closed_client_asks_nobody(
        self, following: Following, far: Wire, virtual_time: VirtualClock, count: int
    ) -> None:
        """Nor does it keep a timer: the clock comes to rest when the sessions' own deadlines have passed."""
        following(count, ttl_ms=5000)
        virtual_time.advance_by(2)
        far.close(lambda: None)
        asked = len(far.made("GetSession"))
        virtual_time.run_until_idle()
        assert len(far.made("GetSession")) == asked


class TestMany:
    def test_all_share_one_watch(self, following: Following, far: Wire, virtual_time: VirtualClock) -> None:
        made = following(50)
        virtual_time.advance_by(5)
        asked = len(far.made("GetSession"))
        for talk, _ in made[:20]:
            cancel(talk)
        virtual_time.advance_by(0)
        assert [heard.completed for _, heard in made] == [True] * 20 + [False] * 30
        assert (len(far.made("WatchSessions")), len(far.made("WatchRoots"))) == (1, 1)
        assert asked <= 50 + FEW  # each when it was met, and those that were few for a moment

    def test_so_many_at_once_are_asked_about_and_the_others_after_them(
        self, following: Following, far: Wire, virtual_time: VirtualClock
    ) -> None:
        far.next("GetSession", *[Fault(delay=0.1)] * (2 * AT_ONCE + 5))
        following(2 * AT_ONCE + 5)
        asked: list[int] = []
        for _ in range(3):
            asked.append(len(far.made("GetSession")))
            virtual_time.advance_by(0.1)
        assert asked == [AT_ONCE, 2 * AT_ONCE, 2 * AT_ONCE + 5]

    def test_where_few_are_left_each_is_asked_about_again(
        self, following: Following, far: Wire, virtual_time: VirtualClock
    ) -> None:
        made = following(MANY)
        virtual_time.advance_by(1)
        cancel(made[0][0])
        virtual_time.advance_by(0)
        asked = len(far.made("GetSession"))
        virtual_time.advance_by(3)
        assert len(far.made("GetSession")) >= asked + 3 * FEW
        cancel(made[1][0])
        virtual_time.advance_by(1)
        assert made[1][1].completed
        assert len(far.made("WatchSessions")) == 1

    @pytest.mark.parametrize("error", [CUT, LAGGED, None], ids=["lost", "lagged", "ended"])
    def test_what_ended_while_the_watch_was_lost_is_heard_of(
        self, following: Following, far: Wire, virtual_time: VirtualClock, error: MacpTransportError | None
    ) -> None:
        made = following(MANY)
        virtual_time.advance_by(1)
        far.next("WatchSessions", Fault(error=CUT), Fault(error=error, ends=True))
        far.cut(error)
        for talk, _ in made:
            cancel(talk)
        virtual_time.advance_by(1)
        assert all(heard.completed for _, heard in made)
        for talk, heard in made:
            exact(heard, talk)

    @pytest.mark.parametrize("status", ["PERMISSION_DENIED", "UNIMPLEMENTED", "UNAUTHENTICATED"])
    def test_a_caller_who_may_not_watch_asks_about_each(
        self, following: Following, far: Wire, virtual_time: VirtualClock, status: str
    ) -> None:
        far.next("WatchSessions", Fault(error=MacpTransportError(status)))
        made = following(MANY)
        virtual_time.advance_by(5)
        cancel(made[3][0])
        virtual_time.advance_by(1)
        assert [heard.completed for _, heard in made].index(True) == 3
        assert len(far.made("WatchSessions")) == 1

    def test_an_event_that_does_not_say_which_session_makes_it_ask_about_all(
        self, following: Following, far: Wire, virtual_time: VirtualClock
    ) -> None:
        """One was evicted between its end and the event (`protocol.md` 7)."""
        made = following(MANY)
        virtual_time.advance_by(1)

        def nameless(rpc: str, response: Any) -> Any:
            if rpc == "WatchSessions":
                response.event.ClearField("session")
            return response

        far.rewrite = nameless
        cancel(made[3][0])
        virtual_time.advance_by(0)
        assert made[3][1].completed


class Silent:
    """A server that tells of an expiry only once somebody has asked, and whose clock may be wrong."""

    def __init__(self, wire: Wire, ahead_ms: int = 0) -> None:
        self._wire = wire
        self._ahead_ms = ahead_ms
        wire.rewrite = self

    def __call__(self, rpc: str, response: Any) -> Any:
        if rpc == "WatchSessions":
            if response.event.session.state == SessionState.SESSION_STATE_EXPIRED:
                return None
            response.event.session.expires_at_unix_ms += self._ahead_ms
        elif rpc == "GetSession":
            response.metadata.expires_at_unix_ms += self._ahead_ms
        elif rpc == "WatchRoots":
            response.change.observed_at_unix_ms += self._ahead_ms
        return response


class TestDeadlines:
    """Under a watch: then nobody asks, unless a deadline has passed."""

    @pytest.mark.parametrize("ahead_ms", [0, 30_000, -30_000])
    def test_an_expiry_is_asked_for_when_it_is_due_by_the_servers_clock(
        self, following: Following, far: Wire, virtual_time: VirtualClock, ahead_ms: int
    ) -> None:
        Silent(far, ahead_ms)
        made = following(MANY, ttl_ms=60_000)
        virtual_time.advance_by(59)
        asked = len(far.made("GetSession"))
        assert not any(heard.completed for _, heard in made)
        assert asked <= MANY + FEW
        virtual_time.advance_by(2)
        for talk, heard in made:
            exact(heard, talk)
            assert heard.completed

    def test_a_pause_moves_it(self, following: Following, far: Wire, virtual_time: VirtualClock) -> None:
        Silent(far)
        made = following(MANY, ttl_ms=60_000)
        virtual_time.advance_by(30)
        for talk, _ in made:
            talk.client.suspend_session(talk.session_id)
        virtual_time.advance_by(100)
        for talk, _ in made:
            talk.client.resume_session(talk.session_id)
        virtual_time.advance_by(29)
        assert not any(heard.completed for _, heard in made)
        virtual_time.advance_by(2)
        assert all(heard.completed for _, heard in made)

    def test_too_long_a_pause_ends_it(self, following: Following, far: Wire, virtual_time: VirtualClock) -> None:
        """Of which the server finds out only when somebody asks: its sweep passes over suspended sessions."""
        Silent(far)
        made = following(MANY, max_suspend_ms=10_000)
        for talk, _ in made:
            talk.client.suspend_session(talk.session_id)
        virtual_time.advance_by(9)
        assert not any(heard.completed for _, heard in made)
        virtual_time.advance_by(2)
        assert all(heard.completed for _, heard in made)

    def test_many_that_are_suspended_are_asked_about_at_a_bounded_rate(
        self, following: Following, far: Wire, virtual_time: VirtualClock
    ) -> None:
        made = following(200)
        for talk, _ in made:
            talk.client.suspend_session(talk.session_id)
        virtual_time.advance_by(10)
        before = len(far.made("GetSession"))
        virtual_time.advance_by(20)
        assert len(far.made("GetSession")) - before <= 20 * 55

    def test_those_that_were_moved_are_not_kept(
        self, following: Following, client: MacpClient, virtual_time: VirtualClock
    ) -> None:
        made = following(MANY)
        for _ in range(50):
            for talk, _heard in made:
                talk.client.suspend_session(talk.session_id)
            virtual_time.advance_by(0.01)
            for talk, _heard in made:
                talk.client.resume_session(talk.session_id)
            virtual_time.advance_by(0.01)
        assert len(client._connection.ends(client.auth)._deadlines) <= 2 * MANY + STALE

    def test_an_answer_that_was_owed_is_asked_for_again(
        self, following: Following, far: Wire, virtual_time: VirtualClock
    ) -> None:
        Silent(far)
        made = following(MANY, ttl_ms=60_000)
        virtual_time.advance_by(59)
        far.next("GetSession", *[Fault(error=CUT)] * MANY)
        virtual_time.advance_by(3)
        assert all(heard.completed for _, heard in made)


@pytest.mark.parametrize("count", [1, MANY])
def test_an_expiry_is_known_within_a_second(connect: Connect, count: int) -> None:
    """On the real server too, which by itself would find out within a minute."""
    client = connect("chair")
    made: list[tuple[Recorder, list[float]]] = []
    for _ in range(count):
        talk = Conversation(client, DECISION, ttl_ms=1500)
        due = talk.metadata().expires_at_unix_ms / 1000
        events = client.session_events(talk.session_id)
        caught_up, heard, late = Recorder(), Recorder(), list[float]()
        events.status.pipe(ops.filter(lambda status: status.connection is Connection.CAUGHT_UP)).subscribe(caught_up)
        events.pipe(ops.do_action(on_completed=lambda due=due, late=late: late.append(time.time() - due))).subscribe(
            heard
        )
        caught_up.wait_for(1)
        made.append((heard, late))
    for heard, late in made:
        heard.wait_for_end()
        assert heard.error is None
        assert 0 <= late[0] < 1
