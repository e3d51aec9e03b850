"""The ready-made agents: by marbles, and each in a session on every runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import reactivex as rx
from macp.modes.decision.v1.decision_pb2 import ProposalPayload
from macp.modes.task.v1.task_pb2 import TaskRequestPayload
from reactivex import operators as ops

from macp_rx import (
    Accepted,
    Agent,
    DecisionSession,
    HandoffSession,
    MacpClient,
    MacpSessionError,
    MacpTimeoutError,
    Message,
    QuorumSession,
    TaskSession,
    agents,
)
from macp_rx.agents.ready import Update
from macp_rx.protocol.messages import HANDOFF, QUORUM, TASK
from macp_rx.protocol.modes import decision, handoff, quorum, task
from macp_rx.protocol.policy import AssignmentRules, build_task_policy
from macp_rx.testing import Marbles, Where, said
from tests.agents.listening import Slow, check_log, hears
from tests.conftest import Recorder
from tests.operators.voices import commit, start
from tests.runtime.conversation import register

BROKEN = ValueError("no model")

YES, NO = decision.vote("p1", "APPROVE"), decision.vote("p1", "REJECT")
FINE = decision.evaluate("p1", "APPROVE", confidence=0.9, reason="fine")

TALKS: dict[str, dict[str, Any]] = {
    "decision": {},
    "quorum": {
        "S": said("chair", start("chair", "alice", mode=QUORUM)),
        "p": said("chair", quorum.request_approval("r1", "deploy", required_approvals=1)),
        "C": said("chair", commit(QUORUM)),
    },
    "handoff": {
        "S": said("chair", start("chair", "alice", mode=HANDOFF)),
        "p": said("chair", handoff.offer("h1", "alice")),
        "q": said("chair", handoff.offer("h2", "bob")),
        "C": said("chair", commit(HANDOFF)),
    },
}

Make = Callable[..., Agent]


def target(decide: Any, **options: Any) -> Agent:
    return agents.handoff_target("alice", decide, **options)


DECIDERS: dict[str, tuple[Make, str, Any, Message, Any, Message, Any]] = {
    # what makes it, its talk, a decision and what it says, another decision for a fallback and what that says, a wrong one
    "voter": (agents.voter, "decision", "APPROVE", YES, "REJECT", NO, "approve"),
    "evaluator": (
        agents.evaluator,
        "decision",
        agents.Evaluation("APPROVE", 0.9, "fine"),
        FINE,
        agents.Evaluation("REVIEW", 0.0),
        decision.evaluate("p1", "REVIEW", confidence=0),
        ("APPROVE", 2.0),
    ),
    "approver": (
        agents.approver,
        "quorum",
        "APPROVE",
        quorum.approve("r1"),
        "ABSTAIN",
        quorum.abstain("r1"),
        "approve",
    ),
    "handoff target": (
        target,
        "handoff",
        True,
        handoff.accept_handoff("h1", accepted_by="alice"),
        False,
        handoff.decline("h1", declined_by="alice"),
        "no",
    ),
}

every_decider = pytest.mark.parametrize("decider", DECIDERS.values(), ids=DECIDERS)
Decider = tuple[Make, str, Any, Message, Any, Message, Any]


@every_decider
class TestDeciders:
    def test_a_plain_decision_is_said_at_once(self, marbles: Marbles, decider: Decider) -> None:
        make, talk, decided, says, *_ = decider
        marbles.expect(hears(marbles, make(lambda _: decided), "-S-p-C|", TALKS[talk])).to_be("---s--|", {"s": says})

    def test_an_async_one_when_it_is_there(self, marbles: Marbles, decider: Decider) -> None:
        make, talk, decided, says, *_ = decider
        marbles.expect(hears(marbles, make(Slow(decided)), "-S-p---C|", TALKS[talk])).to_be("-----s--|", {"s": says})

    def test_none_says_nothing(self, marbles: Marbles, decider: Decider) -> None:
        make, talk, *_ = decider
        for decide in (lambda _: None, Slow(None)):
            marbles.expect(hears(marbles, make(decide), "-S-p---C|", TALKS[talk])).to_be("--------|")

    def test_a_message_of_its_own_goes_out_as_it_is(self, marbles: Marbles, decider: Decider) -> None:
        make, talk, _decided, _says, _fallback, other, _wrong = decider
        for decide, when in ((lambda _: other, "---s----|"), (Slow(other), "-----s--|")):
            marbles.expect(hears(marbles, make(decide), "-S-p---C|", TALKS[talk])).to_be(when, {"s": other})

    def test_one_that_fails_ends_it(self, marbles: Marbles, decider: Decider) -> None:
        make, talk, *_ = decider
        marbles.expect(hears(marbles, make(Slow(BROKEN)), "-S-p---C|", TALKS[talk])).to_be("-----#", error=BROKEN)

    def test_its_fallback_is_said_where_it_fails(
        self, marbles: Marbles, caplog: pytest.LogCaptureFixture, decider: Decider
    ) -> None:
        make, talk, _decided, _says, fallback, instead, _wrong = decider

        def broken(_: object) -> Any:
            raise BROKEN

        for decide, when in ((broken, "---s----|"), (Slow(BROKEN), "-----s--|")):
            agent = make(decide, fallback=fallback)
            marbles.expect(hears(marbles, agent, "-S-p---C|", TALKS[talk])).to_be(when, {"s": instead})
        check_log(marbles, caplog, "no model; the fallback is said", "no model; the fallback is said")

    def test_a_fallback_that_nobody_can_say_is_told_when_it_is_made(self, decider: Decider) -> None:
        make, *_, wrong = decider
        with pytest.raises(MacpSessionError):
            make(lambda _: None, fallback=wrong)

    def test_and_where_it_takes_too_long(
        self, marbles: Marbles, caplog: pytest.LogCaptureFixture, decider: Decider
    ) -> None:
        make, talk, decided, _says, fallback, instead, _wrong = decider
        agent = make(Slow(decided), fallback=fallback, timeout=0.001)
        marbles.expect(hears(marbles, agent, "-S-p---C|", TALKS[talk])).to_be("----s---|", {"s": instead})
        check_log(marbles, caplog, "no answer within 0.001 s; the fallback is said")

    def test_without_one_taking_too_long_ends_it(self, marbles: Marbles, decider: Decider) -> None:
        make, talk, decided, *_ = decider
        agent = make(Slow(decided), timeout=0.001)
        expected = MacpTimeoutError("no answer within 0.001 s")
        marbles.expect(hears(marbles, agent, "-S-p---C|", TALKS[talk])).to_be("----#", error=expected)

    def test_what_nobody_can_say_has_failed_too(
        self, marbles: Marbles, caplog: pytest.LogCaptureFixture, decider: Decider
    ) -> None:
        make, talk, _decided, _says, fallback, instead, wrong = decider
        marbles.expect(
            hears(marbles, make(lambda _: wrong), "-S-p-C|", TALKS[talk]).pipe(
                ops.catch(lambda error, _source: rx.of(type(error)))
            )
        ).to_be("---(e |)", {"e": MacpSessionError})
        agent = make(lambda _: wrong, fallback=fallback)
        marbles.expect(hears(marbles, agent, "-S-p-C|", TALKS[talk])).to_be("---s--|", {"s": instead})
        check_log(marbles, caplog, "the fallback is said")

    def test_what_is_not_decided_when_the_session_ends_is_cancelled(self, marbles: Marbles, decider: Decider) -> None:
        make, talk, decided, *_ = decider
        slow = Slow(decided)
        marbles.expect(hears(marbles, make(slow), "-S-p|", TALKS[talk])).to_be("----|")
        marbles.check(slow.ended("cancelled"))

    def test_one_dropped_in_the_instant_in_which_it_was_asked(self, marbles: Marbles, decider: Decider) -> None:
        make, talk, decided, *_ = decider
        marbles.expect(hears(marbles, make(Slow(decided)), "-S-(p C |)", TALKS[talk])).to_be("---|")


class TestVoter:
    def test_it_gives_its_reason(self, marbles: Marbles) -> None:
        agent = agents.voter(lambda _: "APPROVE", reason="as always")
        says = decision.vote("p1", "APPROVE", reason="as always")
        marbles.expect(hears(marbles, agent, "-S-p-C|")).to_be("---s--|", {"s": says})

    def test_it_votes_once_on_each_proposal_in_the_order_in_which_it_decides(self, marbles: Marbles) -> None:
        def decide(proposal: Accepted[ProposalPayload]) -> Any:
            return Slow("REJECT", 5)(proposal) if proposal.payload.proposal_id == "p1" else "APPROVE"

        says = {"a": decision.vote("p2", "APPROVE"), "r": NO}
        marbles.expect(hears(marbles, agents.voter(decide), "-S-p-q-----C|")).to_be("-----a--r---|", says)

    def test_only_so_many_decisions_at_a_time(self, marbles: Marbles) -> None:
        agent = agents.voter(Slow("APPROVE"), concurrency=1)
        says = {"s": YES, "t": decision.vote("p2", "APPROVE")}
        marbles.expect(hears(marbles, agent, "-S-(p q)-----C|")).to_be("-----s-t--|", says)

    def test_it_votes_in_a_session(self, session: DecisionSession) -> None:
        session.acting_as("alice").join(agents.voter(lambda _: "REJECT", reason="no"))
        session.propose("p1", "canary")
        session.events.pipe(ops.take(3)).run()
        vote = session.state().votes["p1"]["alice"]
        assert (vote.vote, vote.reason) == ("REJECT", "no")


class TestEvaluator:
    def test_a_plain_tuple_will_do(self, session: DecisionSession) -> None:
        session.acting_as("alice").join(agents.evaluator(lambda _: ("BLOCK", 0.5)))  # type: ignore[arg-type,return-value]
        session.propose("p1", "canary")
        session.events.pipe(ops.take(3)).run()
        (said,) = session.state().evaluations or ()
        assert (said.sender, said.recommendation, said.confidence) == ("alice", "BLOCK", 0.5)

    def test_it_may_object_instead(self, session: DecisionSession) -> None:
        def evaluate(proposal: Accepted[ProposalPayload]) -> Message:
            return decision.raise_objection(proposal.payload.proposal_id, reason="untested", severity="critical")

        session.acting_as("alice").join(agents.evaluator(evaluate))
        session.propose("p1", "canary")
        session.events.pipe(ops.take(3)).run()
        assert session.state().has_blocking_objection("p1")


class TestApprover:
    @pytest.mark.parametrize(
        ("ballot", "choice"), [("APPROVE", "Approve"), ("REJECT", "Reject"), ("ABSTAIN", "Abstain")]
    )
    def test_its_ballot_is_cast(self, client: MacpClient, ballot: str, choice: str) -> None:
        session = QuorumSession(client)
        session.start(intent="deploy", participants=["alice", "bob"], ttl_ms=60_000)
        session.acting_as("alice").join(agents.approver(lambda _: ballot, reason="so"))
        session.request_approval("r1", "deploy", required_approvals=1)
        session.events.pipe(ops.take(3)).run()
        assert session.state().ballots["alice"] == quorum.Ballot(choice, "so")


class TestHandoffTarget:
    def test_what_is_offered_to_others_is_not_its_business(self, marbles: Marbles) -> None:
        asked: list[str] = []

        def decide(offer: Accepted[Any]) -> bool:
            asked.append(offer.payload.handoff_id)
            return True

        marbles.expect(hears(marbles, target(decide), "-S-q-p-C|", TALKS["handoff"])).to_be(
            "-----s--|", {"s": handoff.accept_handoff("h1", accepted_by="alice")}
        )
        marbles.check(lambda: None if asked == ["h1"] else str(asked))

    def test_declined_by_one_and_accepted_by_another(self, client: MacpClient) -> None:
        session = HandoffSession(client)
        session.start(intent="shift", participants=["chair", "alice", "bob"], ttl_ms=60_000)
        for name, takes in (("alice", False), ("bob", True)):
            session.acting_as(name).join(agents.handoff_target(name, lambda _, takes=takes: takes, reason="so"))
        session.offer("h1", "alice")
        session.states.pipe(ops.filter(lambda state: state.is_declined("h1")), ops.take(1)).run()
        session.offer("h2", "bob")
        state = session.states.pipe(ops.filter(lambda state: state.is_accepted("h2")), ops.take(1)).run()
        assert state.handoffs["h2"].settled_by == "bob"


def is_commitment(action: str, positive: bool) -> Where:
    return Where(
        lambda said: said.payload.action == action and said.payload.outcome_positive is positive,
        f"a commitment to {action}",
    )


def committer(**options: Any) -> Agent:
    return agents.majority_committer(action="rollout.approved", **options)


class TestMajorityCommitter:
    DONE = is_commitment("rollout.approved", True)
    OFF = is_commitment("rollout.declined", False)

    def test_as_soon_as_a_majority_of_the_participants_is_certain(self, marbles: Marbles) -> None:
        agent = committer(electorate=None)
        legend = {"S": said("chair", start("alice", "bob", "carol"))}
        marbles.expect(hears(marbles, agent, "-S-p-v-w-y-C|", legend)).to_be("---------(d |)", {"d": self.DONE})

    def test_it_commits_once(self, marbles: Marbles) -> None:
        agent = committer(electorate=1)
        marbles.expect(hears(marbles, agent, "-S-(p q)-v-z-y|")).to_be("-----(d |)", {"d": self.DONE})

    @pytest.mark.parametrize("electorate", [3, ["alice", "bob", "carol"], {"alice", "bob", "carol"}])
    def test_of_an_electorate(self, marbles: Marbles, electorate: Any) -> None:
        marbles.expect(hears(marbles, committer(electorate=electorate), "-S-p-v-w-y-C|")).to_be(
            "---------(d |)", {"d": self.DONE}
        )

    def test_who_is_not_of_it_does_not_count(self, marbles: Marbles) -> None:
        agent = committer(electorate=["carol", "bob"], declined="rollout.declined")
        marbles.expect(hears(marbles, agent, "-S-p-v-w-y-C|")).to_be("-------(d |)", {"d": self.OFF})

    def test_a_majority_that_is_out_of_reach_commits_to_nothing(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, committer(electorate=3), "-S-p-w-x-v|")).to_be("----------|")

    def test_unless_it_is_told_to_what(self, marbles: Marbles) -> None:
        agent = committer(electorate=3, declined="rollout.declined")
        marbles.expect(hears(marbles, agent, "-S-p-w-x-v|")).to_be("-------(d |)", {"d": self.OFF})

    def test_a_proposal_that_is_lost_keeps_nobody_from_another(self, marbles: Marbles) -> None:
        legend = {
            "1": said("alice", decision.vote("p2", "REJECT")),
            "2": said("bob", decision.vote("p1", "APPROVE")),
        }
        for declined in (None, "rollout.declined"):
            agent = committer(electorate=1, declined=declined)
            marbles.expect(hears(marbles, agent, "-S-(p q)-1-2-C|", legend)).to_be("-------(d |)", {"d": self.DONE})

    def test_it_declines_when_all_are_lost(self, marbles: Marbles) -> None:
        legend = {"1": said("alice", decision.vote("p2", "REJECT"))}
        agent = committer(electorate=1, declined="rollout.declined")
        marbles.expect(hears(marbles, agent, "-S-(p q)-1-w-C|", legend)).to_be("-------(d |)", {"d": self.OFF})

    def test_it_gives_up(self, marbles: Marbles) -> None:
        agent = committer(electorate=3, timeout=0.005)
        marbles.expect(hears(marbles, agent, "-S-p-v-------y-C|")).to_be("------|")
        in_time = committer(electorate=3, timeout=0.02)
        marbles.expect(hears(marbles, in_time, "-S-p-v-------y-C|")).to_be("-------------(d |)", {"d": self.DONE})

    @pytest.mark.parametrize("blank", ["action", "declined", "authority_scope"])
    def test_a_commitment_to_nothing_is_told_when_it_is_made(self, blank: str) -> None:
        with pytest.raises(MacpSessionError, match=f"{blank} must not be blank"):
            agents.majority_committer(**{"action": "go", blank: ""})

    def test_a_wrong_electorate_is_told(self, marbles: Marbles) -> None:
        agent = committer(electorate="alice")
        failed = hears(marbles, agent, "-S|").pipe(ops.catch(lambda error, _source: rx.of(type(error))))
        marbles.expect(failed).to_be("-(e |)", {"e": MacpSessionError})

    def test_it_decides_a_session(self, client: MacpClient) -> None:
        session = DecisionSession(client, policy_version="policy.std.majority")
        session.start(intent="rollout", participants=["chair", "alice", "bob"], ttl_ms=60_000)
        panel: dict[str, Agent] = {
            "chair": committer(declined="rollout.declined", authority_scope="production"),
            "alice": agents.voter(lambda _: "APPROVE"),
            "bob": agents.voter(lambda _: "APPROVE"),
        }
        session.propose("p1", "canary")
        outcome = agents.run(session, panel)
        assert outcome.positive
        assert outcome.commitment is not None
        assert (outcome.commitment.action, outcome.commitment.authority_scope) == ("rollout.approved", "production")


REQUEST = task.request_task("t1", "sum", input_data=b"1 2")
TASK_TALK = {
    "S": said("chair", start("alice", "bob", mode=TASK)),
    "r": said("chair", REQUEST),
    "m": said("chair", task.request_task("t1", "sum", requested_assignee="alice")),
    "o": said("chair", task.request_task("t1", "sum", requested_assignee="bob")),
    "i": said("alice", REQUEST),
    "a": said("alice", task.accept_task("t1", assignee="alice")),
    "b": said("bob", task.accept_task("t1", assignee="bob")),
    "x": said("bob", task.reject_task("t1", assignee="bob")),
    "y": said("alice", task.reject_task("t1", assignee="alice")),
    "C": said("chair", commit(TASK)),
}
TAKES = task.accept_task("t1", assignee="alice")
DONE = task.complete_task("t1", assignee="alice", output=b"3")
SAYS = {"t": TAKES, "d": DONE}


def worker(work: Any, **options: Any) -> Agent:
    return agents.task_worker("alice", work, **options)


def add(_request: Accepted[TaskRequestPayload], _update: Update) -> bytes:
    return b"3"


class TestTaskWorker:
    def test_it_takes_the_task_and_begins_when_that_is_accepted(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, worker(add), "-S-r--a-C|", TASK_TALK)).to_be("---t--d--|", SAYS)

    def test_one_that_is_meant_for_it(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, worker(add), "-S-m--a-C|", TASK_TALK)).to_be("---t--d--|", SAYS)

    @pytest.mark.parametrize("request_", ["o", "i"])
    def test_one_that_is_meant_for_another_or_its_own(self, marbles: Marbles, request_: str) -> None:
        source = hears(marbles, worker(add), f"-S-{request_}--b-C|", TASK_TALK)
        marbles.expect(source).to_be("---------|")

    def test_what_somebody_else_has_taken_it_does_not_do(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, worker(add), "-S-r--b-C|", TASK_TALK)).to_be("---t-----|", SAYS)

    def test_async_work_with_progress(self, marbles: Marbles) -> None:
        async def work(request: Accepted[TaskRequestPayload], update: Update) -> bytes:
            update(0.5, "half of it", status="adding")
            return bytes(await Slow(b"3")(request))

        half = task.update_task("t1", status="adding", progress=0.5, message="half of it")
        marbles.expect(hears(marbles, worker(work), "-S-r-a----C|", TASK_TALK)).to_be(
            "---t-u-d---|", {**SAYS, "u": half}
        )

    def test_plain_work_with_progress(self, marbles: Marbles) -> None:
        def work(_request: Accepted[TaskRequestPayload], update: Update) -> None:
            update(1)

        says = {**SAYS, "u": task.update_task("t1", progress=1), "e": task.complete_task("t1", assignee="alice")}
        marbles.expect(hears(marbles, worker(work), "-S-r-a-C|", TASK_TALK)).to_be("---t-(u e)--|", says)

    def test_a_report_of_its_own(self, marbles: Marbles) -> None:
        failed = task.fail_task("t1", assignee="alice", error_code="E1", retryable=True)
        for work, when in ((lambda *_: failed, "---t-f---|"), (Slow(failed), "---t---f-|")):
            marbles.expect(hears(marbles, worker(work), "-S-r-a--C|", TASK_TALK)).to_be(when, {**SAYS, "f": failed})

    @pytest.mark.parametrize(
        ("error", "code", "reason"), [(BROKEN, "ValueError", "no model"), (ValueError(), "ValueError", "ValueError")]
    )
    def test_work_that_fails_is_reported_as_failed(
        self, marbles: Marbles, caplog: pytest.LogCaptureFixture, error: Exception, code: str, reason: str
    ) -> None:
        failed = task.fail_task("t1", assignee="alice", error_code=code, reason=reason)
        marbles.expect(hears(marbles, worker(Slow(error)), "-S-r-a---C|", TASK_TALK)).to_be(
            "---t---f--|", {**SAYS, "f": failed}
        )
        check_log(marbles, caplog, "the fallback is said")

    def test_work_that_takes_too_long(self, marbles: Marbles) -> None:
        slow = Slow(b"3")
        failed = task.fail_task(
            "t1",
            assignee="alice",
            error_code="MacpTimeoutError",
            reason=str(MacpTimeoutError("no answer within 0.001 s")),
        )
        marbles.expect(hears(marbles, worker(slow, timeout=0.001), "-S-r-a---C|", TASK_TALK)).to_be(
            "---t--f---|", {**SAYS, "f": failed}
        )
        marbles.check(slow.ended("cancelled"))

    def test_what_else_to_say_then(self, marbles: Marbles) -> None:
        back = task.reject_task("t1", assignee="alice")
        errors: list[Exception] = []

        def give_back(_request: object, error: Exception) -> Message:
            errors.append(error)
            return back

        agent = worker(Slow(BROKEN), fallback=give_back)
        marbles.expect(hears(marbles, agent, "-S-r-a----y-C|", TASK_TALK)).to_be("---t---g-----|", {**SAYS, "g": back})
        marbles.check(lambda: None if errors == [BROKEN] else str(errors))

    def test_what_another_has_given_back_it_takes_over_if_it_may(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, worker(add), "-S-r-b-x-a-C|", TASK_TALK)).to_be("---t-----d--|", SAYS)
        agent = worker(add, takes_over=True)
        marbles.expect(hears(marbles, agent, "-S-r-b-x-a-C|", TASK_TALK)).to_be("---t---t-d--|", SAYS)

    def test_one_that_stands_by_takes_only_what_is_given_back_or_meant_for_it(self, marbles: Marbles) -> None:
        agent = worker(add, takes_over=True, volunteers=False)
        marbles.expect(hears(marbles, agent, "-S-r-b-x-a-C|", TASK_TALK)).to_be("-------t-d--|", SAYS)
        marbles.expect(hears(marbles, agent, "-S-m--a-C|", TASK_TALK)).to_be("---t--d--|", SAYS)

    def test_who_never_had_it_does_not_give_it_back(self, marbles: Marbles) -> None:
        agent = worker(add, takes_over=True)
        marbles.expect(hears(marbles, agent, "-S-r-x-a-C|", TASK_TALK)).to_be("---t---d--|", SAYS)

    def test_what_it_gave_back_itself_it_does_not_take_again(self, marbles: Marbles) -> None:
        back = task.reject_task("t1", assignee="alice")
        agent = worker(lambda *_: back, takes_over=True)
        marbles.expect(hears(marbles, agent, "-S-r-a-y-C|", TASK_TALK)).to_be("---t-g----|", {**SAYS, "g": back})

    def test_what_is_not_done_when_the_session_ends_is_cancelled(self, marbles: Marbles) -> None:
        slow = Slow(b"3")
        marbles.expect(hears(marbles, worker(slow), "-S-r-a|", TASK_TALK)).to_be("---t--|", SAYS)
        marbles.check(slow.ended("cancelled"))

    def test_an_update_behind_the_end_is_dropped(self, marbles: Marbles) -> None:
        kept: list[Update] = []

        def work(_request: object, update: Update) -> bytes:
            kept.append(update)
            return b"3"

        marbles.expect(hears(marbles, worker(work), "-S-r-a-C|--", TASK_TALK)).to_be("---t-d--|", SAYS)
        marbles.act("----------u", {"u": lambda: kept[0](0.5)})

    def test_progress_that_nobody_can_say(self, marbles: Marbles) -> None:
        def work(_request: object, update: Update) -> None:
            update(float("nan"))

        failed = Where(lambda said: "progress nan" in said.payload.reason, "a failure because of nan")
        marbles.expect(hears(marbles, worker(work), "-S-r-a-C|", TASK_TALK)).to_be("---t-f--|", {**SAYS, "f": failed})

    def test_other_modes_are_not_its_business(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, worker(add), "-S-p-v-C|")).to_be("--------|")

    def test_an_error_of_the_session_is_its_own(self, marbles: Marbles) -> None:
        marbles.expect(hears(marbles, worker(Slow(b"3")), "-S-r-a#", TASK_TALK)).to_be("---t--#", SAYS)

    def test_a_plain_observable_has_no_clock(self) -> None:
        with pytest.raises(MacpSessionError, match="task_worker needs a clock"):
            worker(add)(rx.empty())

    def test_it_works_in_a_session(self, client: MacpClient) -> None:
        """Progress is told by a thread, as whoever computes something will have one."""
        session = TaskSession(client)
        session.start(intent="sum", participants=["alice", "bob"], ttl_ms=60_000)

        def compute(update: Update) -> bytes:
            update(0.5, "half")
            update(1.0, "whole")
            return b"3"

        async def work(_request: Accepted[TaskRequestPayload], update: Update) -> bytes:
            return await asyncio.to_thread(compute, update)

        session.acting_as("alice").join(agents.task_worker("alice", work))
        session.request_task("t1", "sum")
        state = session.states.pipe(ops.filter(lambda state: state.report is not None), ops.take(1)).run()
        assert [update.message for _who, update in state.updates or ()] == ["half", "whole"]
        assert (state.reporter, state.is_completed) == ("alice", True)

    def test_one_gives_it_back_and_another_takes_it_over(self, client: MacpClient) -> None:
        policy = register(client, build_task_policy, assignment=AssignmentRules(allow_reassignment_on_reject=True))
        session = TaskSession(client, policy_version=policy)
        session.start(intent="sum", participants=["alice", "bob"], ttl_ms=60_000)
        refused = Recorder()

        def give_back(request: Accepted[TaskRequestPayload], _error: Exception) -> Message:
            return task.reject_task(request.payload.task_id)

        session.acting_as("alice").join(
            agents.task_worker("alice", Slow(BROKEN, 1), fallback=give_back), on_error=refused.on_next
        )
        session.request_task("t1", "sum")
        session.states.pipe(ops.filter(lambda state: state.current_assignee == "alice"), ops.take(1)).run()
        session.acting_as("bob").join(agents.task_worker("bob", add, takes_over=True), on_error=refused.on_next)
        state = session.states.pipe(ops.filter(lambda state: state.report is not None), ops.take(1)).run()
        assert (state.reporter, state.is_completed) == ("bob", True)
        assert state.declined_participants == ("alice",)

    def test_two_want_it_and_one_has_it(self, client: MacpClient) -> None:
        session = TaskSession(client)
        session.start(intent="sum", participants=["alice", "bob"], ttl_ms=60_000)
        refused = Recorder()
        for name in ("alice", "bob"):
            session.acting_as(name).join(agents.task_worker(name, add), on_error=refused.on_next)
        session.request_task("t1", "sum")
        state = session.states.pipe(ops.filter(lambda state: state.report is not None), ops.take(1)).run()
        assert state.reporter in ("alice", "bob")
        refused.wait_for(1)
        assert "INVALID_ENVELOPE" in str(refused.items[0])
