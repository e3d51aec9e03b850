"""A session's end, by whatever way and by another client: every stream completes within a second, with everything delivered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from macp_rx import DecisionSession
from tests.chaos.proxy import Proxy
from tests.conftest import RealServer, Recorder, dial

SAID = 5
"""How many envelopes each session has accepted before its end, the commitment not counted."""

ONE, MANY = 1, 30
"""A client that reads so few sessions asks about each; one that reads so many watches them all."""


class Ended(Recorder):
    """A recorder that knows when the end came."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0

    def on_completed(self) -> None:
        self.at = time.monotonic()
        super().on_completed()


class Sessions:
    """31 open sessions: a client speaks in them, another reads one of them, and a third the rest."""

    def __init__(self, target: str, *, ttl_ms: int = 600_000, max_suspend_ms: int = 0) -> None:
        self.proxies = [Proxy(target), Proxy(target)]
        self.speaker = dial(target)
        self.readers = [dial(proxy.target) for proxy in self.proxies]
        self.all = [DecisionSession(self.speaker) for _ in range(ONE + MANY)]
        self.heard = [Ended() for _ in self.all]
        for session in self.all:
            session.start(intent="end", participants=["chair"], ttl_ms=ttl_ms, max_suspend_ms=max_suspend_ms)
        for number, (session, heard) in enumerate(zip(self.all, self.heard, strict=True)):
            session.propose("p1", "one")
            for _ in range(SAID - 2):
                session.evaluate("p1", "APPROVE", confidence=0.5)
            self.readers[number >= ONE].session_events(session.session_id).subscribe(heard)
        for heard in self.heard:
            heard.wait_for(SAID)

    def check_ends(self, ended_at: list[float], said: int = SAID, within: float = 1) -> None:
        """All streams complete with everything, each within a second of its session's end."""
        for heard, at in zip(self.heard, ended_at, strict=True):
            heard.wait_for_end()
            assert heard.error is None
            assert [accepted.sequence for accepted in heard.items] == list(range(1, said + 1))  # type: ignore[attr-defined]
            assert heard.at - at <= within

    def close(self) -> None:
        for client in (self.speaker, *self.readers):
            client.close()
        for proxy in self.proxies:
            proxy.close()


Open = Callable[..., Sessions]


@pytest.fixture
def opened(real_server: RealServer) -> Iterator[Open]:
    made: list[Sessions] = []

    def opened(**keywords: int) -> Sessions:
        made.append(Sessions(real_server.target, **keywords))
        return made[-1]

    yield opened
    for sessions in made:
        sessions.close()


pytestmark = pytest.mark.server


def now_for_each(sessions: Sessions, end: Callable[[DecisionSession], object]) -> list[float]:
    """When each session has ended: at the answer to what ended it."""
    ended = []
    for session in sessions.all:
        end(session)
        ended.append(time.monotonic())
    return ended


def test_a_cancel(opened: Open) -> None:
    sessions = opened()
    sessions.check_ends(now_for_each(sessions, lambda session: session.cancel(reason="enough")))


def test_a_commitment(opened: Open) -> None:
    sessions = opened()

    def commit(session: DecisionSession) -> object:
        return session.commit(action="end.reached", authority_scope="test", reason="enough")

    sessions.check_ends(now_for_each(sessions, commit), SAID + 1)


def deadlines(sessions: Sessions) -> list[float]:
    """When the sessions expire, on this process's monotonic clock."""
    offset = time.monotonic() - time.time()
    return [session.metadata().expires_at_unix_ms / 1000 + offset for session in sessions.all]


def test_an_expiry(opened: Open) -> None:
    sessions = opened(ttl_ms=1_500)
    sessions.check_ends(deadlines(sessions))


def test_a_suspension_moves_the_expiry(opened: Open) -> None:
    sessions = opened(ttl_ms=1_500)
    before = deadlines(sessions)
    for session in sessions.all:
        session.suspend()
    passing = threading.Event()
    sessions.speaker.clock.run_later(before[-1] - time.monotonic() + 0.2, passing.set)
    passing.wait(5)  # the deadlines as they were
    assert not any(heard.completed for heard in sessions.heard)
    for session in sessions.all:
        session.resume()
    sessions.check_ends(deadlines(sessions))


def test_a_suspension_that_lasts_too_long(opened: Open) -> None:
    sessions = opened(max_suspend_ms=700)

    def suspend(session: DecisionSession) -> object:
        return session.suspend()

    suspended = now_for_each(sessions, suspend)
    sessions.check_ends([at + 0.7 for at in suspended])


def test_an_expiry_while_the_questions_are_cut(opened: Open) -> None:
    """What asks whether a session has ended fails just when it has, and the streams themselves do not notice."""
    sessions = opened(ttl_ms=1_500)
    back = max(deadlines(sessions)) + 0.3
    for proxy in sessions.proxies:
        proxy.refuse_for(back - time.monotonic())
        proxy.cut(lambda links: links[1:])  # the first is the streams', the second that of the unary calls
    sessions.check_ends(
        [back for _ in sessions.all], within=2
    )  # until the next question there must be a connection, too
