from __future__ import annotations

from collections.abc import Callable

import pytest
import reactivex as rx
from macp.v1.core_pb2 import SessionMetadata
from macp.v1.envelope_pb2 import SessionState
from reactivex import Observable

from macp_rx import DecisionSession, MacpClient, MacpSessionError, Runtime
from macp_rx import operators as mo
from macp_rx.testing import Marbles
from macp_rx.testing.guard import GuardedClock
from tests.operators.checks import check_timers
from tests.operators.voices import open_session


class Session:
    """A session's metadata, as it is asked for."""

    def __init__(self, marbles: Marbles, expires_in_ms: int) -> None:
        self._marbles = marbles
        self._now = marbles.clock.now_ms
        self.asked: list[int] = []
        self.state = SessionState.SESSION_STATE_OPEN
        self.expires(expires_in_ms)

    def expires(self, milliseconds: int) -> None:
        self._expires_at = self._now + milliseconds

    def metadata(self) -> Observable[SessionMetadata]:
        self.asked.append(self._marbles.clock.time // 1000)
        told = open_session(self._expires_at)
        told.state = self.state
        return rx.of(told)


def test_it_ends_at_the_deadline_or_before_it(marbles: Marbles) -> None:
    source = marbles.hot("-a--b--c-")
    session = Session(marbles, 6)
    marbles.expect(source.pipe(mo.until_ttl(session.metadata))).to_be("-a--b-|")
    marbles.expect(source.pipe(mo.until_ttl(session.metadata, margin=0.003))).to_be("-a-|")
    marbles.expect_subscriptions(source).to_be("^-----!", "^--!")
    marbles.check(lambda: None if session.asked == [0, 0, 3, 6] else f"asked at {session.asked}")


def test_a_deadline_that_has_moved_is_waited_for(marbles: Marbles) -> None:
    source = marbles.hot("-a--b--c-")
    session = Session(marbles, 4)
    marbles.act("--m", {"m": lambda: session.expires(8)})
    marbles.expect(source.pipe(mo.until_ttl(session.metadata))).to_be("-a--b--c|")
    marbles.check(lambda: None if session.asked == [0, 4, 8] else f"asked at {session.asked}")


def test_a_suspended_session_is_asked_about_until_it_is_resumed(marbles: Marbles) -> None:
    source = marbles.hot("-a 4s")
    session = Session(marbles, 4)

    def suspend() -> None:
        session.state = SessionState.SESSION_STATE_SUSPENDED

    def resume() -> None:
        session.state = SessionState.SESSION_STATE_OPEN
        session.expires(3504)

    marbles.act("--s 2.5s r", {"s": suspend, "r": resume})
    marbles.expect(source.pipe(mo.until_ttl(session.metadata))).to_be("-a 3s 500ms --|")
    marbles.check(lambda: None if session.asked == [0, 4, 1004, 2004, 3004, 3504] else f"asked at {session.asked}")


@pytest.mark.parametrize("state", ["RESOLVED", "EXPIRED", "CANCELLED"])
def test_it_ends_with_a_session_that_has_ended(marbles: Marbles, state: str) -> None:
    source = marbles.hot("-a--b--c-")
    session = Session(marbles, 1000)
    session.state = SessionState.Value(f"SESSION_STATE_{state}")
    marbles.expect(source.pipe(mo.until_ttl(session.metadata))).to_be("|")


def test_the_end_of_the_source_is_the_end(marbles: Marbles) -> None:
    source = marbles.hot("-a--b-|")
    marbles.expect(source.pipe(mo.until_ttl(Session(marbles, 60_000).metadata))).to_be("-a--b-|")
    check_timers(marbles)


def test_what_a_question_fails_with_is_its_error(marbles: Marbles) -> None:
    source = marbles.hot("-a--b-|")
    failing = source.pipe(mo.until_ttl(lambda: rx.throw(ValueError("no runtime"))))
    marbles.expect(failing).to_be("#", error=ValueError("no runtime"))

    def raises() -> Observable[SessionMetadata]:
        raise ValueError("no session")

    marbles.expect(source.pipe(mo.until_ttl(raises))).to_be("#", error=ValueError("no session"))
    answers = marbles.cold("---#", error=ValueError("lost"))
    marbles.expect(source.pipe(mo.until_ttl(lambda: answers))).to_be("-a-#", error=ValueError("lost"))
    marbles.expect_subscriptions(source).to_be("(^ !)", "(^ !)", "^--!")


def test_leaving_cancels_the_question(marbles: Marbles) -> None:
    source = marbles.hot("-a--b-|")
    question = marbles.cold("-----(a |)")
    marbles.expect(source.pipe(mo.until_ttl(lambda: question)), "^--!").to_be("-a")
    marbles.expect_subscriptions(question).to_be("^--!")


def test_with_a_session(macp_runtime: Runtime, virtual_time: GuardedClock) -> None:
    with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client:
        session = DecisionSession(client)
        session.start(intent="patience", participants=["chair"], ttl_ms=60_000)
        ended: list[float] = []

        def note() -> None:
            ended.append(virtual_time.seconds)

        metadata: Callable[[], Observable[SessionMetadata]] = session.rx.metadata
        session.events.pipe(mo.until_ttl(metadata, margin=10)).subscribe(on_completed=note)
        virtual_time.advance_by(20)
        session.suspend()
        virtual_time.advance_by(100)
        session.resume()
        virtual_time.advance_by(100)
    assert ended == [pytest.approx(150, abs=1)]


def test_a_margin_is_no_negative_time() -> None:
    with pytest.raises(MacpSessionError, match="until_ttl waits for"):
        mo.until_ttl(lambda: rx.of(SessionMetadata()), margin=-1)
