"""What was accepted, said briefly, and compared exactly with what somebody heard."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reactivex import Observable, abc
from reactivex import operators as ops

from macp_rx import Accepted, Connection, MacpClient
from macp_rx.clock import Clock
from macp_rx.protocol.modes import decision
from macp_rx.streams.stream import Demand
from tests.conftest import Recorder
from tests.runtime.conversation import OK, Conversation

__all__ = ["Reader", "exact", "follow", "followed", "prefix", "say"]


def say(talk: Conversation, count: int = 1) -> None:
    """Says some more: that many proposals."""
    for _ in range(count):
        proposal = talk.client.clock.new_id()
        assert talk.say("chair", decision.propose(proposal, "one"), message_id=proposal) == OK


def _numbered(accepted: Iterable[object]) -> list[tuple[int, str]]:
    return [(one.sequence, one.message_id) for one in accepted if isinstance(one, Accepted)]


def _history(talk: Conversation) -> list[tuple[int, str]]:
    return list(enumerate((envelope.message_id for envelope in talk.history()), 1))


def exact(heard: Recorder, talk: Conversation, after: int = 0) -> None:
    """Fails unless somebody heard a session's history behind a sequence: all of it, in order, once."""
    assert heard.error is None
    assert _numbered(heard.items) == _history(talk)[after:]


def prefix(heard: Recorder, talk: Conversation) -> None:
    """Fails unless what somebody heard is how a session's history begins."""
    numbered = _numbered(heard.items)
    assert numbered == _history(talk)[: len(numbered)]


def follow(stream: Observable[Any]) -> tuple[Recorder, abc.DisposableBase]:
    """Somebody who subscribes to a stream; and what they leave it by."""
    heard = Recorder()
    return heard, stream.subscribe(heard)


def followed(client: MacpClient, talk: Conversation) -> Recorder:
    """Somebody who follows a session in real time, and has caught up."""
    events = client.session_events(talk.session_id)
    caught_up, heard = Recorder(), Recorder()
    events.status.pipe(ops.filter(lambda status: status.connection is Connection.CAUGHT_UP)).subscribe(caught_up)
    events.subscribe(heard)
    caught_up.wait_for(1)
    return heard


class Reader:
    """Somebody who reads, and who can be told to wait.

    Args:
        events: what is read.
        clock: its clock.
    """

    def __init__(self, events: Observable[Accepted], clock: Clock) -> None:
        self.heard = Recorder()
        self._demand = Demand(clock, self.heard.on_error)
        self._subscription = events.subscribe(self.heard, scheduler=self._demand)

    def wait(self) -> None:
        """Takes nothing more for now."""
        self._demand.pause()

    def go_on(self) -> None:
        """Takes again."""
        self._demand.resume()

    def leave(self) -> None:
        """Reads no more."""
        self._subscription.dispose()
