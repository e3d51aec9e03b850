"""What runs agents: joining, several in one session, one in every session."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import reactivex as rx
from macp.modes.decision.v1.decision_pb2 import ProposalPayload, VotePayload
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Ack
from reactivex import Observable, abc
from reactivex import operators as ops

from macp_rx import (
    Accepted,
    Agent,
    AuthConfig,
    DecisionSession,
    MacpAckError,
    MacpClient,
    MacpSessionError,
    Message,
    MultiRoundSession,
    Outcome,
    Runtime,
    Session,
    agents,
)
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision, multi_round
from tests.conftest import Connect, Recorder, wait_until

VOTER = agents.voter(lambda _: "APPROVE")
REFUSED = decision.vote("unknown", "APPROVE")


def started(client: MacpClient, *participants: str, **options: Any) -> DecisionSession:
    session = DecisionSession(client, **options)
    session.start(intent="run", participants=participants or ("chair", "alice", "bob"), ttl_ms=60_000)
    return session


def commits(session: Session) -> None:
    session.commit(action="rollout.approved", authority_scope="test", reason="enough")


def history(session: Session) -> list[Accepted]:
    return session.client.history(session.session_id).pipe(ops.to_list()).run()


def kinds(session: Session) -> list[str]:
    return [accepted.message_type for accepted in history(session)]


def says(*messages: Any) -> Agent:
    """An agent that says all this at once."""
    return lambda _events: rx.of(*messages)


class TestIds:
    def test_an_agent_that_is_started_again_says_nothing_twice(self, client: MacpClient) -> None:
        session = started(client)
        session.propose("p1", "canary")
        alice = session.acting_as("alice")
        objecting = agents.on(ProposalPayload).say(lambda _: decision.raise_objection("p1", reason="once more"))
        agent = agents.merge(agents.evaluator(lambda _: agents.Evaluation("APPROVE", 1)), objecting)
        refused = Recorder()

        def acks(agent: Agent, how_many: int) -> list[Ack]:
            return alice.spoken(agent, alice.events, refused.on_next).pipe(ops.take(how_many), ops.to_list()).run()

        assert [ack.duplicate for ack in acks(agent, 2)] == [False, False]
        (ack,) = acks(agents.merge(agent, VOTER), 1)  # the first thing that it sends
        assert not ack.duplicate
        assert refused.items == []
        assert kinds(session) == ["SessionStart", "Proposal", "Evaluation", "Objection", "Vote"]

    def test_the_nth_repetition_has_an_id_of_its_own(self, client: MacpClient) -> None:
        session = MultiRoundSession(client)
        session.start(intent="same again", participants=["alice", "bob"], ttl_ms=60_000)
        alice = session.acting_as("alice")
        one, two = multi_round.contribute("1"), multi_round.contribute("2")
        for sent in (3, 0):
            spoken = alice.spoken(says(one, two, one), alice.events, lambda _: None)
            acks = spoken.pipe(ops.to_list()).run()
            assert [ack.duplicate for ack in acks] == [False] * sent
        contributions = [one for one in history(session) if one.message_type == "Contribute"]
        assert len({one.message_id for one in contributions}) == 3
        assert session.state().contributions["alice"] == "1"

    def test_each_subscription_counts_for_itself(self, client: MacpClient) -> None:
        session = started(client, "chair")
        spoken = session.spoken(says(decision.propose("p1", "canary")), session.events, lambda _: None)
        acks = spoken.pipe(ops.to_list())
        assert [len(acks.run()), len(acks.run())] == [1, 0]

    def test_they_are_the_session_s_the_agent_s_and_the_message_s_own(self, client: MacpClient) -> None:
        ids = set[str]()
        for _ in range(2):
            session = started(client)
            session.propose("p1", "canary")
            for message in (decision.evaluate("p1", "APPROVE", confidence=1), decision.vote("p1", "APPROVE")):
                for name in ("alice", "bob"):
                    speaker = session.acting_as(name)
                    speaker.spoken(says(message), speaker.events, lambda _: None).run()
            ids |= {accepted.message_id for accepted in history(session)[2:]}
        assert len(ids) == 8

    def test_a_commitment_has_the_id_of_its_message(self, client: MacpClient) -> None:
        session = started(client)
        session.propose("p1", "canary")
        says_so = mo.commit_if_decided(action="rollout.approved")
        verdict = mo.Verdict("p1", True, "all agree", mo.Count(approve=1))
        session.join(lambda events: events.pipe(mo.of_type(ProposalPayload), ops.map(lambda _: verdict), says_so))
        session.outcome.run()
        last = history(session)[-1]
        assert last.payload.commitment_id == last.message_id  # type: ignore[attr-defined]

    def test_who_has_no_name_is_not_taken_for_another(self, client: MacpClient) -> None:
        """A runtime knows a message by its id alone, whoever sends it: the second vote would have been a duplicate."""
        session = started(client)
        session.propose("p1", "canary")
        nameless = [session.acting_as(AuthConfig.for_bearer(token)) for token in ("alice", "bob")]
        for speaker in nameless:
            ack = speaker.spoken(says(decision.vote("p1", "APPROVE")), speaker.events, lambda _: None).run()
            assert not ack.duplicate
        assert set(session.state().votes["p1"]) == {"alice", "bob"}

    def test_they_are_the_same_in_every_process(self) -> None:
        code = """
from macp_rx import MacpClient, MultiRoundSession, Runtime, agents
from macp_rx.clock import VirtualClock
from macp_rx.protocol.modes import multi_round
from macp.modes.multi_round.v1.multi_round_pb2 import ContributePayload
import reactivex as rx
client = MacpClient.embedded(agent="chair", runtime=Runtime(clock=VirtualClock(5)))
session = MultiRoundSession(client)
session.start(intent="i", participants=["chair", "alice"], ttl_ms=1000)
say = multi_round.contribute
session.join(lambda events: rx.of(say("1"), say("2"), say("1")))
def echo(heard):
    return say(heard.payload.value) if heard.sender == "chair" else None
session.acting_as("alice").join(agents.on(ContributePayload).say(echo))
client.clock.advance_by(0.5)
print([(one.sender, one.message_id) for one in client.history(session.session_id)])
"""
        said = {
            subprocess.run(
                [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
            ).stdout
            for seed in ("0", "1", "12345")
        }
        assert len(said) == 1
        assert said.pop().count("alice") >= 1


class TestJoin:
    def test_an_exception_ends_one_agent_alone(self, client: MacpClient) -> None:
        session = started(client)
        failed = Recorder()

        def broken(_: object) -> str:
            raise ValueError("no model")

        session.acting_as("alice").join(agents.voter(broken), on_error=failed.on_next)
        session.acting_as("bob").join(VOTER)
        session.propose("p1", "canary")
        failed.wait_for(1)
        assert str(failed.items[0]) == "no model"
        session.events.pipe(ops.take(3)).run()
        assert set(session.state().votes["p1"]) == {"bob"}
        wait_until(client.clock, lambda: len(client.subscriptions) == 1)  # bob's

    def test_a_refusal_is_reported_and_the_agent_goes_on(self, client: MacpClient) -> None:
        session = started(client)
        refused = Recorder()
        wrong, right = decision.vote("unknown", "APPROVE"), decision.propose("p1", "canary")
        session.join(says(wrong, right), on_error=refused.on_next)
        refused.wait_for(1)
        assert isinstance(refused.items[0], MacpAckError)
        session.events.pipe(ops.take(2)).run()
        assert kinds(session) == ["SessionStart", "Proposal"]

    @pytest.mark.parametrize(
        "agent", [agents.voter(lambda _: "approve"), agents.on(ProposalPayload).say(lambda _: REFUSED)]
    )
    def test_what_a_listener_raises_is_told_to_whoever_runs_the_clock(
        self, agent: Agent, macp_runtime: Runtime, virtual_time: VirtualClock
    ) -> None:
        def breaks(_error: Exception) -> None:
            raise RuntimeError("nobody listens to the listener")

        with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client:
            session = started(client)
            session.join(agent, on_error=breaks)
            session.rx.propose("p1", "canary").subscribe()
            with pytest.raises(RuntimeError, match="nobody listens"):
                virtual_time.advance_by(1)

    def test_it_is_logged_unless_somebody_listens(self, client: MacpClient, caplog: pytest.LogCaptureFixture) -> None:
        session = started(client)
        logged = Recorder()

        class Told(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                logged.on_next((record.levelname, record.getMessage(), bool(record.exc_info)))

        handler = Told()
        logging.getLogger("macp_rx.session").addHandler(handler)
        try:
            session.join(says(decision.vote("unknown", "APPROVE")))
            session.acting_as("alice").join(lambda _events: rx.throw(ValueError("no model")))
            logged.wait_for(2)
        finally:
            logging.getLogger("macp_rx.session").removeHandler(handler)
        told = {level: (text, traced) for level, text, traced in logged.items}  # type: ignore[misc]
        warning, traced = told["WARNING"]
        assert warning.startswith(f"chair in {session.session_id}: INVALID_ENVELOPE")
        assert not traced
        assert told["ERROR"] == (f"alice in {session.session_id}: no model", True)

    def test_who_leaves_says_nothing_more(self, client: MacpClient) -> None:
        session = started(client)
        leave = session.acting_as("alice").join(VOTER)
        session.propose("p1", "canary")
        session.events.pipe(ops.take(3)).run()
        leave.dispose()
        wait_until(client.clock, lambda: client.subscriptions == ())
        session.acting_as("bob").vote("p1", "APPROVE")
        assert kinds(session) == ["SessionStart", "Proposal", "Vote", "Vote"]

    @pytest.mark.parametrize("how", ["committed", "cancelled"])
    def test_it_ends_with_the_session_even_if_it_had_more_to_say(self, client: MacpClient, how: str) -> None:
        session = started(client)
        refused = Recorder()

        def nagging(events: Observable[Accepted]) -> Observable[Message]:
            ticks = rx.interval(0.01, scheduler=client.clock)
            return rx.merge(VOTER(events), ticks.pipe(ops.map(lambda tick: decision.propose(f"p{tick}", "again"))))

        session.acting_as("alice").join(nagging, on_error=refused.on_next)
        session.events.pipe(ops.take(3)).run()
        commits(session) if how == "committed" else session.cancel()
        session.outcome.run()
        wait_until(client.clock, lambda: client.subscriptions == ())
        said = len(refused.items)
        told = threading.Event()
        client.clock.run_later(0.1, told.set)
        assert told.wait(5)
        assert len(refused.items) == said  # and it says nothing more

    def test_agents_may_join_before_the_session_is_started(self, client: MacpClient) -> None:
        session = DecisionSession(client)
        session.acting_as("alice").join(VOTER)
        session.start(intent="late", participants=["chair", "alice"], ttl_ms=60_000)
        session.propose("p1", "canary")
        assert session.events.pipe(ops.take(3), ops.to_list()).run()[-1].sender == "alice"

    def test_one_that_is_no_agent(self, client: MacpClient) -> None:
        session = started(client)
        wrong: list[tuple[Any, str]] = [
            (lambda events: None, "returns an Observable of Messages, not NoneType"),
            (lambda events: [decision.vote("p1", "APPROVE")], "not list"),
            (agents.on(ProposalPayload), "a function from events to messages, not"),
            (None, "a function from events to messages, not None"),
        ]
        for agent, why in wrong:
            with pytest.raises(MacpSessionError, match=why):
                session.join(agent)
        assert client.subscriptions == ()


class TestPanel:
    def panel(self) -> dict[str, Agent]:
        chair = agents.merge(
            agents.from_start(lambda _start: lambda _events: rx.of(decision.propose("p1", "canary"))),
            agents.majority_committer(action="rollout.approved"),
        )
        return {"chair": chair, "alice": VOTER, "bob": VOTER}

    def test_several_in_one_session(self, client: MacpClient) -> None:
        session = started(client)
        outcome = agents.run(session, self.panel())
        assert (outcome.state, outcome.positive) == ("RESOLVED", True)
        assert [one.sender for one in history(session)[:2]] == ["chair", "chair"]
        wait_until(client.clock, lambda: client.subscriptions == ())

    def test_under_credentials(self, client: MacpClient) -> None:
        session = started(client)
        panel = {AuthConfig.for_dev_agent(name): agent for name, agent in self.panel().items()}
        assert agents.run(session, panel).positive

    def test_the_session_s_own_identity_is_kept(self, client: MacpClient) -> None:
        """Its credential, and not one that is made of the name: on a runtime without dev authentication that is none."""
        owner = client.acting_as(AuthConfig.for_bearer("chair", sender_hint="chair"))
        session = started(owner)
        spoken: list[AuthConfig | None] = []

        class Noted(DecisionSession):
            def join(self, agent: Agent, **options: Any) -> Any:
                spoken.append(self.client.auth)
                return super().join(agent, **options)

        noted = Noted(owner, session.session_id)
        assert agents.run(noted, self.panel()).positive
        assert spoken[0] == owner.auth
        assert [auth.token for auth in spoken if auth is not None] == ["chair", "alice", "bob"]

    def test_nobody_joins_before_somebody_subscribes(self, client: MacpClient) -> None:
        session = started(client)
        outcome = agents.outcome_of(session, self.panel())
        assert kinds(session) == ["SessionStart"]
        heard = Recorder()
        outcome.subscribe(heard)
        heard.wait_for_end()
        assert isinstance(heard.items[0], Outcome)

    def test_who_unsubscribes_takes_all_of_them_away(self, client: MacpClient) -> None:
        session = started(client)
        subscription = agents.outcome_of(session, {"alice": VOTER, "bob": VOTER}).subscribe()
        session.propose("p1", "canary")
        session.events.pipe(ops.take(4)).run()
        subscription.dispose()
        wait_until(client.clock, lambda: client.subscriptions == ())

    def test_errors_come_with_the_name(self, client: MacpClient) -> None:
        session = started(client)
        told = Recorder()

        def tell(name: str, error: Exception) -> None:
            told.on_next((name, type(error).__name__))

        panel: dict[str, Agent] = {
            "chair": self.panel()["chair"],
            "alice": agents.merge(VOTER, says(decision.vote("unknown", "APPROVE"))),
            "bob": agents.merge(VOTER, agents.on(VotePayload).say(lambda _: 1 // 0)),  # type: ignore[arg-type,return-value]
        }
        subscription = agents.outcome_of(session, panel, on_error=tell).subscribe()
        told.wait(
            lambda heard: ("alice", "MacpAckError") in heard.items and ("bob", "ZeroDivisionError") in heard.items
        )
        subscription.dispose()

    def test_if_one_cannot_begin_none_does(self, client: MacpClient) -> None:
        session = started(client)
        forgot_return: Any = lambda events: None  # noqa: E731
        with pytest.raises(MacpSessionError, match="not NoneType"):
            agents.run(session, {"alice": VOTER, "bob": forgot_return})
        wait_until(client.clock, lambda: client.subscriptions == ())

    def test_what_is_no_function_is_told_by_name(self, client: MacpClient) -> None:
        forgot_say: Any = agents.on(ProposalPayload)
        with pytest.raises(MacpSessionError, match="the agent of alice is a function from events to messages, not"):
            agents.outcome_of(started(client), {"alice": forgot_say})

    def test_a_session_that_is_cancelled_or_expires(self, client: MacpClient) -> None:
        cancelled = started(client)
        heard = Recorder()
        agents.outcome_of(cancelled, {"alice": VOTER}).subscribe(heard)
        cancelled.cancel()
        heard.wait_for_end()
        assert [one.state for one in heard.items if isinstance(one, Outcome)] == ["CANCELLED"]
        expiring = DecisionSession(client)
        expiring.start(intent="soon", participants=["alice"], ttl_ms=50)
        assert agents.run(expiring, {"alice": VOTER}).state == "EXPIRED"

    async def _awaited(self, client: MacpClient) -> Outcome:
        session = DecisionSession(client)
        await session.rx.start(intent="await", participants=["chair", "alice", "bob"], ttl_ms=60_000)
        return await agents.outcome_of(session, self.panel())

    def test_it_can_be_awaited(self, client: MacpClient) -> None:
        assert asyncio.run(self._awaited(client)).positive


class TestServe:
    @pytest.fixture
    def names(self, client: MacpClient) -> tuple[str, str, str]:
        """Names of its own for each test: the real server has everybody's sessions."""
        suffix = client.clock.new_id()[:8]
        return f"chair-{suffix}", f"alice-{suffix}", f"bob-{suffix}"

    def test_sessions_that_are_there_and_that_appear(self, connect: Connect, names: tuple[str, str, str]) -> None:
        chair, alice, _bob = names
        client = connect(chair)
        first = started(client, *names)
        first.propose("p1", "canary")
        served = agents.serve(connect(alice), VOTER, mode=DECISION)
        second = started(client, *names)
        second.propose("p1", "canary")
        for session in (first, second):
            assert session.events.pipe(ops.take(3), ops.to_list()).run()[-1].sender == alice
        served.dispose()

    def test_started_again_it_goes_on_where_it_was_and_forgets_what_has_ended(
        self, connect: Connect, names: tuple[str, str, str], tmp_path: Path
    ) -> None:
        """Each session that has not ended, also one that it has not heard of before."""
        chair, alice, _bob = names
        client = connect(chair)
        asked = Recorder()

        @agents.remembered
        def decide(proposal: Accepted[ProposalPayload]) -> str:
            asked.on_next(proposal.session_id)
            return "APPROVE"

        def agent(events: Observable[Accepted]) -> Observable[Message]:
            return agents.merge(agents.voter(decide), agents.on(VotePayload).say(lambda _: REFUSED))(events)

        path, refused = tmp_path / "alice.sqlite", Recorder()
        sessions = [started(client, *names) for _ in range(2)]

        def served(memory: agents.Memory) -> abc.DisposableBase:
            return agents.serve(
                connect(alice), agent, mode=DECISION, memory=memory, on_error=lambda _, e: refused.on_next(e)
            )

        with agents.Memory(path) as memory:
            serving = served(memory)
            for session in sessions:
                session.propose("p1", "canary")
            refused.wait_for(2)
            serving.dispose()
        sessions.append(started(client, *names))
        sessions[-1].propose("p1", "canary")
        with agents.Memory(path) as memory:
            serving = served(memory)
            refused.wait_for(3)
            assert sorted(map(str, asked.items)) == sorted(session.session_id for session in sessions)
            for session in sessions:
                assert kinds(session) == ["SessionStart", "Proposal", "Vote"]
                assert list(memory.kept(session.session_id, alice)) != []
                commits(session)
                wait_until(client.clock, lambda session=session: not list(memory.kept(session.session_id, alice)))  # type: ignore[misc]
            serving.dispose()

    def test_each_session_has_a_state_of_its_own(self, connect: Connect, names: tuple[str, str, str]) -> None:
        """The committer of one session must not count the votes of another."""
        client = connect(names[0])
        served = [
            agents.serve(connect(names[0]), agents.majority_committer(action="rollout.approved")),
            agents.serve(connect(names[1]), VOTER),
        ]
        sessions = [started(client, *names) for _ in range(5)]
        for session in sessions:
            session.propose("p1", "canary")
        for session in sessions:
            session.events.pipe(ops.take(3)).run()
        assert [session.metadata().state for session in sessions] == [1] * 5
        for session in sessions[1:]:
            session.acting_as(names[2]).vote("p1", "APPROVE")
            assert session.outcome.run().positive
        assert kinds(sessions[0]) == ["SessionStart", "Proposal", "Vote"]
        for one in served:
            one.dispose()

    def test_an_error_ends_it_there_and_nowhere_else(self, connect: Connect, names: tuple[str, str, str]) -> None:
        client = connect(names[0])
        told = Recorder()

        def vote(proposal: Accepted[ProposalPayload]) -> str:
            if proposal.payload.option == "broken":
                raise ValueError("no model")
            return "APPROVE"

        served = agents.serve(
            connect(names[1]), agents.voter(vote), on_error=lambda where, error: told.on_next((where, str(error)))
        )
        broken, fine = started(client, *names), started(client, *names)
        broken.propose("p1", "broken")
        told.wait_for(1)
        assert told.items == [(broken.session_id, "no model")]
        fine.propose("p1", "canary")
        fine.events.pipe(ops.take(3)).run()
        broken.propose("p2", "fine")
        assert kinds(broken) == ["SessionStart", "Proposal", "Proposal"]
        served.dispose()

    def test_refusals_come_with_the_session(self, connect: Connect, names: tuple[str, str, str]) -> None:
        session = started(connect(names[0]), *names)
        told = Recorder()
        agent = agents.merge(says(decision.vote("unknown", "APPROVE")), VOTER)
        served = agents.serve(connect(names[1]), agent, on_error=lambda where, error: told.on_next((where, error)))
        session.propose("p1", "canary")
        session.events.pipe(ops.take(3)).run()
        told.wait_for(1)
        ((where, error),) = told.items  # type: ignore[misc]
        assert (where, type(error)) == (session.session_id, MacpAckError)
        served.dispose()

    @pytest.mark.parametrize("wrong", [lambda events: None, lambda events: 1 // 0, agents.on(ProposalPayload)])
    def test_one_that_is_no_agent_is_told_to_whoever_listens(
        self, connect: Connect, names: tuple[str, str, str], wrong: Any
    ) -> None:
        session = started(connect(names[0]), *names)
        told = Recorder()
        served = agents.serve(connect(names[1]), wrong, on_error=lambda where, error: told.on_next((where, error)))
        told.wait_for(1)
        ((where, error),) = told.items  # type: ignore[misc]
        assert where == session.session_id
        assert isinstance(error, (MacpSessionError, ZeroDivisionError))
        served.dispose()

    def test_only_what_is_wanted(self, connect: Connect, names: tuple[str, str, str]) -> None:
        client = connect(names[0])
        wanted, unwanted = started(client, *names), started(client, names[0], names[1])

        def with_bob(metadata: core_pb2.SessionMetadata) -> bool:
            return names[2] in metadata.participants

        served = agents.serve(connect(names[1]), VOTER, where=with_bob)
        for session in (unwanted, wanted):
            session.propose("p1", "canary")
        wanted.events.pipe(ops.take(3)).run()
        assert kinds(unwanted) == ["SessionStart", "Proposal"]
        served.dispose()

    @pytest.mark.parametrize("how", ["committed", "cancelled", "expired"])
    def test_a_session_that_ends_leaves_nothing_behind(
        self, connect: Connect, names: tuple[str, str, str], how: str
    ) -> None:
        told = Recorder()
        cancelled = threading.Event()

        async def endless(_proposal: object) -> str:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return "APPROVE"

        client = connect(names[1])
        agent = agents.merge(agents.voter(endless), agents.evaluator(lambda _: agents.Evaluation("APPROVE", 1)))
        served = agents.serve(client, agent, on_error=lambda where, error: told.on_next((where, error)))
        session = DecisionSession(connect(names[0]))
        session.start(intent="end", participants=names, ttl_ms=300 if how == "expired" else 60_000)
        session.propose("p1", "canary")
        session.events.pipe(ops.take(3)).run()
        assert any(session.session_id in one.what for one in client.subscriptions)
        if how == "committed":
            commits(session)
        elif how == "cancelled":
            session.cancel()
        assert session.outcome.run().state == {"committed": "RESOLVED"}.get(how, how.upper())
        assert cancelled.wait(5)
        wait_until(client.clock, lambda: not any(session.session_id in one.what for one in client.subscriptions))
        served.dispose()
        wait_until(client.clock, lambda: client.subscriptions == ())
        assert told.items == []

    def test_who_stops_leaves_all_sessions(self, connect: Connect, names: tuple[str, str, str]) -> None:
        client = connect(names[1])
        sessions = [started(connect(names[0]), *names) for _ in range(3)]
        served = agents.serve(client, VOTER)
        for session in sessions:
            session.propose("p1", "canary")
            session.events.pipe(ops.take(3)).run()
        served.dispose()
        wait_until(client.clock, lambda: client.subscriptions == ())

    def test_started_again_it_says_nothing_twice(self, connect: Connect, names: tuple[str, str, str]) -> None:
        session = started(connect(names[0]), *names)
        session.propose("p1", "canary")
        told = Recorder()
        for number in range(3):
            voted = Recorder()

            def vote(_proposal: object, voted: Recorder = voted) -> str:
                voted.on_next(True)
                return "APPROVE"

            client = connect(names[1])
            served = agents.serve(client, agents.voter(vote), on_error=lambda _where, error: told.on_next(error))
            voted.wait_for(1)
            client.list_modes()
            session.events.pipe(ops.take(3)).run()
            served.dispose()
            assert kinds(session) == ["SessionStart", "Proposal", "Vote"], number
        assert told.items == []
