"""What every operator owes its source and its subscriber, whatever it does besides."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import reactivex as rx
from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import Observable

from macp_rx import MacpSessionError, Stream
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.modes import decision
from macp_rx.protocol.policy import DEFAULT
from macp_rx.streams.stream import Demand
from macp_rx.testing import Marbles, Where, misbehaving
from macp_rx.testing.sources import SESSION_ID
from tests.operators.checks import check_timers
from tests.operators.pausing import Pausing
from tests.operators.voices import LEGEND, open_session

PEOPLE = ["chair", "alice", "bob", "carol"]
LONG = 10.0
"""Seconds: longer than any of these tests, so that a timer that is left shows."""

Operator = Callable[[Observable[Any]], Observable[Any]]


@dataclass
class Case:
    """One operator, as these tests apply it.

    Attributes:
        make: makes it, on a clock if it is timed.
        hears: what its source says, as marbles without times.
        empty: what becomes of a source that only completes.
    """

    make: Callable[[VirtualClock], Operator]
    hears: str = "v w"
    empty: str = "|"


def in_a_while(clock: VirtualClock) -> Any:
    return clock.now + timedelta(seconds=LONG)


def lives_on(clock: VirtualClock) -> Callable[[], Observable[Any]]:
    return lambda: rx.of(open_session(clock.now_ms + round(LONG * 1000)))


UNRESOLVED = Where(lambda outcome: outcome.state == "UNRESOLVED")
YES = mo.Verdict("p1", True, "enough", mo.Count(2))
NAMED = {**LEGEND, "YES": YES, "UNRESOLVED": UNRESOLVED}

CASES = {
    "after": Case(lambda _: mo.after(0)),
    "at_least": Case(lambda _: mo.at_least(1, electorate=3)),
    "commit_if_decided": Case(lambda _: mo.commit_if_decided(action="go"), hears="YES YES"),
    "commitment": Case(lambda _: mo.commitment(), hears="v C"),
    "confidence": Case(lambda _: mo.confidence(), hears="e f"),
    "deadline": Case(lambda clock: mo.deadline(in_a_while(clock), scheduler=clock)),
    "debounce_tally": Case(lambda clock: mo.debounce_tally(LONG, scheduler=clock)),
    "dedupe": Case(lambda _: mo.dedupe()),
    "deliver_on": Case(lambda clock: mo.deliver_on(clock, overflow="error")),
    "escalate": Case(lambda clock: mo.escalate(LONG, rx.of("ask"), scheduler=clock)),
    "in_mode": Case(lambda _: mo.in_mode(decision.MODE)),
    "in_session": Case(lambda _: mo.in_session(SESSION_ID)),
    "majority": Case(lambda _: mo.majority(1)),
    "map_async": Case(lambda clock: mo.map_async(lambda vote: vote, scheduler=clock)),
    "missing_after": Case(lambda clock: mo.missing_after(LONG, PEOPLE, scheduler=clock)),
    "of_type": Case(lambda _: mo.of_type(VotePayload)),
    "on_phase": Case(lambda _: rx.compose(mo.states(decision), mo.on_phase()), hears="S p"),
    "outcome": Case(lambda _: mo.outcome(), hears="v C", empty="(UNRESOLVED |)"),
    "participation": Case(lambda _: mo.participation(PEOPLE)),
    "payloads": Case(lambda _: mo.payloads(VotePayload)),
    "plurality": Case(lambda _: mo.plurality(1)),
    "remind_every": Case(lambda clock: mo.remind_every(LONG, PEOPLE, scheduler=clock)),
    "retry_with_backoff": Case(lambda clock: mo.retry_with_backoff(scheduler=clock)),
    "send_to": Case(lambda _: mo.send_to(rx.of)),
    "sent_by": Case(lambda _: mo.sent_by("alice")),
    "shared": Case(lambda _: mo.shared()),
    "silence": Case(lambda clock: mo.silence(LONG, scheduler=clock)),
    "states": Case(lambda _: mo.states(decision), hears="S p"),
    "supermajority": Case(lambda _: mo.supermajority(1)),
    "tally": Case(lambda _: mo.tally()),
    "unanimous": Case(lambda _: mo.unanimous(1)),
    "under_policy": Case(lambda _: mo.under_policy(DEFAULT, PEOPLE), hears="S p"),
    "until_resolved": Case(lambda _: mo.until_resolved(), hears="v C"),
    "until_ttl": Case(lambda clock: mo.until_ttl(lives_on(clock), scheduler=clock)),
    "vetoed": Case(lambda _: mo.vetoed(3), hears="o p"),
    "weighted": Case(lambda _: mo.weighted({"alice": 1})),
    "within": Case(lambda clock: mo.within(LONG, scheduler=clock)),
}

untyped: Any = mo

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no class": (lambda: untyped.of_type(), "payload classes, such as VotePayload, not nothing"),
    "the name of a class": (lambda: untyped.of_type("Vote"), "payload classes, such as VotePayload, not 'Vote'"),
    "an instance": (lambda: untyped.payloads(VotePayload()), "payload classes"),
    "names in a list": (lambda: untyped.sent_by(["alice"]), "senders is a collection of names"),
    "a number for a name": (lambda: untyped.in_session(1), "session_ids is a collection of names, and 1 is none"),
    "bytes": (lambda: untyped.majority(b"ab"), "electorate is a collection of names, and 97 is none"),
    "half a member": (lambda: untyped.at_least(1.5, electorate=3), "count is 1.5"),
    "a text for a share": (
        lambda: untyped.supermajority(3, share="2/3"),
        "share is '2/3', and must be a finite number",
    ),
    "a text for a weight": (lambda: untyped.weighted({"alice": "1"}), "the weight of 'alice' is '1'"),
    "a text for a duration": (lambda: untyped.within("30"), "within waits for some seconds"),
    "no duration": (lambda: untyped.silence(None), "silence waits for some seconds"),
    "a text for a time": (lambda: untyped.deadline("noon"), "a deadline is a datetime"),
    "no time": (lambda: untyped.deadline(float("nan")), "a deadline is a datetime"),
    "the name of a mode": (lambda: untyped.states("decision"), "such as decision, not 'decision'"),
    "the id of a policy": (lambda: untyped.under_policy("policy.default", ["a"]), "not 'policy.default'"),
    "the id of another": (lambda: untyped.states(decision, policy="p"), "a policy is a PolicyDescriptor"),
    "a blank action": (lambda: untyped.commit_if_decided(action=" "), "action must not be blank"),
    "a blank refusal": (lambda: untyped.commit_if_decided(action="go", declined=""), "declined must not be blank"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_an_operator_cannot_use_is_an_error_when_it_is_made(what: str) -> None:
    make, says = WRONG[what]
    with pytest.raises(MacpSessionError, match=says):
        make()


every_operator = pytest.mark.parametrize("name", CASES)


def test_every_operator_is_here() -> None:
    assert set(CASES) == {name for name, value in vars(mo).items() if inspect.isfunction(value)}


@every_operator
def test_an_error_passes_at_once_and_the_source_is_left(name: str, marbles: Marbles) -> None:
    source = marbles.cold("---#", error=ValueError("lost"))
    operator = CASES[name].make(marbles.clock)
    marbles.expect(source.pipe(operator)).to_be("---#", error=ValueError("lost"))
    marbles.expect_subscriptions(source).to_be("^--!")
    check_timers(marbles)


@every_operator
def test_the_end_of_an_empty_source_is_the_end(name: str, marbles: Marbles) -> None:
    source = marbles.cold("---|")
    case = CASES[name]
    marbles.expect(source.pipe(case.make(marbles.clock))).to_be(f"---{case.empty}", NAMED)
    marbles.expect_subscriptions(source).to_be("^--!")
    check_timers(marbles)


@every_operator
def test_leaving_early_leaves_the_source_and_stops_every_timer(name: str, marbles: Marbles) -> None:
    case = CASES[name]
    source = marbles.cold("------" + case.hears.replace(" ", "-") + "-|", NAMED)
    marbles.expect(source.pipe(case.make(marbles.clock)), "^--!").to_be("-")
    marbles.expect_subscriptions(source).to_be("^--!")
    check_timers(marbles)


@every_operator
@pytest.mark.parametrize("end", ["|", "#"])
def test_nothing_comes_after_the_end_of_a_source_that_goes_on(name: str, end: str) -> None:
    clock = VirtualClock()
    case = CASES[name]
    first, second = case.hears.split()
    heard: list[str] = []
    source = misbehaving(f"{first}{end}{second}{end}|#", NAMED)
    case.make(clock)(source).subscribe(
        lambda _: heard.append("item"), lambda _: heard.append("#"), lambda: heard.append("|"), scheduler=clock
    )
    clock.run_until_idle()
    assert heard.count("|") + heard.count("#") == 1
    assert heard[-1] in "|#"


@every_operator
def test_two_subscriptions_have_nothing_in_common(name: str, marbles: Marbles) -> None:
    case = CASES[name]
    source = marbles.cold("-" + case.hears.replace(" ", "-") + "-|", NAMED)
    result = source.pipe(case.make(marbles.clock))
    lanes: list[list[tuple[int, Any]]] = [[], []]

    def listen(lane: list[tuple[int, Any]], since: int) -> None:
        result.subscribe(
            lambda item: lane.append((marbles.clock.time - since, item)),
            lambda error: lane.append((marbles.clock.time - since, error)),
            lambda: lane.append((marbles.clock.time - since, "|")),
        )

    marbles.act("a 50ms b", {"a": lambda: listen(lanes[0], 0), "b": lambda: listen(lanes[1], 51_000)})
    marbles.check(lambda: None if lanes[0] == lanes[1] and lanes[0] else f"{lanes[0]}\n{lanes[1]}")


@every_operator
def test_a_stream_stays_one_on_its_clock(name: str) -> None:
    clock = VirtualClock()
    result = CASES[name].make(clock)(Stream(rx.never(), clock))
    assert isinstance(result, Stream)
    assert result.clock is clock


@every_operator
def test_an_observable_stays_one(name: str) -> None:
    assert not isinstance(CASES[name].make(VirtualClock())(rx.never()), Stream)


@pytest.mark.parametrize("name", [name for name in CASES if name != "deliver_on"])  # which has a buffer of its own
def test_a_source_is_told_to_wait_through_it(name: str) -> None:
    clock = VirtualClock()
    source = Pausing(clock)
    result = CASES[name].make(clock)(source.stream)
    assert isinstance(result, Stream)
    assert result.can_wait
    demand = Demand(clock, lambda _: None)
    subscription = result.subscribe(scheduler=demand)
    clock.schedule(lambda *_: demand.pause())
    clock.advance_by(0)
    assert source.waits
    clock.schedule(lambda *_: demand.resume())
    clock.advance_by(0)
    assert not source.waits
    subscription.dispose()
