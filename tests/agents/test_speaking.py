"""Answers to what was said, several agents in one, an agent that knows how its session began."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import reactivex as rx
from macp.modes.decision.v1.decision_pb2 import ObjectionPayload, ProposalPayload, VotePayload
from macp.v1.core_pb2 import SessionStartPayload
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, Agent, DecisionSession, MacpSessionError, MacpTimeoutError, Message, agents
from macp_rx.clock import VirtualClock
from macp_rx.protocol.modes import decision, quorum
from macp_rx.testing import Marbles
from tests.agents.listening import Slow, check_log, check_nothing_logged, heard_at_once, hears
from tests.conftest import Recorder
from tests.operators.voices import LEGEND

YES = decision.vote("p1", "APPROVE")
NO = decision.vote("p1", "REJECT")
FINE = decision.evaluate("p1", "APPROVE", confidence=1)
SAID = {"y": YES, "n": NO, "e": FINE}


def on_proposals(answer: Any, **options: Any) -> Agent:
    return agents.on(ProposalPayload).say(answer, **options)


class TestOn:
    def test_a_message_is_said(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, on_proposals(lambda _: YES), "S-p---C|")).to_be("--y----|", SAID)

    def test_several_are_said_in_order(self, marbles: Marbles) -> None:
        agent = on_proposals(lambda _: [YES, FINE, NO])
        marbles.expect(hears(marbles, agent, "S-p-q-C|")).to_be("--(y e n)-(y e n)--|", SAID)

    def test_none_is_nothing_and_so_is_an_empty_list(self, marbles: Marbles) -> None:
        for answer in (None, [], ()):
            marbles.expect(hears(marbles, on_proposals(lambda _, answer=answer: answer), "S-p-C|")).to_be("-----|")

    def test_a_generator_is_said_in_order(self, marbles: Marbles) -> None:
        def answer(_proposal: Accepted[ProposalPayload]) -> Iterator[Message]:
            yield FINE
            yield YES

        marbles.expect(hears(marbles, on_proposals(answer), "S-p-C|")).to_be("--(e y)--|", SAID)

    def test_it_answers_what_it_names_and_nothing_else(self, marbles: Marbles) -> None:
        agent = agents.on(VotePayload, ObjectionPayload).say(
            lambda accepted: FINE if accepted.sender == "alice" else NO
        )
        marbles.expect(hears(marbles, agent, "S-p-o-v-w-e-C|")).to_be("----e-e-n----|", SAID)

    def test_an_async_answer_comes_when_it_is_done(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, on_proposals(Slow(YES)), "S-p---C|")).to_be("----y--|", SAID)

    def test_an_async_answer_may_be_several_or_none(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, on_proposals(Slow([YES, FINE])), "S-p---C|")).to_be("----(y e)--|", SAID)
        marbles.expect(hears(marbles, on_proposals(Slow(None)), "S-p---C|")).to_be("-------|")

    def test_only_so_many_at_a_time(self, marbles: Marbles) -> None:
        agent = on_proposals(Slow(YES), concurrency=1)
        marbles.expect(hears(marbles, agent, "S-(p q)-----|")).to_be("----y-y-|", SAID)

    def test_an_answer_that_raises_ends_it(self, marbles: Marbles) -> None:
        def answer(_: object) -> Message:
            raise ValueError("no")

        source = marbles.hot("S-p-q-C|", LEGEND)
        marbles.expect(on_proposals(answer)(source)).to_be("--#", error=ValueError("no"))
        marbles.expect_subscriptions(source).to_be("^-!")

    def test_an_async_answer_that_raises_ends_it(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, on_proposals(Slow(ValueError("no"))), "S-p---C|")).to_be(
            "----#", error=ValueError("no")
        )

    @pytest.mark.parametrize("answer", [Slow(ValueError("no model"), 0), None])
    def test_a_fallback_is_said_instead_and_the_reason_logged(
        self, marbles: Marbles, caplog: pytest.LogCaptureFixture, answer: Any
    ) -> None:
        def broken(_: object) -> Message:
            raise ValueError("no model")

        reasons: list[Exception] = []

        def fallback(accepted: Accepted[ProposalPayload], error: Exception) -> Message:
            reasons.append(error)
            return decision.vote(accepted.payload.proposal_id, "REJECT")

        agent = on_proposals(answer or broken, fallback=fallback)
        marbles.expect(hears(marbles, agent, "S-p-C|")).to_be("--n--|", SAID)
        check_log(marbles, caplog, "no model; the fallback is said")
        marbles.check(lambda: None if [type(reason) for reason in reasons] == [ValueError] else str(reasons))

    def test_the_log_says_whose_fallback_it_is(
        self, session: DecisionSession, caplog: pytest.LogCaptureFixture
    ) -> None:
        agent = on_proposals(Slow(ValueError("no model")), fallback=lambda _accepted, _error: NO)
        for name, joins in (("alice", agent), ("chair", agents.merge(agents.from_start(lambda _start: agent)))):
            session.acting_as(name).join(joins)
        session.propose("p1", "canary")
        heard = session.events.pipe(ops.take(4), ops.to_list()).run()
        assert sorted(accepted.sender for accepted in heard[2:]) == ["alice", "chair"]
        logged = sorted(record.getMessage().split(":")[0] for record in caplog.records)
        assert logged == [f"{name} in {session.session_id}" for name in ("alice", "chair")]

    def test_a_generator_that_raises_is_an_answer_that_failed(self, marbles: Marbles) -> None:
        def answer(_proposal: Accepted[ProposalPayload]) -> Iterator[Message]:
            yield YES
            raise ValueError("half way")

        agent = on_proposals(answer, fallback=lambda _accepted, _error: [FINE, NO])
        marbles.expect(hears(marbles, agent, "S-p---C|")).to_be("--(e n)----|", SAID)

    def test_a_fallback_that_says_nothing(self, marbles: Marbles) -> None:
        agent = on_proposals(Slow(ValueError("no")), fallback=lambda _accepted, _error: None)
        marbles.expect(hears(marbles, agent, "S-p---C|")).to_be("-------|")

    def test_a_fallback_that_raises_ends_it(self, marbles: Marbles) -> None:
        def fallback(_accepted: object, error: Exception) -> Message:
            raise KeyError("worse") from error

        agent = on_proposals(Slow(ValueError("no")), fallback=fallback)
        marbles.expect(hears(marbles, agent, "S-p---C|")).to_be("----#", error=KeyError("worse"))

    def test_an_answer_that_takes_too_long(self, marbles: Marbles) -> None:
        expected = MacpTimeoutError("no answer within 0.001 s")
        marbles.expect(hears(marbles, on_proposals(Slow(YES), timeout=0.001), "S-p---C|")).to_be("---#", error=expected)

    def test_and_its_fallback(self, marbles: Marbles, caplog: pytest.LogCaptureFixture) -> None:
        slow = Slow(YES)
        agent = on_proposals(slow, timeout=0.001, fallback=lambda _accepted, _error: NO)
        marbles.expect(hears(marbles, agent, "S-p---C|")).to_be("---n---|", SAID)
        marbles.check(slow.ended("cancelled"))
        check_log(marbles, caplog, "no answer within 0.001 s; the fallback is said")

    @pytest.mark.parametrize(
        ("accepted", "says", "ends"),
        # one that is cancelled in the instant in which it was made has not even begun
        [("S-p|", "---|", ["cancelled"]), ("S-(p C |)", "--|", []), ("S-p#", "---#", ["cancelled"])],
    )
    def test_what_is_not_answered_when_the_session_ends_is_cancelled(
        self, marbles: Marbles, caplog: pytest.LogCaptureFixture, accepted: str, says: str, ends: list[str]
    ) -> None:
        slow = Slow(YES)
        agent = on_proposals(slow, fallback=lambda _accepted, _error: NO)
        marbles.expect(hears(marbles, agent, accepted)).to_be(says)
        marbles.check(slow.ended(*ends))
        check_nothing_logged(marbles, caplog)

    def test_what_is_not_answered_when_somebody_leaves_is_cancelled(self, marbles: Marbles) -> None:
        slow = Slow(YES)
        marbles.expect(hears(marbles, on_proposals(slow), "S-p----C|"), "^--!").to_be("-")
        marbles.check(slow.ended("cancelled"))

    def test_each_subscription_is_answered_for_itself(self, marbles: Marbles) -> None:
        counted: list[int] = []

        def answer(_proposal: object) -> Message:
            counted.append(1)
            return YES

        said = on_proposals(answer)(marbles.cold("S-p|", LEGEND))
        for _ in range(2):
            marbles.expect(said).to_be("--y|", SAID)
        marbles.check(lambda: None if len(counted) == 2 else str(counted))

    def test_what_is_no_message_is_not_said(self, session: DecisionSession) -> None:
        reported = Recorder()
        session.join(on_proposals(lambda _: "APPROVE"), on_error=reported.on_next)
        session.propose("p1", "canary")
        reported.wait_for(1)
        assert "is a Message, such as decision.vote" in str(reported.items[0])

    def test_history_is_answered_and_told_apart_from_what_is_live(self, session: DecisionSession) -> None:
        session.propose("p1", "canary")
        heard = Recorder()

        def answer(proposal: Accepted[ProposalPayload]) -> Message:
            heard.on_next((proposal.payload.proposal_id, proposal.live))
            return decision.evaluate(proposal.payload.proposal_id, "APPROVE", confidence=1)

        agent = session.acting_as("alice").join(on_proposals(answer))
        heard.wait_for(1)
        caught_up = session.events.pipe(ops.take(3), ops.to_list()).run()  # its answer is there, so it has caught up
        assert caught_up[-1].sender == "alice"
        session.propose("p2", "big bang")
        heard.wait_for(2)
        assert heard.items == [("p1", False), ("p2", True)]
        session.events.pipe(ops.take(5)).run()
        agent.dispose()


class TestOnState:
    def test_it_answers_what_has_become_of_the_session_until_it_is_committed_to(self, marbles: Marbles) -> None:
        def answer(state: decision.State) -> Message | None:
            return NO if state.vote_totals == {"p1": 1} else None

        agent = agents.on_state(decision).say(answer)
        marbles.expect(hears(marbles, agent, "-S-p-v-w-C|")).to_be("-----n-n-|", SAID)

    def test_several_are_said_in_order(self, marbles: Marbles) -> None:
        agent = agents.on_state(decision).say(lambda state: [FINE, YES] if state.proposals else [])
        marbles.expect(hears(marbles, agent, "-S-p---|")).to_be("---(e y)---|", SAID)

    def test_a_session_of_another_mode_ends_it(self, virtual_time: VirtualClock) -> None:
        failed = Recorder()
        agents.on_state(quorum).say(lambda _: None)(heard_at_once(virtual_time, _accepted("-S|"))).subscribe(failed)
        virtual_time.run_until_idle()
        assert isinstance(failed.error, MacpSessionError)


class TestOpening:
    def test_it_opens_with_these_messages_in_order(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, agents.opening(FINE, YES), "-S-p-v-C|")).to_be("-(e y)------|", SAID)
        marbles.expect(hears(marbles, agents.opening(), "-S-p-v-C|")).to_be("--------|")


class TestMergedByRxPY:
    """``rx.merge`` subscribes to its sources on the scheduler's next turn, and what an agent is told inside others comes once."""

    @pytest.mark.parametrize("wrap", [agents.merge, lambda agent: agents.from_start(lambda _start: agent)])
    def test_it_hears_the_first_envelope_inside_another(self, virtual_time: VirtualClock, wrap: Any) -> None:
        def merged(events: Observable[Accepted]) -> Observable[Message]:
            return rx.merge(agents.opening(YES)(events), rx.merge(on_proposals(lambda _: NO)(events)))

        said = Recorder()
        wrap(merged)(heard_at_once(virtual_time, _accepted("-S-p|"))).subscribe(said)
        virtual_time.run_until_idle()
        assert (said.items, said.completed) == ([YES, NO], True)


class TestMerge:
    def test_what_each_says_goes_out_as_it_comes(self, marbles: Marbles) -> None:
        agent = agents.merge(
            on_proposals(lambda _: FINE), on_proposals(Slow(YES, 1)), agents.on(VotePayload).say(lambda _: NO)
        )
        marbles.expect(hears(marbles, agent, "S-p--v-C|")).to_be("-- e y - n --|", SAID)

    def test_they_share_one_subscription(self, marbles: Marbles) -> None:
        source = marbles.hot("S-p-C|", LEGEND)
        agent = agents.merge(*(on_proposals(lambda _: FINE) for _ in range(3)))
        marbles.expect(agent(source)).to_be("--(e e e)--|", SAID)
        marbles.expect_subscriptions(source).to_be("^----!")

    def test_leaving_leaves_it(self, marbles: Marbles) -> None:
        source = marbles.hot("S-p-q-C|", LEGEND)
        marbles.expect(agents.merge(on_proposals(lambda _: FINE))(source), "^--!").to_be("--e-", SAID)
        marbles.expect_subscriptions(source).to_be("^--!")

    def test_an_error_of_one_ends_all(self, marbles: Marbles) -> None:
        source = marbles.hot("S-p-q-C|", LEGEND)
        broken = agents.on(ProposalPayload).say(lambda accepted: {"canary": YES}[accepted.payload.option])
        agent = agents.merge(on_proposals(lambda _: FINE), broken)
        error = KeyError("big bang")
        marbles.expect(agent(source)).to_be("--(e y)-(e #)", SAID, error=error)
        marbles.expect_subscriptions(source).to_be("^---!")

    def test_an_error_of_the_session_reaches_all(self, marbles: Marbles) -> None:
        told: list[str] = []

        def told_of(name: str) -> Agent:
            return lambda events: events.pipe(
                ops.do_action(on_error=lambda _: told.append(name)), ops.filter(lambda _: False), ops.map(lambda _: YES)
            )

        marbles.expect(agents.merge(told_of("one"), told_of("two"))(marbles.hot("S-p-#", LEGEND))).to_be("----#")
        marbles.check(lambda: None if told == ["one"] else str(told))  # whose error ends the other

    def test_it_ends_when_all_have_nothing_more_to_say(self, marbles: Marbles) -> None:
        once: Agent = lambda events: events.pipe(ops.take(1), ops.map(lambda _: YES))  # noqa: E731
        source = marbles.hot("-S-p-q-C|", LEGEND)
        marbles.expect(agents.merge(once, on_proposals(lambda _: FINE))(source)).to_be("-y-e-e--|", SAID)
        marbles.expect(agents.merge(once, once)(source)).to_be("-(y y |)", SAID)
        marbles.expect(agents.merge()(source)).to_be("|")

    def test_nothing_is_missed_of_what_comes_at_once(self, virtual_time: VirtualClock) -> None:
        """RxPY's merge subscribes when its scheduler comes to it, and would have heard nothing."""
        accepted = _accepted("-S-p-v|")
        for wrap in (lambda agent: agent, lambda agent: agents.from_start(lambda _start: agent), agents.merge):
            agent = wrap(
                agents.merge(on_proposals(lambda _: [FINE, YES]), agents.on(SessionStartPayload).say(lambda _: NO))
            )
            said = Recorder()
            agent(heard_at_once(virtual_time, accepted)).subscribe(said)
            virtual_time.run_until_idle()
            assert (said.items, said.completed) == ([NO, FINE, YES], True)

    def test_one_that_is_no_agent(self, virtual_time: VirtualClock) -> None:
        forgot_return: Any = lambda events: None  # noqa: E731
        forgot_say: Any = agents.on(ProposalPayload)
        for wrong, why in ((forgot_return, "not NoneType"), (forgot_say, "a function from events to messages")):
            for agent in (agents.merge(wrong), agents.from_start(lambda _start, wrong=wrong: wrong)):
                failed = Recorder()
                agent(heard_at_once(virtual_time, _accepted("-S|"))).subscribe(failed)
                virtual_time.run_until_idle()
                assert isinstance(failed.error, MacpSessionError)
                assert why in str(failed.error)


def _accepted(text: str) -> list[Accepted]:
    """These marbles as a list."""
    marbles, heard = Marbles(), Recorder()
    marbles.hot(text, LEGEND).subscribe(heard)
    marbles.clock.run_until_idle()
    return [one for one in heard.items if isinstance(one, Accepted)]


class TestFromStart:
    def test_it_is_made_of_the_start_and_hears_it_too(self, marbles: Marbles) -> None:
        def make(start: Accepted[SessionStartPayload]) -> Agent:
            assert list(start.payload.participants) == ["chair", "alice", "bob", "carol"]
            return agents.merge(on_proposals(lambda _: YES), agents.on(SessionStartPayload).say(lambda _: FINE))

        marbles.expect(hears(marbles, agents.from_start(make), "-S-p-C|")).to_be("-e-y--|", SAID)

    def test_one_subscription_of_its_source(self, marbles: Marbles) -> None:
        source = marbles.hot("-S-p-C|", LEGEND)
        agent = agents.from_start(
            lambda _start: agents.merge(on_proposals(lambda _: YES), on_proposals(lambda _: FINE))
        )
        marbles.expect(agent(source)).to_be("---(y e)--|", SAID)
        marbles.expect_subscriptions(source).to_be("^-----!")

    def test_a_session_that_does_not_begin_with_its_start(self, marbles: Marbles) -> None:
        source = marbles.hot("-p-q|", LEGEND)
        expected = (
            "an agent from_start needs a session's history from its SessionStart on, and heard "
            "Accepted(1, Proposal from chair) first"
        )
        agent = agents.from_start(lambda _start: on_proposals(lambda _: YES))
        marbles.expect(agent(source)).to_be("-#", error=MacpSessionError(expected))
        marbles.expect_subscriptions(source).to_be("^!")

    def test_making_that_raises(self, marbles: Marbles) -> None:
        def make(_start: Accepted[SessionStartPayload]) -> Agent:
            raise ValueError("no")

        marbles.expect(hears(marbles, agents.from_start(make), "-S-p-C|")).to_be("-#", error=ValueError("no"))

    def test_an_error_of_the_agent_and_of_the_session(self, marbles: Marbles) -> None:
        broken = agents.from_start(lambda _start: on_proposals(lambda _: [YES][1]))
        error = IndexError("list index out of range")
        marbles.expect(hears(marbles, broken, "-S-p-C|")).to_be("---#", error=error)
        marbles.expect(hears(marbles, agents.from_start(lambda _start: on_proposals(lambda _: YES)), "-S-#")).to_be(
            "---#"
        )

    def test_a_session_that_ends_before_it_began(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, agents.from_start(lambda _start: on_proposals(lambda _: YES)), "--|")).to_be(
            "--|"
        )

    def test_one_that_has_said_enough(self, marbles: Marbles) -> None:
        source = marbles.hot("-S-p-q-C|", LEGEND)

        def once(events: Observable[Accepted]) -> Observable[Message]:
            return on_proposals(lambda _: YES)(events).pipe(ops.take(1))

        marbles.expect(agents.from_start(lambda _start: once)(source)).to_be("---(y |)", SAID)
        marbles.expect_subscriptions(source).to_be("^--!")

    def test_each_subscription_makes_one_of_its_own(self, marbles: Marbles) -> None:
        made: list[object] = []

        def make(start: Accepted[SessionStartPayload]) -> Agent:
            made.append(start)
            return on_proposals(lambda _: YES)

        said = agents.from_start(make)(marbles.cold("S-p|", LEGEND))
        for _ in range(2):
            marbles.expect(said).to_be("--y|", SAID)
        marbles.check(lambda: None if len(made) == 2 else str(made))
