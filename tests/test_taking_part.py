"""Agents in a session, and those that are started again: they say nothing twice, and what they had not said yet."""

from __future__ import annotations

import asyncio
from itertools import count
from random import Random
from typing import Any

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ProposalPayload
from macp.v1.envelope_pb2 import Ack
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import (
    Accepted,
    Agent,
    AuthConfig,
    DecisionSession,
    MacpClient,
    MacpOverflowError,
    MacpSessionError,
    Message,
    Runtime,
    Session,
    agents,
)
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.modes import decision
from macp_rx.simulation import Conditions
from macp_rx.simulation.conditions import Link
from macp_rx.streams.stream import Demand
from macp_rx.taking_part import HELD
from tests.conftest import Recorder

Told = list[tuple[str, str, str, bytes]]


def told(session: Session) -> Told:
    """The history, but for what differs by nature."""
    return [(one.sender, one.message_type, one.message_id, one.envelope.payload) for one in history(session)[1:]]


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


def history(session: Session) -> list[Accepted]:
    return session.client.history(session.session_id).pipe(ops.to_list()).run()


def started(client: MacpClient) -> DecisionSession:
    session = DecisionSession(client)
    session.start(intent="again", participants=["chair", "alice", "bob"], ttl_ms=60_000)
    return session


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
            mo.within(0.36, otherwise=None),
            ops.map(lambda _: decision.raise_objection("p1", reason="bob is late")),
        )

    def periodic(_events: Observable[Accepted]) -> Observable[Message]:
        return rx.interval(0.19).pipe(ops.take(4), ops.map(lambda _: decision.evaluate("p1", "BLOCK", confidence=1)))

    hasty = agents.on(ProposalPayload).say(
        lambda _: decision.evaluate("p2", "APPROVE", confidence=1)
    )  # at first refused
    asking = agents.on(EvaluationPayload).say(evaluated, timeout=0.006, fallback=failed)
    return agents.merge(asking, quiet, patient, periodic, hasty)


def story(cuts: list[int], latency: float = 0) -> tuple[Told, int]:
    """What is told when alice is cut off at these events and begins again, and how often she sent what was known already.

    Args:
        cuts: the numbers of what she hears, says and remembers, counted over all her lives.
        latency: seconds between her and the runtime, so that something is on its way when she is cut off.
    """
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
        link = Link(runtime.connect(), Conditions(latency=latency), Random(1))
        far = MacpClient.over(link, auth=AuthConfig.for_dev_agent("alice"))
        mortal = Session.at(far, session.address)

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
        far.close()
    return history, duplicates


UNCUT = story([])
CUTS = st.lists(st.integers(1, 150), min_size=1, max_size=5)


class TestStartedAgain:
    def test_the_story_has_everything_in_it(self) -> None:
        history, duplicates = UNCUT
        said = [(message_type, payload) for sender, message_type, _, payload in history if sender == "alice"]
        reasons = [payload for message_type, payload in said if message_type == "Objection"]
        for reason in (b"so quiet", b"ValueError: no answer to question", b"MacpTimeoutError", b"bob is late"):
            assert any(reason in one for one in reasons)
        assert len([one for one in reasons if b"so quiet" in one]) > 2
        assert len([one for one in said if one[0] == "Evaluation"]) > 5
        assert duplicates == 0

    @given(CUTS)
    def test_it_leads_to_the_same_history_wherever_it_was_cut_off(self, cuts: list[int]) -> None:
        assert story(cuts) == UNCUT

    @given(CUTS)
    def test_what_was_on_its_way_takes_effect_once(self, cuts: list[int]) -> None:
        history, _ = story(cuts, latency=0.001)
        assert [one for one in history if one[0] == "alice"] == [one for one in UNCUT[0] if one[0] == "alice"]

    def test_what_is_new_waits_for_the_answers_of_before(self, client: MacpClient) -> None:
        """The answer comes a few turns of the loop behind the history, and what was asked first is said first."""
        session = started(client)
        asked = []

        @agents.remembered
        async def ask(proposal: Accepted[ProposalPayload]) -> float:
            asked.append(proposal.sequence)
            return 0.5

        async def evaluated(proposal: Accepted[ProposalPayload]) -> Message:
            return decision.evaluate("p1", "REVIEW", confidence=await ask(proposal))

        def silent(events: Observable[Accepted]) -> Observable[Message]:
            return (
                agents.on(ProposalPayload)
                .say(evaluated)(events)
                .pipe(ops.do_action(answered.on_next), ops.ignore_elements())
            )

        answered = Recorder()
        session.propose("p1", "canary")
        alice = session.acting_as("alice")
        with agents.Memory(":memory:") as memory:
            dies = alice.join(silent, memory=memory)
            answered.wait_for(1)
            dies.dispose()
            session.acting_as("bob").evaluate("p1", "APPROVE", confidence=1)
            objects = agents.on(EvaluationPayload).say(lambda _: decision.raise_objection("p1", reason="no"))
            again = agents.merge(agents.on(ProposalPayload).say(evaluated), objects)
            said = alice.spoken(again, alice.events, print, memory=memory).pipe(ops.take(2), ops.to_list())
            said.run()
        assert asked == [2]
        assert [one.message_type for one in history(session)][3:] == ["Evaluation", "Objection"]

    def test_a_refusal_that_is_remembered_is_not_said_again(self, client: MacpClient) -> None:
        session = started(client)
        refused = Recorder()
        hasty = agents.opening(decision.evaluate("p1", "APPROVE", confidence=1))
        alice = session.acting_as("alice")
        with agents.Memory(":memory:") as memory:
            dies = alice.join(hasty, memory=memory, on_error=refused.on_next)
            refused.wait_for(1)
            dies.dispose()
            session.propose("p1", "canary")
            wise = agents.merge(hasty, agents.opening(decision.raise_objection("p1", reason="no")))
            alice.spoken(wise, alice.events, refused.on_next, memory=memory).pipe(ops.take(1)).run()
        assert [one.message_type for one in history(session)] == ["SessionStart", "Proposal", "Objection"]
        assert len(refused.items) == 1

    def test_in_a_session_that_has_ended_nothing_is_sent(self, client: MacpClient) -> None:
        session = started(client)
        session.propose("p1", "canary")
        session.commit(action="rollout.approved", authority_scope="s", reason="r")
        alice = session.acting_as("alice")
        refused = Recorder()
        voter = agents.voter(lambda _: "APPROVE")
        assert alice.spoken(voter, alice.events, refused.on_next).pipe(ops.to_list()).run() == []
        assert refused.items == []

    def test_more_than_can_be_held_is_an_error(self, client: MacpClient) -> None:
        session = started(client)
        alice = session.acting_as("alice")

        def says(_events: Observable[Accepted]) -> Observable[Message]:
            return rx.from_iterable(decision.raise_objection("p1", reason=f"{n}") for n in range(HELD + 1))

        with pytest.raises(MacpOverflowError, match="until the history was heard"):
            alice.spoken(says, alice.events, print).run()


class TestHearing:
    def test_who_hears_nothing_speaks_and_leaves_with_the_session(self, client: MacpClient) -> None:
        session = started(client)

        def deaf(_events: Observable[Accepted]) -> Observable[Message]:
            return rx.of(decision.propose("p1", "canary")).pipe(ops.concat(rx.never()))

        left = Recorder()
        spoken = session.spoken(deaf, session.events, print)
        spoken.subscribe(left.on_next, left.on_error, left.on_completed)
        left.wait_for(1)
        session.commit(action="rollout.approved", authority_scope="s", reason="r")
        left.wait(lambda heard: heard.completed)

    def test_all_of_an_agent_hears_one_envelope_before_any_of_it_hears_the_next(self, client: MacpClient) -> None:
        """So that what comes of two subscriptions is the same when the history is heard again, all at once."""
        session = started(client)
        for n in range(3):
            session.propose(f"p{n}", "canary")
        heard = Recorder()

        def twice(events: Observable[Accepted]) -> Observable[Message]:
            both = [events.pipe(ops.do_action(lambda one: heard.on_next(one.sequence))) for _ in range(2)]
            return rx.merge(*both).pipe(ops.ignore_elements())

        session.join(twice)
        heard.wait_for(8)
        assert heard.items == [1, 1, 2, 2, 3, 3, 4, 4]

    def test_who_subscribes_later_hears_it_from_the_start(self, client: MacpClient) -> None:
        session = started(client)
        session.propose("p1", "canary")
        heard = Recorder()

        def curious(events: Observable[Accepted]) -> Observable[Message]:
            def again(_: Accepted) -> Observable[Accepted]:
                return events.pipe(ops.take(2), ops.do_action(lambda one: heard.on_next(one.sequence)))

            return events.pipe(ops.take(1), ops.flat_map(again), ops.ignore_elements())

        with agents.Memory(":memory:") as memory:
            session.join(curious)
            session.join(curious, memory=memory)
            heard.wait_for(4)
        assert sorted(heard.items) == [1, 1, 2, 2]  # type: ignore[type-var]

    def test_what_an_agent_reads_slowly_waits(self, virtual_time: VirtualClock, macp_runtime: Runtime) -> None:
        with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client:
            session = started(client)
            for n in range(50):
                session.propose(f"p{n}", "canary")
            heard: list[int] = []

            def slow(events: Observable[Accepted]) -> Observable[Message]:
                demand = Demand(client.clock)

                def hear(one: Accepted) -> None:
                    heard.append(one.sequence)
                    if one.sequence == 10:
                        demand.pause()
                        client.clock.run_later(1, demand.resume)

                def subscribe(observer: Any, _: object = None) -> Any:
                    return events.subscribe(hear, observer.on_error, observer.on_completed, scheduler=demand)

                return Observable(subscribe)

            session.acting_as("alice").join(slow)
            virtual_time.advance_by(0.5)
            assert heard[-1] == 10
            virtual_time.advance_by(1)
            assert heard == list(range(1, 52))


class TestDivergence:
    def test_what_it_did_not_say_again_is_told(self, virtual_time: VirtualClock, macp_runtime: Runtime) -> None:
        with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client, agents.Memory(":memory:") as memory:
            session = started(client)
            alice = session.acting_as("alice")
            told: list[Exception] = []
            confidence = count()

            def random(_: Accepted) -> Message:
                return decision.evaluate("p1", "REVIEW", confidence=next(confidence) / 10)

            for _ in range(2):
                lives = alice.join(agents.on(ProposalPayload).say(random), memory=memory, on_error=told.append)
                if not history(session)[1:]:
                    session.propose("p1", "canary")
                virtual_time.advance_by(10)
                lives.dispose()
            assert [one.sender for one in history(session)[2:]] == ["alice", "alice"]
            (error,) = told
            assert isinstance(error, MacpSessionError)
            assert "a Evaluation of alice, 3 in" in str(error)
            assert "did not say again" in str(error)

    def test_who_has_left_is_not_asked(self, virtual_time: VirtualClock, macp_runtime: Runtime) -> None:
        with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client, agents.Memory(":memory:") as memory:
            session = started(client)
            session.propose("p1", "canary")
            told: list[Exception] = []
            alice = session.acting_as("alice")
            for agent in (agents.voter(lambda _: "APPROVE"), agents.merge()):
                lives = alice.join(agent, memory=memory, on_error=told.append)
                virtual_time.advance_by(1)
                lives.dispose()
            virtual_time.advance_by(10)
            assert told == []

    def test_what_was_said_by_hand_is_no_agent_s(self, virtual_time: VirtualClock, macp_runtime: Runtime) -> None:
        with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client, agents.Memory(":memory:") as memory:
            session = started(client)
            session.propose("p1", "canary")
            told: list[Exception] = []
            session.join(agents.voter(lambda _: "APPROVE"), memory=memory, on_error=told.append)
            virtual_time.advance_by(10)
            session.commit(action="rollout.approved", authority_scope="s", reason="r")
            virtual_time.advance_by(1)
            assert told == []
