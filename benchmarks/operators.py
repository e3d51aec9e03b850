"""Votes: chosen, counted, decided about, beside a loop that does nothing but decode and count them. And what a state takes."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ProposalPayload, VotePayload
from macp.v1.core_pb2 import CommitmentPayload
from macp.v1.envelope_pb2 import Envelope
from reactivex import Observable, abc
from reactivex.disposable import Disposable

from benchmarks import Row, timed
from macp_rx import Accepted, Stream
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.messages import DECISION, message_type_of
from macp_rx.protocol.modes import decision
from macp_rx.protocol.policy import DEFAULT

__all__ = ["rows"]

VOTES = 10_000
FEW = 1_000
"""What the SDK counts in a time that can be waited for."""
AGENTS = 10
STATES = 2_000


def rows(rounds: int) -> Iterable[Row]:
    """Each vote is of another agent, on one proposal, and is decoded once by whoever looks at it."""
    seconds = timed({"bare": _bare, "ours": _tally_and_majority, "tally": lambda: _tally(VOTES)}, rounds)
    beyond = [(ours - bare) / VOTES for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    each = statistics.median(beyond) * 1e6
    bare = statistics.median(seconds["bare"]) / VOTES * 1e6
    what = "votes, of_type + tally + majority: CPU per vote beyond a bare loop"
    yield Row(what, f"{each:.2f} us", f"{bare:.2f} us", "bare loop, in all", None, "≤ 3 us", each <= 3)
    whole = statistics.median(seconds["tally"]) * 1e3
    yield Row(f"votes, tally of {VOTES}, told after each", f"{whole:.0f} ms", "", "none", None, "< 200 ms", whole < 200)
    few = timed({"ours": lambda: _tally(FEW), "sdk": _sdk}, max(3, rounds // 5))
    ours, sdk = (statistics.median(few[name]) * 1e3 for name in ("ours", "sdk"))
    what = f"votes, tally of {FEW}, told after each"
    yield Row(what, f"{ours:.1f} ms", f"{sdk:.1f} ms", "macp-sdk-python", ours / sdk, "≤ 1x", ours <= sdk)
    ours, sdk = _resident_each("ours"), _resident_each("sdk")
    what = f"state of a decision session of {AGENTS} agents, committed: resident memory"
    shown = f"{ours / 1000:.1f} kB", f"{sdk / 1000:.1f} kB"
    yield Row(what, *shown, "macp-sdk-python, its envelopes too", ours / sdk, "< 8 kB", ours < 8000)


def _envelope(number: int, payload: Message, sender: str = "") -> Envelope:
    return Envelope(
        macp_version="1.0",
        mode=DECISION,
        message_type=message_type_of(payload),
        message_id=f"m{number}",
        session_id="s",
        sender=sender or f"agent-{number}",
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


# What a state takes. Resident memory and not tracemalloc's, which does not see what protobuf has allocated.


def _resident_each(whose: str) -> float:
    """Bytes a state, in a process that holds nothing else."""
    command = [sys.executable, "-m", "benchmarks.operators", whose]
    return float(subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1]).stdout)


def _session(number: int) -> Iterator[Envelope]:
    """A proposal, an evaluation and a vote of everybody, and the commitment; no two sessions share a name."""
    agents = [f"agent-{number}-{n}" for n in range(AGENTS)]
    proposal_id = f"proposal-{number}"
    yield _envelope(0, ProposalPayload(proposal_id=proposal_id, option="canary", rationale="small steps"), agents[0])
    for n, agent in enumerate(agents, start=1):
        said = EvaluationPayload(
            proposal_id=proposal_id, recommendation="APPROVE", confidence=0.8, reason=f"as before, {n}"
        )
        yield _envelope(n, said, agent)
    for n, agent in enumerate(agents, start=AGENTS + 1):
        yield _envelope(n, VotePayload(proposal_id=proposal_id, vote="APPROVE", reason=f"carried by {n}"), agent)
    commitment = CommitmentPayload(
        commitment_id=f"c-{number}",
        action="decision.approved",
        authority_scope="benchmark",
        reason="carried",
        outcome_positive=True,
        mode_version="1.0.0",
        configuration_version="c1",
    )
    yield _envelope(2 * AGENTS + 1, commitment, agents[0])


def _state(number: int) -> decision.State:
    messages = list(_session(number))
    agents = tuple(dict.fromkeys(envelope.sender for envelope in messages))
    bound = Binding("s", DECISION, agents[0], agents, "1.0.0", "c1", DEFAULT)
    state = decision.initial(bound)
    for envelope in messages:
        state = decision.step(bound, state, envelope, Instant(0))
    return state


def _projection(number: int) -> object:
    from macp_sdk.projections import DecisionProjection

    projection = DecisionProjection()
    for envelope in _session(number):
        projection.apply_envelope(envelope)
    return projection


def _main(whose: str) -> None:
    make = {"ours": _state, "sdk": _projection}[whose]
    warm = [make(number) for number in range(STATES, STATES + 100)]
    before = _resident()
    states = [make(number) for number in range(STATES)]
    gc.collect()
    print((_resident() - before) / len(states))
    del warm, states


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    _main(sys.argv[1])
