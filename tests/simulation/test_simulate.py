from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from macp.modes.decision.v1.decision_pb2 import ProposalPayload, VotePayload
from macp.v1.core_pb2 import ModeDescriptor
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, MacpAckError, MacpSessionError, Message, SessionStart, agents
from macp_rx import operators as mo
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision
from macp_rx.protocol.policy import VotingRules, build_decision_policy
from macp_rx.simulation import Choice, Conditions, Exponential, LogNormal, Refusal, Simulation, simulate
from macp_rx.testing.guard import only_virtual_time
from macp_rx.timeline import Failed, Next, Timeline
from tests.simulation.scenarios import NAMES, PROPOSAL, START, always, panel, vote

EVERYTHING = Conditions(
    latency=LogNormal(0.1), cut_every=Exponential(2), outage=0.3, duplicated=0.3, thinking=Exponential(1), silent=0.1
)


def types(accepted: tuple[Accepted, ...]) -> list[str]:
    return [f"{one.sender} {one.message_type}" for one in accepted]


class TestWhatHappened:
    def test_a_vote(self) -> None:
        run = simulate(panel(carol="REJECT"), START, opening=[PROPOSAL])
        assert run.outcome.state == "RESOLVED"
        assert run.outcome.positive
        assert types(run.accepted)[:2] == ["chair SessionStart", "chair Proposal"]
        assert types(run.accepted)[-1] == "chair Commitment"
        assert run.counts[("carol", "Vote")] == 1
        assert [one.message_type for one in run.said_by("carol")] == ["Vote"]
        assert (run.seconds, run.refusals, dict(run.errors)) == (0, (), {})
        assert [one.sequence for one in run.accepted] == list(range(1, 9))

    def test_the_initiator_need_not_be_an_agent(self) -> None:
        run = simulate({"alice": agents.voter(lambda _: "APPROVE")}, START, opening=[PROPOSAL], initiator="chair")
        assert types(run.accepted) == ["chair SessionStart", "chair Proposal", "alice Vote"]
        assert (run.outcome.state, run.seconds) == ("EXPIRED", 60.001)

    def test_nobody_speaks_for_a_day(self) -> None:
        start = SessionStart(mode=DECISION, intent="wait", participants=["chair"], ttl_ms=86_400_000)
        began = time.process_time()
        run = simulate({"chair": agents.voter(lambda _: None)}, start)
        assert (run.outcome.state, run.seconds) == ("EXPIRED", 86_400.001)
        assert time.process_time() - began < 5  # 24 hours take milliseconds; the figure is in the benchmarks

    def test_an_escalation_after_23_hours(self) -> None:
        start = SessionStart(mode=DECISION, intent="wait", participants=["chair", "boss"], ttl_ms=86_400_000)

        def chair(events: Observable[Accepted]) -> Observable[Message[Any]]:
            return events.pipe(
                mo.of_type(ProposalPayload),
                ops.delay(23 * 3600),
                ops.map(lambda one: decision.commit(action="ask.boss", authority_scope="s", reason="nobody voted")),
            )

        run = simulate({"chair": chair}, start, opening=[PROPOSAL])
        assert (run.outcome.state, run.seconds) == ("RESOLVED", 23 * 3600)

    def test_refusals_are_told_and_the_agent_goes_on(self) -> None:
        def twice(events: Observable[Accepted]) -> Observable[Message[VotePayload]]:
            return events.pipe(
                mo.of_type(ProposalPayload),
                ops.flat_map_indexed(
                    lambda _one, _index: [decision.vote("p1", "APPROVE"), decision.vote("p1", "REJECT")]
                ),
            )

        slow = {"chair": Conditions(thinking=1)}  # who would else have committed before
        run = simulate({**panel(), "alice": twice}, START, opening=[PROPOSAL], conditions=slow)
        assert run.outcome.positive
        assert run.refusals == (Refusal("alice", "Vote", "INVALID_ENVELOPE"),)
        assert run.timeline is not None
        assert [event.what for event in run.timeline.lane("alice").events[:2]][1] == Next(run.refusals[0])

    def test_the_policys_reasons_are_told(self) -> None:
        strict = build_decision_policy("policy.unanimous", "all", voting=VotingRules(algorithm="unanimous"))
        start = SessionStart(
            mode=DECISION, intent="x", participants=NAMES, ttl_ms=60_000, policy_version="policy.unanimous"
        )
        run = simulate(panel(dave="REJECT"), start, opening=[PROPOSAL], policy=strict)
        assert run.outcome.state == "EXPIRED"
        (refusal,) = run.refusals
        assert (refusal.sender, refusal.message_type, refusal.code) == ("chair", "Commitment", "POLICY_DENIED")
        assert refusal.denials

    def test_an_exception_ends_its_agent_alone(self) -> None:
        def fails(_proposal: object) -> str:
            raise ValueError("no idea")

        run = simulate({**panel(), "alice": agents.voter(fails)}, START, opening=[PROPOSAL])
        assert run.outcome.positive
        assert repr(run.errors["alice"]) == "ValueError('no idea')"
        assert run.timeline is not None
        assert isinstance(run.timeline.lane("alice").events[-1].what, Failed)

    def test_async_agents_take_virtual_time(self) -> None:
        async def model(_proposal: object) -> str:
            await asyncio.sleep(30)
            return "APPROVE"

        slow = {name: agents.voter(model, timeout=20, fallback="ABSTAIN") for name in ("alice", "bob")}
        run = simulate({**panel(), **slow, "dave": agents.voter(model)}, START, opening=[PROPOSAL])
        assert [one.payload.vote for name in ("alice", "bob") for one in run.said_by(name)] == ["ABSTAIN"] * 2  # type: ignore[attr-defined]
        assert run.seconds == 30

    def test_the_timeline_is_marble_text_that_can_be_read_back(self) -> None:
        run = simulate(panel(), START, opening=[PROPOSAL], conditions=Conditions(thinking=0.5))
        assert run.timeline is not None
        assert run.timeline.lanes == NAMES
        assert Timeline.parse(str(run.timeline)) == run.timeline
        assert Timeline.from_json_lines(run.timeline.to_json_lines()) == run.timeline
        assert simulate(panel(), START, opening=[PROPOSAL], timeline=False).timeline is None

    def test_an_extension_mode(self) -> None:
        notes = ModeDescriptor(
            mode="ext.notes.v1",
            mode_version="1.0.0",
            title="Notes",
            message_types=["SessionStart", "Note", "Commitment"],
            terminal_message_types=["Commitment"],
        )
        start = SessionStart(mode="ext.notes.v1", intent="x", participants=["chair"], ttl_ms=60_000)
        done = decision.commit(action="notes.taken", authority_scope="s", reason="r")
        chair = agents.opening(Message("", b"one", "Note"), done)
        run = simulate({"chair": chair}, start, modes=[notes])
        assert types(run.accepted) == ["chair SessionStart", "chair Note", "chair Commitment"]
        assert run.accepted[1].envelope.payload == b"one"
        assert Timeline.parse(str(run.timeline)) == run.timeline

    def test_in_a_line(self) -> None:
        assert str(vote(seed=1)) == "RESOLVED after 0 s, 8 accepted, 0 refused"

    def test_in_a_line_that_tells_whose_agent_did_not_live_to_the_end(self) -> None:
        undecided: Any = ("REJECT", "no")
        start = SessionStart(mode=decision.MODE, intent="x", participants=["chair", "bob"], ttl_ms=60_000)
        panel = {"chair": agents.opening(decision.propose("p1", "canary")), "bob": agents.voter(lambda _: undecided)}
        line = str(simulate(panel, start))
        assert line.startswith("EXPIRED after 60.001 s, 2 accepted, 0 refused; bob ended with MacpSessionError(")
        assert "answered ('REJECT', 'no'): that is no decision, no Message and not None" in line


class TestItIsAFunctionOfItsSeed:
    def test_it_uses_no_other_time_chance_or_thread(self) -> None:
        before = threading.active_count()
        with only_virtual_time():
            run = simulate(panel(), START, opening=[PROPOSAL], conditions=EVERYTHING, seed=5)
        assert run.outcome.state in ("RESOLVED", "EXPIRED")
        assert threading.active_count() == before

    @pytest.mark.parametrize("seed", range(20))
    def test_twice_the_same(self, seed: int) -> None:
        one, other = (simulate(panel(), START, opening=[PROPOSAL], conditions=EVERYTHING, seed=seed) for _ in range(2))
        assert one == other
        assert one.digest == other.digest
        assert str(one.timeline) == str(other.timeline)

    def test_twice_the_same_where_an_agent_fails(self) -> None:
        def failing(text: str) -> Simulation:
            def fails(_proposal: object) -> str:
                raise ValueError(text)

            return simulate({**panel(), "alice": agents.voter(fails)}, START, opening=[PROPOSAL], timeline=False)

        assert failing("no idea") == failing("no idea")
        assert failing("no idea") != failing("another")
        assert pickle.loads(pickle.dumps(failing("no idea"))) == failing("no idea")

    def test_other_seeds_are_other_runs(self) -> None:
        runs = [simulate(panel(), START, opening=[PROPOSAL], conditions=EVERYTHING, seed=seed) for seed in range(20)]
        assert len({run.digest for run in runs}) == 20

    def test_one_agents_conditions_do_not_change_anothers_chance(self) -> None:
        def when_bob_voted(**conditions: Conditions) -> float:
            conditions = {"bob": Conditions(thinking=Exponential(1)), **conditions}
            voters = {name: agents.voter(always("APPROVE")) for name in NAMES}
            run = simulate(voters, START, opening=[PROPOSAL], conditions=conditions, seed=3)
            return run.said_by("bob")[0].envelope.timestamp_unix_ms

        assert when_bob_voted() == when_bob_voted(dave=Conditions(thinking=Exponential(5), latency=1))

    def test_in_every_process_whatever_its_hash_seed(self) -> None:
        code = (
            "from tests.simulation.test_simulate import *\n"
            "for seed in range(5):\n"
            "    print(simulate(panel(), START, opening=[PROPOSAL], conditions=EVERYTHING, seed=seed).digest)\n"
        )
        printed = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for hash_seed in ("0", "1", "4242")
        }
        assert len(printed) == 1
        assert len(printed.pop().split()) == 5

    def test_it_needs_no_grpc(self) -> None:
        code = (
            "import sys\n"
            "from tests.simulation.scenarios import vote\n"
            "assert vote(latency=0.1, seed=1).outcome.positive\n"
            "assert not [name for name in sys.modules if name.partition('.')[0] == 'grpc'], 'grpc was imported'\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestConditions:
    def test_latency_is_there_and_back(self) -> None:
        # a proposal that was accepted at 0 is heard at 0.5, the vote arrives at 1.0, is heard by the chair at 1.5
        run = simulate(panel(), START, opening=[PROPOSAL], conditions=Conditions(latency=0.5))
        assert run.outcome.positive
        assert run.said_by("alice")[0].envelope.timestamp_unix_ms - run.accepted[0].envelope.timestamp_unix_ms >= 500
        assert run.seconds >= 2

    def test_a_slow_agent_is_late_and_the_others_are_not(self) -> None:
        run = simulate(panel(), START, opening=[PROPOSAL], conditions={"dave": Conditions(thinking=7)})
        assert types(run.accepted)[-1] == "chair Commitment"
        assert "dave Vote" not in types(run.accepted)
        assert run.seconds == 0

    def test_a_silent_agent_says_nothing(self) -> None:
        run = simulate(panel(), START, opening=[PROPOSAL], conditions={"alice": Conditions(silent=1)})
        assert run.said_by("alice") == ()
        assert run.outcome.positive

    def test_an_agent_keeps_the_order_of_what_it_says(self) -> None:
        def talkative(events: Observable[Accepted]) -> Observable[Message[Any]]:
            return events.pipe(
                ops.take(1), ops.flat_map(lambda _: [decision.propose(f"q{number}", "x") for number in range(30)])
            )

        conditions = {"alice": Conditions(thinking=Exponential(1))}
        run = simulate({"alice": talkative}, START, initiator="chair", conditions=conditions)
        said = [one.payload.proposal_id for one in run.said_by("alice")]  # type: ignore[attr-defined]
        assert said == [f"q{number}" for number in range(30)]

    @pytest.mark.parametrize("seed", range(10))
    def test_connections_that_break_lose_nothing(self, seed: int, caplog: pytest.LogCaptureFixture) -> None:
        conditions = Conditions(latency=0.05, cut_every=Exponential(0.4), outage=0.1, duplicated=0.5)
        heard: list[int] = []

        def listening(events: Observable[Accepted]) -> Observable[Message[Any]]:
            return events.pipe(ops.do_action(lambda one: heard.append(one.sequence)), ops.ignore_elements())

        slow = {name: Conditions(thinking=1 + number) for number, name in enumerate(NAMES)}
        run = simulate(
            {**panel(), "dave": listening},
            START,
            opening=[PROPOSAL],
            conditions={**slow, "dave": conditions},
            seed=seed,
        )
        assert run.outcome.positive
        assert heard == list(
            range(1, len(heard) + 1)
        )  # the run ends with the session, when the last may be on their way
        assert len(heard) >= 5
        assert "connection lost" in caplog.text

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"latency": -1}, "latency is a number of seconds"),
            ({"latency": "0.1"}, "latency is a number of seconds, at least 0, or how to draw one, not '0.1'"),
            ({"thinking": None}, "thinking is a number of seconds"),
            ({"cut_every": "often"}, "more than 0 seconds, or how to draw them, not 'often'"),
            ({"silent": "never"}, "silent is a probability"),
            ({"thinking": float("nan")}, "thinking is a number of seconds"),
            ({"cut_every": 0}, "more than 0 seconds"),
            ({"silent": 1.5}, "silent is a probability"),
            ({"duplicated": -0.1}, "duplicated is a probability"),
        ],
    )
    def test_bad_ones_say_what_is_wrong(self, wrong: dict[str, Any], says: str) -> None:
        with pytest.raises(MacpSessionError, match=says):
            Conditions(**wrong)

    @pytest.mark.parametrize("name", ["latency", "thinking"])
    @pytest.mark.parametrize("drawn", [-0.1, float("nan")])
    def test_a_time_that_is_none_ends_the_agent_that_draws_it(self, name: str, drawn: float) -> None:
        run = simulate(panel(), START, opening=[PROPOSAL], conditions={"bob": Conditions(**{name: Choice([drawn])})})  # type: ignore[arg-type]
        assert list(run.errors) == ["bob"]
        assert f"has drawn {drawn}, and a time is at least 0 seconds" in str(run.errors["bob"])


class TestInput:
    def test_conditions_for_nobody(self) -> None:
        with pytest.raises(MacpSessionError, match="conditions names eve, and the agents are chair"):
            simulate(panel(), START, conditions={"eve": Conditions()})

    def test_no_agents(self) -> None:
        with pytest.raises(MacpSessionError, match="needs agents"):
            simulate({}, START)

    def test_a_start_that_the_runtime_refuses(self) -> None:
        start = SessionStart(
            mode=DECISION, intent="x", participants=["chair"], ttl_ms=1000, policy_version="policy.nowhere"
        )
        with pytest.raises(MacpAckError, match=r"policy\.nowhere"):
            simulate(panel(), start)

    def test_an_agent_that_is_none(self) -> None:
        nothing: Any = lambda events: None  # noqa: E731
        with pytest.raises(MacpSessionError, match="an agent returns an Observable"):
            simulate({"chair": nothing}, START)
