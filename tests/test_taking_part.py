"""Agents that are started again: they say nothing twice, nothing else, and what they had not said yet."""

from __future__ import annotations

import asyncio
from typing import Any

import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ProposalPayload
from macp.v1.envelope_pb2 import Ack
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, Agent, DecisionSession, MacpClient, Message, Runtime, Session, agents
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.modes import decision

Told = list[tuple[str, str, str, bytes]]


def told(session: Session) -> Told:
    """The history, but for what differs by nature."""
    accepted: list[Accepted] = session.client.history(session.session_id).pipe(ops.to_list()).run()
    return [(one.sender, one.message_type, one.message_id, one.envelope.payload) for one in accepted[1:]]


def world(_events: Observable[Accepted]) -> Observable[Message]:
    """What happens around alice: two proposals, the second much later, and evaluations, every 100 ms."""
    said = [decision.evaluate("p1", "APPROVE", confidence=n / 10) for n in range(9)]
    said = [decision.propose("p1", "canary"), *said[:5], decision.propose("p2", "blue-green"), *said[5:]]
    return rx.interval(0.1).pipe(ops.take(len(said)), ops.map(said.__getitem__))


class Model:
    """A model that fails, or takes too long, as often as it answers, and that never answers the same twice."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._told: set[str] = set()

    async def ask(self, about: Accepted[EvaluationPayload]) -> float:
        question = about.message_id
        asked = self._asked.setdefault(question, len(self._asked))
        if asked % 4 == 2:
            raise ValueError(f"no answer to question {asked}")
        await asyncio.sleep(0.5 if asked % 4 == 3 else 0.004)
        if question in self._told:
            return 0.999  # it was told already, and nobody may ask again
        self._told.add(question)
        return asked / 1000


def alice(model: Model) -> Agent:
    """Answers the world with what a model says, speaks when it is quiet, counts the time, and is refused."""
    ask = agents.remembered(model.ask)

    async def evaluated(of: Accepted[EvaluationPayload]) -> Message | None:
        return decision.evaluate("p1", "REVIEW", confidence=await ask(of)) if of.sender == "world" else None

    def failed(_of: Accepted[Any], error: Exception) -> Message:
        return decision.raise_objection("p1", reason=f"{type(error).__name__}: {error}")

    def quiet(events: Observable[Accepted]) -> Observable[Message]:
        world = events.pipe(mo.sent_by("world"), mo.silence(0.045))
        return world.pipe(ops.map(lambda _: decision.raise_objection("p1", reason="so quiet")))

    def patient(events: Observable[Accepted]) -> Observable[Message]:
        return events.pipe(
            mo.sent_by("bob"),
            mo.within(0.372, otherwise=None),
            ops.map(lambda _: decision.raise_objection("p1", reason="bob is late")),
        )

    def periodic(_events: Observable[Accepted]) -> Observable[Message]:
        return rx.interval(0.147).pipe(ops.take(4), ops.map(lambda _: decision.evaluate("p1", "BLOCK", confidence=1)))

    hasty = agents.on(ProposalPayload).say(
        lambda _: decision.evaluate("p2", "APPROVE", confidence=1)
    )  # at first refused
    asking = agents.on(EvaluationPayload).say(evaluated, timeout=0.006, fallback=failed)
    return agents.merge(asking, quiet, patient, periodic, hasty)


def story(cuts: list[int]) -> tuple[Told, int]:
    """What is told when alice is cut off at these events and begins again, and how often she sent what was known already."""
    clock = VirtualClock(1)
    runtime = Runtime(clock=clock)
    points, duplicates = 0, 0
    ends = set(cuts)
    living: list[Any] = []

    def point(_: object = None) -> None:
        nonlocal points
        points += 1
        if points in ends:
            living.pop().dispose()
            clock.run_later(0, live)

    class Watched(agents.Memory):
        def keep(self, session_id: str, agent: str, what: str, key: str, value: str = "") -> None:
            super().keep(session_id, agent, what, key, value)
            if living:
                clock.run_later(0, lambda: living and point())

    with MacpClient.embedded(agent="chair", runtime=runtime) as client, Watched(":memory:") as memory:
        session = DecisionSession(client, "0" * 32)
        session.start(intent="go on", participants=["chair", "world", "alice", "bob"], ttl_ms=60_000)
        mortal = session.acting_as("alice")

        def watched(events: Observable[Accepted]) -> Observable[Message]:
            heard = events.pipe(ops.do_action(lambda _: living and point()))
            return alice(model)(heard).pipe(ops.do_action(lambda _: living and point()))

        def acknowledged(ack: Ack) -> None:
            nonlocal duplicates
            duplicates += ack.duplicate

        def failed(error: Exception) -> None:
            raise error

        def live() -> None:
            spoken = mortal.spoken(watched, mortal.events, lambda _: None, memory=memory)
            living.append(spoken.subscribe(acknowledged, failed))

        model = Model()
        session.acting_as("world").join(world)
        live()
        clock.advance_by(1.3)
        history = told(session)
    return history, duplicates


UNCUT = story([])


def test_the_story_has_everything_in_it() -> None:
    history, duplicates = UNCUT
    said = [(message_type, payload) for sender, message_type, _, payload in history if sender == "alice"]
    reasons = [payload for message_type, payload in said if message_type == "Objection"]
    for reason in (b"so quiet", b"ValueError: no answer to question", b"MacpTimeoutError", b"bob is late"):
        assert any(reason in one for one in reasons)
    assert len([one for one in reasons if b"so quiet" in one]) > 2
    assert len([one for one in said if one[0] == "Evaluation"]) > 5
    assert duplicates == 0


@given(st.lists(st.integers(1, 150), min_size=1, max_size=5))
def test_an_agent_that_is_cut_off_anywhere_and_begins_again_leads_to_the_same_history(cuts: list[int]) -> None:
    assert story(cuts) == UNCUT
