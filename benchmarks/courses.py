"""Sessions of every mode in which one thing is said over and over."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable
from typing import NamedTuple

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope

from benchmarks.server import AGENT, CONFIGURATION, VERSION
from macp_rx import Message
from macp_rx.protocol.modes import decision, handoff, multi_round, proposal, quorum, task

__all__ = ["ALL", "FEW", "Course", "courses"]

LONG = 5000
"""How often it is said; in what each participant says once, a session's most participants less the one who starts it."""
FEW = (AGENT, "a1", "a2", "a3", "a4")
ALL = (AGENT, *(f"a{number}" for number in range(1, 1000)))
# each speaks once: in the order of the roster, which is searched from its front, the last would look slow
ONCE = random.Random(0).sample(ALL[1:], len(ALL) - 1)

Said = tuple[str, Message]


class Course(NamedTuple):
    """A session.

    Attributes:
        opening: what comes before.
        repeated: what is said over and over.
    """

    opening: list[core_pb2.SendRequest]
    repeated: list[core_pb2.SendRequest]


def courses() -> dict[str, Course]:
    """What is said over and over -> that session. All of it is accepted."""
    put, other = decision.propose("p0", "x"), proposal.propose("p0", "x")
    asked = quorum.request_approval("r", "x", required_approvals=len(ALL))
    wanted, taken, update = task.request_task("t", "x"), task.accept_task("t"), task.update_task("t", progress=0.5)
    evaluation = decision.evaluate("p0", "APPROVE", confidence=0.5, reason="as before")
    objection = decision.raise_objection("p0", reason="as before")
    numbers = range(1, LONG + 1)
    return {
        "proposals to decide on": _course([], ((AGENT, decision.propose(f"p{n}", "x")) for n in numbers)),
        "evaluations": _course([(AGENT, put)], ((FEW[n % 5], evaluation) for n in numbers)),
        "objections": _course([(AGENT, put)], ((FEW[n % 5], objection) for n in numbers)),
        "votes": _course(
            ((AGENT, decision.propose(f"p{n}", "x")) for n in range(LONG // 5)),
            ((FEW[n % 5], decision.vote(f"p{n // 5}", "APPROVE")) for n in range(LONG)),
        ),
        "counter-proposals": _course(
            [(AGENT, other)], ((AGENT, proposal.counter_propose(f"p{n}", f"p{n - 1}", "x")) for n in numbers)
        ),
        "acceptances": _course([(AGENT, other)], ((FEW[n % 5], proposal.accept("p0")) for n in numbers)),
        "terminal rejections": _course(
            [(AGENT, other)], ((FEW[n % 5], proposal.reject("p0", terminal=True)) for n in numbers)
        ),
        "proposals made, rejected for good and withdrawn": _course(
            [(AGENT, other)],
            (
                said
                for n in range(1, LONG // 3)
                for said in (
                    (AGENT, proposal.propose(f"p{n}", "x")),
                    ("a1", proposal.reject(f"p{n if n % 2 else 0}", terminal=True)),
                    (AGENT, proposal.withdraw(f"p{n}")),
                )
            ),
        ),
        "updates of a task": _course([(AGENT, wanted), ("a1", taken)], (("a1", update) for _ in numbers)),
        "refusals of a task": _course([(AGENT, wanted)], ((name, task.reject_task("t")) for name in ONCE), ALL),
        "offers declined": _course(
            [],
            (said for name in ONCE for said in ((AGENT, handoff.offer(name, name)), (name, handoff.decline(name)))),
            ALL,
        ),
        "context of an offer": _course(
            [(AGENT, handoff.offer("h", "a1"))], ((AGENT, handoff.add_context("h", context=b"x")) for _ in numbers)
        ),
        "ballots": _course([(AGENT, asked)], ((name, quorum.approve("r")) for name in ONCE), ALL),
        "contributions": _course([], ((FEW[n % 5], multi_round.contribute(f"{n}")) for n in numbers)),
    }


def _course(opening: Iterable[Said], repeated: Iterable[Said], participants: tuple[str, ...] = FEW) -> Course:
    session_id = str(uuid.uuid4())
    before, after = list(opening), list(repeated)
    mode = after[0][1].mode
    start = core_pb2.SessionStartPayload(
        intent="benchmark",
        participants=participants,
        ttl_ms=86_400_000,
        mode_version=VERSION,
        configuration_version=CONFIGURATION,
    )
    said = [(AGENT, Message(mode, start)), *before, *after]
    requests = [
        core_pb2.SendRequest(
            envelope=Envelope(
                macp_version="1.0",
                mode=mode,
                message_type=message.message_type,
                message_id=f"m{number}",
                session_id=session_id,
                sender=sender,
                payload=message.payload.SerializeToString(),
            )
        )
        for number, (sender, message) in enumerate(said)
    ]
    return Course(requests[: -len(after)], requests[-len(after) :])
