"""A session: its verbs' input, and the agents that join it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import reactivex as rx
from macp.modes.task.v1.task_pb2 import TaskRequestPayload
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, DecisionSession, MacpAckError, MacpClient, MacpSessionError, Message
from macp_rx.protocol.modes import decision
from tests.conftest import Recorder


def says(*messages: Any) -> Callable[[Observable[Accepted]], Observable[Message]]:
    """An agent that says all this at once, whatever it hears."""
    return lambda _events: rx.of(*messages)


def said(session: DecisionSession) -> list[str]:
    return [accepted.message_type for accepted in session._client.history(session.session_id)]


class TestInput:
    def test_one_name_is_no_collection_of_names(self, client: MacpClient) -> None:
        with pytest.raises(MacpSessionError, match="not one name \\('chair'\\)"):
            DecisionSession(client).start(intent="letters", participants="chair", ttl_ms=60_000)

    def test_an_empty_session_id_is_not_the_wish_for_a_new_one(self, client: MacpClient) -> None:
        with pytest.raises(MacpSessionError, match="'' is no session id"):
            DecisionSession(client, session_id="")

    def test_a_payload_is_no_message(self, session: DecisionSession) -> None:
        payload: Any = decision.vote("p1", "APPROVE").payload
        with pytest.raises(MacpSessionError, match=r"is a Message, such as .*, not VotePayload"):
            session.send(payload)


class TestJoin:
    def test_a_refused_message_is_reported_and_the_agent_goes_on(self, session: DecisionSession) -> None:
        refused = Recorder()
        agent = says(decision.vote("unknown", "APPROVE"), decision.propose("p1", "one"))
        session.join(agent, on_error=refused.on_next)
        refused.wait_for(1)
        assert isinstance(refused.items[0], MacpAckError)
        session.events.pipe(ops.take(2)).run()
        assert said(session) == ["SessionStart", "Proposal"]

    def test_an_exception_ends_this_agent_alone(self, session: DecisionSession) -> None:
        def broken(events: Observable[Accepted]) -> Observable[Message]:
            return events.pipe(ops.map(lambda accepted: decision.propose(str(1 // (accepted.sequence - 1)), "one")))

        failed, heard = Recorder(), Recorder()
        session.events.subscribe(heard)
        session.join(broken, on_error=failed.on_next)
        failed.wait_for(1)
        assert isinstance(failed.items[0], ZeroDivisionError)
        session.propose("p1", "one")
        heard.wait_for(2)
        assert heard.error is None

    def test_what_cannot_be_said_is_reported_even_behind_a_message_that_is_under_way(
        self, session: DecisionSession
    ) -> None:
        foreign = Message("macp.mode.task.v1", TaskRequestPayload(task_id="t1"))
        reported = Recorder()
        session.join(says(decision.propose("p1", "one"), foreign), on_error=reported.on_next)
        reported.wait_for(1)
        assert "cannot be said in a session of macp.mode.decision.v1" in str(reported.items[0])
        assert said(session) == ["SessionStart", "Proposal"]

    def test_an_agent_that_says_payloads_is_told_so(self, session: DecisionSession) -> None:
        reported = Recorder()
        session.join(says(decision.propose("p1", "one").payload), on_error=reported.on_next)
        reported.wait_for(1)
        assert "not ProposalPayload" in str(reported.items[0])

    def test_an_agent_that_returns_nothing_is_told_so(self, session: DecisionSession) -> None:
        forgot_return: Any = lambda events: None  # noqa: E731
        with pytest.raises(MacpSessionError, match="returns an Observable of Messages, not NoneType"):
            session.join(forgot_return)
