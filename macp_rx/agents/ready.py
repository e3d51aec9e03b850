"""Ready-made agents, for what most coordinations need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from functools import partial
from inspect import isawaitable
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from google.protobuf.message import Message as Protobuf
from macp.modes.decision.v1.decision_pb2 import ProposalPayload, VotePayload
from macp.modes.handoff.v1.handoff_pb2 import HandoffOfferPayload
from macp.modes.quorum.v1.quorum_pb2 import ApprovalRequestPayload
from macp.modes.task.v1.task_pb2 import TaskAcceptPayload, TaskRejectPayload, TaskRequestPayload
from macp.v1.core_pb2 import SessionStartPayload
from reactivex import Observable, Subject, abc
from reactivex import operators as ops
from reactivex.disposable import CompositeDisposable

from macp_rx import operators as mo
from macp_rx.agents.speaking import CONCURRENCY, Answer, Then, from_start, log_fallback, on
from macp_rx.errors import MacpSessionError
from macp_rx.operators.deciding import Verdict
from macp_rx.operators.lift import lift, like, on_clock
from macp_rx.protocol.messages import Accepted, Message
from macp_rx.protocol.modes import decision, handoff, quorum, task
from macp_rx.session import Agent

__all__ = [
    "Evaluation",
    "Update",
    "approver",
    "evaluator",
    "handoff_target",
    "majority_committer",
    "task_worker",
    "voter",
]

P = TypeVar("P", bound=Protobuf)
D = TypeVar("D")


def _decider(
    on_what: on[P],
    subject: Callable[[P], str],
    decide: Callable[[Accepted[P]], D | Message[Any] | Awaitable[D | Message[Any] | None] | None],
    say: Callable[[str, D], Message[Any]],
    fallback: D | None,
    timeout: float | None,
    concurrency: int,
) -> Agent:
    """An agent that decides about something, which has an id, and puts the decision into words."""
    if fallback is not None:
        say("any", fallback)  # one that cannot be said is told now, and not when it is needed

    def word(about: Accepted[P], decided: D | Message[Any] | None) -> Answer:
        if decided is None:
            return None
        if isinstance(decided, Message):
            return decided  # pyright: ignore[reportUnknownVariableType]
        try:
            return say(subject(about.payload), decided)
        except TypeError as error:  # protobuf says "bad argument type for built-in operation"
            named = getattr(decide, "__qualname__", repr(decide))
            raise MacpSessionError(
                f"{named} answered {decided!r}: that is no decision, no Message and not None"
            ) from error

    def answer(about: Accepted[P]) -> Answer | Awaitable[Answer]:
        decided = decide(about)
        return Then(decided, partial(word, about)) if isawaitable(decided) else word(about, decided)

    def instead(about: Accepted[P], _error: Exception) -> Answer:
        return word(about, fallback)

    return on_what.say(answer, concurrency=concurrency, timeout=timeout, fallback=None if fallback is None else instead)


def voter(
    decide: Callable[[Accepted[ProposalPayload]], str | Message[Any] | Awaitable[str | Message[Any] | None] | None],
    *,
    reason: str = "",
    fallback: str | None = None,
    timeout: float | None = None,
    concurrency: int = CONCURRENCY,
) -> Agent:
    """An agent that votes once on each proposal of a decision.

        accepted   S-p-----q---
        says       --v-----v---

    Args:
        decide: looks at a proposal and answers APPROVE, REJECT or ABSTAIN; None, and it does not vote; or a message, such as
            ``decision.vote`` with a reason of its own. Plain or async.
        reason: what it gives as its reason.
        fallback: its vote where ``decide`` failed or took too long; without it that ends the agent.
        timeout: seconds that an async ``decide`` may take.
        concurrency: how many of those may run at a time.
    """

    def say(proposal_id: str, vote: str) -> Message[Any]:
        return decision.vote(proposal_id, vote, reason=reason)

    return _decider(on(ProposalPayload), attrgetter("proposal_id"), decide, say, fallback, timeout, concurrency)


class Evaluation(NamedTuple):
    """What an evaluator thinks.

    Attributes:
        recommendation: APPROVE, REVIEW, BLOCK or REJECT.
        confidence: in [0, 1].
        reason: why.
    """

    recommendation: str
    confidence: float
    reason: str = ""


def evaluator(
    evaluate: Callable[
        [Accepted[ProposalPayload]], Evaluation | Message[Any] | Awaitable[Evaluation | Message[Any] | None] | None
    ],
    *,
    fallback: Evaluation | None = None,
    timeout: float | None = None,
    concurrency: int = CONCURRENCY,
) -> Agent:
    """An agent that evaluates each proposal of a decision.

        accepted   S-p-----q---
        says       --e-----e---

    Args:
        evaluate: looks at a proposal and answers an Evaluation; None, and it is silent; or a message, such as an objection.
            Plain or async.
        fallback: its evaluation where ``evaluate`` failed or took too long; without it that ends the agent.
        timeout: seconds that an async ``evaluate`` may take.
        concurrency: how many of those may run at a time.
    """

    def say(proposal_id: str, found: Evaluation) -> Message[Any]:
        recommendation, confidence, reason = Evaluation(*found)
        return decision.evaluate(proposal_id, recommendation, confidence=confidence, reason=reason)

    return _decider(on(ProposalPayload), attrgetter("proposal_id"), evaluate, say, fallback, timeout, concurrency)


def approver(
    decide: Callable[
        [Accepted[ApprovalRequestPayload]], str | Message[Any] | Awaitable[str | Message[Any] | None] | None
    ],
    *,
    reason: str = "",
    fallback: str | None = None,
    timeout: float | None = None,
    concurrency: int = CONCURRENCY,
) -> Agent:
    """An agent that casts its ballot on the request of a quorum session.

        accepted   S-r-----
        says       --a-----

    Args:
        decide: looks at a request and answers APPROVE, REJECT or ABSTAIN; None, and it casts none; or a message. Plain or
            async.
        reason: what it gives as its reason.
        fallback: its ballot where ``decide`` failed or took too long; without it that ends the agent.
        timeout: seconds that an async ``decide`` may take.
        concurrency: how many of those may run at a time.
    """
    ballots = {"APPROVE": quorum.approve, "REJECT": quorum.reject, "ABSTAIN": quorum.abstain}

    def say(request_id: str, ballot: str) -> Message[Any]:
        make = ballots.get(ballot)
        if make is None:
            raise MacpSessionError(f"ballot {ballot!r} is none of {', '.join(ballots)}; the case counts")
        return make(request_id, reason=reason)

    return _decider(on(ApprovalRequestPayload), attrgetter("request_id"), decide, say, fallback, timeout, concurrency)


def handoff_target(
    me: str,
    decide: Callable[
        [Accepted[HandoffOfferPayload]], bool | Message[Any] | Awaitable[bool | Message[Any] | None] | None
    ],
    *,
    reason: str = "",
    fallback: bool | None = None,
    timeout: float | None = None,
    concurrency: int = CONCURRENCY,
) -> Agent:
    """An agent that accepts or declines what is offered to it in a handoff.

        accepted   S-o-----
        says       --a-----

    Args:
        me: its name: what is offered to others is not its business.
        decide: looks at an offer and answers whether it takes it; None, and it is silent, which a policy may take for a yes; or a
            message. Plain or async.
        reason: what it gives as its reason.
        fallback: its answer where ``decide`` failed or took too long; without it that ends the agent.
        timeout: seconds that an async ``decide`` may take.
        concurrency: how many of those may run at a time.
    """

    def for_me(
        offer: Accepted[HandoffOfferPayload],
    ) -> bool | Message[Any] | Awaitable[bool | Message[Any] | None] | None:
        return decide(offer) if offer.payload.target_participant == me else None

    def say(handoff_id: str, taken: bool) -> Message[Any]:
        if not isinstance(taken, bool):  # a text such as "no" would be a yes
            raise MacpSessionError(f"whether {me!r} takes an offer is True or False, not {taken!r}")
        if taken:
            return handoff.accept_handoff(handoff_id, accepted_by=me, reason=reason)
        return handoff.decline(handoff_id, declined_by=me, reason=reason)

    return _decider(on(HandoffOfferPayload), attrgetter("handoff_id"), for_me, say, fallback, timeout, concurrency)


def majority_committer(
    *,
    action: str,
    declined: str | None = None,
    electorate: int | Collection[str] | None = None,
    authority_scope: str = "session",
    timeout: float | timedelta | None = None,
) -> Agent:
    """An agent that commits as soon as a majority of a decision is certain.

        accepted   S-p-v-w-y---
        says       ----------C-

    Args:
        action: what it commits to when a majority is for a proposal, such as ``rollout.approved``.
        declined: the same where a majority is out of reach for every proposal; without it that commits to nothing.
        electorate: who may vote, by name, or how many they are; all participants by default.
        authority_scope: what the commitment binds.
        timeout: seconds after which it gives up, from when it hears of the session; None waits as long as the session lives.
    """

    says = mo.commit_if_decided(action=action, declined=declined, authority_scope=authority_scope)

    def committer(start: Accepted[SessionStartPayload]) -> Agent:
        proposals: dict[str, None] = {}  # those that are not out of the race; none can follow once voting has begun

        def note(accepted: Accepted) -> None:
            if accepted.kind == (decision.MODE, "Proposal") and isinstance(accepted.payload, ProposalPayload):
                proposals[accepted.payload.proposal_id] = None

        def settles(verdict: Verdict) -> bool:
            proposals.pop(verdict.proposal_id, None)
            return verdict.positive or not proposals

        def agent(events: Observable[Accepted]) -> Observable[Message[Any]]:
            noted: Observable[Accepted] = events.pipe(ops.do_action(note))
            verdicts: Observable[Verdict] = noted.pipe(
                mo.of_type(VotePayload),
                mo.majority(tuple(start.payload.participants) if electorate is None else electorate),
                ops.filter(settles),
            )
            if timeout is None:
                decided: Observable[Verdict | mo.Undecided] = verdicts.pipe(ops.map(_as_it_is))
            else:
                decided = verdicts.pipe(mo.within(timeout, otherwise=mo.UNDECIDED))
            return decided.pipe(says, ops.take(1))

        return agent

    return from_start(committer)


def _as_it_is(verdict: Verdict) -> Verdict | mo.Undecided:
    return verdict


class Update(Protocol):
    """What a worker tells how far it is with: ``update(0.5, "half of it", status="building")``, from any thread."""

    def __call__(self, progress: float, message: str = "", *, status: str = "") -> None:
        """Says a TaskUpdate. Raises MacpSessionError for infinity and NaN."""


def task_worker(
    me: str,
    work: Callable[
        [Accepted[TaskRequestPayload], Update], bytes | Message[Any] | Awaitable[bytes | Message[Any] | None] | None
    ],
    *,
    takes_over: bool = False,
    volunteers: bool = True,
    timeout: float | None = None,
    fallback: Callable[[Accepted[TaskRequestPayload], Exception], Message[Any]] | None = None,
) -> Agent:
    """An agent that takes a task on, does it, and reports.

        accepted   S-r-a-------
        says       --a---u-u-c-

    It accepts a request that is meant for it or for anybody, and begins when the runtime has accepted that. What is accepted of
    somebody else's is nobody's loss: the runtime refuses the second.

    Args:
        me: its name.
        work: does a task and answers its output; or a message, such as ``task.fail_task``. Plain or async. It is
            handed the request, and a function to tell how far it is: ``update(progress, message="", status="")``.
        takes_over: also accept a task that somebody else has given back. A policy must allow it.
        volunteers: accept a request that is for anybody; without it, only one that names this agent.
        timeout: seconds that an async ``work`` may take.
        fallback: what to say where ``work`` failed or took too long, such as ``task.reject_task``, which gives the task back;
            by default that the task failed, with the error's name and text.
    """

    def agent(events: Observable[Accepted]) -> Observable[Message[Any]]:
        clock = on_clock(events, None, "task_worker")

        def subscribe(
            observer: abc.ObserverBase[Message[Any]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            mine: Subject[Accepted[TaskRequestPayload]] = Subject()
            desk = _Desk(me, takes_over, volunteers)

            def on_next(accepted: Accepted) -> None:
                try:
                    said, assigned = desk.hear(accepted)
                except Exception as error:
                    observer.on_error(error)
                    return
                if said is not None:
                    observer.on_next(said)
                if assigned is not None:
                    mine.on_next(assigned)

            def do(request: Accepted[TaskRequestPayload]) -> Message[Any] | Awaitable[Message[Any]]:
                task_id = request.payload.task_id

                def update(progress: float, message: str = "", *, status: str = "") -> None:
                    said = task.update_task(task_id, status=status, progress=progress, message=message)
                    clock.run_soon(lambda: observer.on_next(said))

                def report(done: bytes | Message[Any] | None) -> Message[Any]:
                    if isinstance(done, Message):
                        return done
                    return task.complete_task(task_id, assignee=me, output=done or b"")

                done = work(request, update)
                return Then(done, report) if isawaitable(done) else report(done)

            def failed(request: Accepted[TaskRequestPayload], error: Exception) -> Message[Any]:
                log_fallback(events, request, error)
                if fallback is not None:
                    return fallback(request, error)
                code = type(error).__name__
                return task.fail_task(request.payload.task_id, assignee=me, error_code=code, reason=str(error) or code)

            reports = like(events, mine).pipe(mo.map_async(do, timeout=timeout, otherwise=failed, finish=False))
            working = reports.subscribe(observer, scheduler=scheduler)
            hearing = events.subscribe(on_next, mine.on_error, mine.on_completed, scheduler=scheduler)
            return CompositeDisposable(working, hearing)

        return lift(events, subscribe)

    return agent


class _Desk:
    """What one worker knows of the session's task: what it is, and who has it."""

    def __init__(self, me: str, takes_over: bool, volunteers: bool) -> None:
        self._me = me
        self._takes_over = takes_over
        self._volunteers = volunteers
        self._request: Accepted[TaskRequestPayload] | None = None
        self._holder: str | None = None

    def hear(self, accepted: Accepted) -> tuple[Message[Any] | None, Accepted[TaskRequestPayload] | None]:
        """What to say now, and what to begin with."""
        if accepted.mode != task.MODE:
            return None, None
        match accepted.payload:
            case TaskRequestPayload() as request:
                self._request = cast("Accepted[TaskRequestPayload]", accepted)
                asked = self._volunteers or request.requested_assignee == self._me
                return self._acceptance() if asked else None, None
            case TaskAcceptPayload():
                self._holder = self._holder or accepted.sender
                return None, self._request if accepted.sender == self._me else None
            case TaskRejectPayload() if accepted.sender == self._holder:
                self._holder = None
                mine = accepted.sender == self._me
                return self._acceptance() if self._takes_over and not mine else None, None
            case _:
                return None, None

    def _acceptance(self) -> Message[Any] | None:
        request = self._request
        if request is None or request.sender == self._me or request.payload.requested_assignee not in ("", self._me):
            return None
        return task.accept_task(request.payload.task_id, assignee=self._me)
