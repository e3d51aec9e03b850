"""Votes: chosen, counted, decided about, beside a loop that does nothing but decode and count them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message
from macp.modes.decision.v1.decision_pb2 import ProposalPayload, VotePayload
from macp.v1.envelope_pb2 import Envelope
from reactivex import Observable, abc
from reactivex.disposable import Disposable

from benchmarks import Row, cpu_rounds
from macp_rx import Accepted, Stream
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION, message_type_of

__all__ = ["rows"]

VOTES = 10_000
FEW = 1_000
"""What the SDK counts in a time that can be waited for."""


def rows(rounds: int) -> Iterable[Row]:
    """Each vote is of another agent, on one proposal, and is decoded once by whoever looks at it."""
    seconds = cpu_rounds({"bare": _bare, "ours": _tally_and_majority, "tally": lambda: _tally(VOTES)}, rounds)
    beyond = [(ours - bare) / VOTES for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    each = statistics.median(beyond) * 1e6
    bare = statistics.median(seconds["bare"]) / VOTES * 1e6
    what = "votes, of_type + tally + majority: CPU per vote beyond a bare loop"
    yield Row(what, f"{each:.2f} us", f"{bare:.2f} us", "bare loop, in all", None, "≤ 3 us", each <= 3)
    whole = statistics.median(seconds["tally"]) * 1e3
    yield Row(f"votes, tally of {VOTES}, told after each", f"{whole:.0f} ms", "", "none", None, "< 200 ms", whole < 200)
    few = cpu_rounds({"ours": lambda: _tally(FEW), "sdk": _sdk}, max(3, rounds // 5))
    ours, sdk = (statistics.median(few[name]) * 1e3 for name in ("ours", "sdk"))
    what = f"votes, tally of {FEW}, told after each"
    yield Row(what, f"{ours:.1f} ms", f"{sdk:.1f} ms", "macp-sdk-python", ours / sdk, "≤ 1x", ours <= sdk)


def _envelope(number: int, payload: Message) -> Envelope:
    return Envelope(
        macp_version="1.0",
        mode=DECISION,
        message_type=message_type_of(payload),
        message_id=f"m{number}",
        session_id="s",
        sender=f"agent-{number}",
        payload=payload.SerializeToString(),
    )


ENVELOPES = [
    _envelope(number, VotePayload(proposal_id="p1", vote=("APPROVE", "REJECT")[number % 2]))
    for number in range(1, VOTES + 1)
]
CLOCK = VirtualClock()


def _accepted(count: int) -> list[Accepted]:
    """New ones: a payload is decoded once."""
    return [Accepted(number, envelope) for number, envelope in enumerate(ENVELOPES[:count], start=1)]


def _events(accepted: list[Accepted]) -> Stream[Accepted]:
    def subscribe(observer: abc.ObserverBase[Accepted], _: abc.SchedulerBase | None = None) -> Disposable:
        on_next = observer.on_next
        for one in accepted:
            on_next(one)
        observer.on_completed()
        return Disposable()

    return Stream(Observable(subscribe), CLOCK)


def _bare() -> None:
    counts: Counter[str] = Counter()
    for accepted in _accepted(VOTES):
        if accepted.message_type == "Vote":
            vote: Any = accepted.payload
            counts[vote.vote] += 1
    if counts.total() != VOTES:
        raise SystemExit(f"benchmarks: counted {counts.total()} votes of {VOTES}")


def _tally_and_majority() -> None:
    events = _events(_accepted(VOTES))
    verdicts: list[mo.Verdict] = []
    events.pipe(mo.of_type(VotePayload), mo.tally()).subscribe()
    events.pipe(mo.of_type(VotePayload), mo.majority(VOTES)).subscribe(verdicts.append)
    if [verdict.positive for verdict in verdicts] != [False]:
        raise SystemExit(f"benchmarks: {verdicts}")


def _tally(count: int) -> None:
    last: list[mo.Tally] = []

    def told(tally: mo.Tally) -> None:
        last[:] = [tally]

    _events(_accepted(count)).pipe(mo.of_type(VotePayload), mo.tally()).subscribe(told)
    if last[0].of("p1").cast != count:
        raise SystemExit(f"benchmarks: counted {last[0]}")


def _sdk() -> None:
    from macp_sdk.projections import DecisionProjection

    projection = DecisionProjection()
    projection.apply_envelope(_envelope(0, ProposalPayload(proposal_id="p1", option="one")))
    for envelope in ENVELOPES[:FEW]:
        projection.apply_envelope(envelope)
        projection.vote_totals()
    if len(projection.votes["p1"]) != FEW:
        raise SystemExit("benchmarks: the SDK has counted something else")
