"""Where the embedded runtime is meant to differ from the real server. What is not in this table is a divergence.

Beside the table stands what `answers` never compares:

- sentences: the text of every refusal (in an Ack, on a stream, as a status, in a registry's reply), the messages and reasons
  in the details of a POLICY_DENIED, and Initialize's instructions. Of them the codes, the participants and their order count,
  and the one text that clients match on, SESSION_NOT_OPEN;
- clocks: when a runtime says that it accepted, started, observed or issued something, and stamps that it filled in. A deadline
  counts relative to its session's start; to the minute, where a suspension has moved it;
- orders that are left open: of participants' activity, and of extensions;
- what depends on other sessions that are played at the same time: their part of every list;
- what a lifecycle event says of a session that may have moved on meanwhile.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from macp.modes.decision.v1 import decision_pb2
from macp.modes.task.v1 import task_pb2
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope, SessionState

from tests.differential.answers import BUILT_IN_MODES, Plain
from tests.differential.steps import Call, Close, Frame, Open, Scenario, Step, request_class
from tests.differential.stream import LOST

__all__ = ["KNOWN", "Known", "Situation"]

NUMBER = re.compile(r"\d+\.\d+")
LONG = 15
"""Digits from which on the last one of a double may be in question."""


@dataclass(frozen=True)
class Situation:
    """Two answers that are not the same.

    Attributes:
        scenario: what was played.
        step: what was answered.
        real: what the real server said.
        ours: what the embedded runtime said.
        sessions: session id -> a session of the scenario as it is afterwards, as the embedded runtime lists it.
    """

    scenario: Scenario
    step: Step
    real: Plain
    ours: Plain
    sessions: Mapping[str, core_pb2.SessionMetadata]

    def may_read(self, agent: str, session_id: str) -> bool:
        """Whether a session names an agent."""
        session = self.sessions.get(session_id)
        return session is not None and agent in (session.initiator, *session.participants)

    def expired(self, session_id: str) -> bool:
        """Whether a session's time is over."""
        session = self.sessions.get(session_id)
        return session is not None and session.state == SessionState.SESSION_STATE_EXPIRED


@dataclass(frozen=True)
class Known:
    """A difference that is wanted.

    Attributes:
        name: what the report counts it under.
        reason: why it is wanted.
        explains: whether it, and nothing else, is what differs in a situation.
        ends: what comes after it cannot be compared any more.
    """

    name: str
    reason: str
    explains: Callable[[Situation], bool]
    ends: bool = False


def _identity(situation: Situation) -> bool:
    own = {
        "Initialize": ["runtime_info"],
        "GetManifest": ["manifest"],
        "GetDecisionReceipt": ["issuer", "semantics_rev"],
    }
    step = situation.step
    if not isinstance(step, Call) or step.method not in own or not _both(situation, dict):
        return False
    real, ours = dict(situation.real), dict(situation.ours)
    for name in own[step.method]:
        told, said = real.pop(name, None), ours.pop(name, None)
        if not (told and said):
            return False
        if name == "manifest" and told["supported_modes"] != said["supported_modes"]:
            return False
    return real == ours


def _mode_texts(situation: Situation) -> bool:
    if not (isinstance(situation.step, Call) and situation.step.method in ("ListModes", "ListExtModes")):
        return False
    real, ours = (answer.get("modes", [answer]) for answer in (situation.real, situation.ours))
    return [_without_texts(mode) for mode in real] == [_without_texts(mode) for mode in ours]


def _without_texts(mode: Plain) -> Plain:
    if mode.get("mode") not in BUILT_IN_MODES:
        return mode
    return {key: value for key, value in mode.items() if key not in ("title", "description")}


def _no_number(situation: Situation) -> bool:
    envelope = _envelope(situation.step)
    if envelope is None:
        return False
    try:
        match envelope.message_type:
            case "Evaluation":
                number = decision_pb2.EvaluationPayload.FromString(envelope.payload).confidence
            case "TaskUpdate":
                number = task_pb2.TaskUpdatePayload.FromString(envelope.payload).progress
            case _:
                return False
    except DecodeError:
        return False
    return not math.isfinite(number) and "INVALID_ENVELOPE" in _codes(situation.ours)


def _outsider(situation: Situation) -> bool:
    owner = _owner(situation)
    if owner is None or not _both(situation, list):
        return False
    heard = [said for said in situation.real if not _is_envelope(said)]
    unread = [said for said in situation.real if _is_envelope(said)]
    return heard == situation.ours and not any(situation.may_read(owner, said["session_id"]) for said in unread)


def _unparsed(situation: Situation) -> bool:
    told = _failure(situation.ours) in [("INVALID_ARGUMENT", code) for code in ("INVALID_ENVELOPE", "INVALID_REQUEST")]
    return told and _failure(situation.real) == ("INTERNAL", None)


def _far_too_large(situation: Situation) -> bool:
    return (_failure(situation.real), _failure(situation.ours)) == (
        ("OUT_OF_RANGE", None),
        ("RESOURCE_EXHAUSTED", None),
    )


def _removed_mode(situation: Situation) -> bool:
    if not (isinstance(situation.step, Call) and situation.step.method == "WhatIfReplay" and _both(situation, dict)):
        return False
    return (situation.real.get("code"), situation.ours.get("code")) == ("INTERNAL_ERROR", "MODE_NOT_SUPPORTED")


def _last_place(situation: Situation) -> bool:
    """The same rules but for the last place of long numbers."""
    real, ours = repr(situation.real), repr(situation.ours)
    pairs = zip(NUMBER.findall(real), NUMBER.findall(ours), strict=False)
    return NUMBER.sub("#", real) == NUMBER.sub("#", ours) and all(
        told == said or (len(max(told, said, key=len)) > LONG and math.isclose(float(told), float(said), rel_tol=2e-15))
        for told, said in pairs
    )


def _overdue(situation: Situation) -> bool:
    """A session whose deadline has passed, where the real server has not looked yet."""
    match situation.real, situation.ours:
        case {"ack": {"duplicate": True, "session_state": "SESSION_STATE_OPEN"} as told}, {"ack": dict(said)}:
            return bool({**told, "session_state": "SESSION_STATE_EXPIRED"} == said)
        case {"sessions": [*told]}, {"sessions": [*said]}:
            return [_lapsed(session) for session in told] == said
        case _, ([{"ended": {"code": "HISTORY_UNAVAILABLE"}}] | {"code": "HISTORY_UNAVAILABLE"}):
            return situation.expired(_session_id(situation.step))
    return False


def _lapsed(session: Plain) -> Plain:
    deadline = session["expires_at_unix_ms"]
    if session["state"] == "SESSION_STATE_OPEN" and isinstance(deadline, int) and deadline < time.time() * 1000:
        return {**session, "state": "SESSION_STATE_EXPIRED"}
    return session


def _lost(situation: Situation) -> bool:
    if not _both(situation, list) or not (situation.real and situation.ours):
        return False
    *real, told = situation.real
    *ours, said = situation.ours
    return real == ours and {"ended"} == told.keys() == said.keys() and LOST in (told["ended"], said["ended"])


KNOWN = (
    Known("identity", "a runtime tells its own name, version and semantics revision, not the real server's", _identity),
    Known("mode texts", "titles and descriptions of the built-in modes are sentences, each runtime's own", _mode_texts),
    Known(
        "no number",
        "an accepted NaN or infinity makes the real server's session unreadable for good (`protocol.md` 4.2); it is refused",
        _no_number,
        ends=True,
    ),
    Known(
        "outsider",
        "the real server feeds a session to an outsider whose envelope it refused (`protocol.md` 6.7)",
        _outsider,
    ),
    Known(
        "unparsed request",
        "the real server answers bytes that are no request with INTERNAL and no code; it is the client's fault, told so",
        _unparsed,
    ),
    Known(
        "far too large",
        "a frame of more than twice what may be is refused by gRPC itself, before it is in memory, in its own words",
        _far_too_large,
    ),
    Known(
        "removed mode",
        "what-if of a session whose mode was unregistered: INTERNAL_ERROR there, here it says what is the matter",
        _removed_mode,
    ),
    Known(
        "overdue",
        "a session expires, and is compacted, at its deadline, and not only when somebody looks or in a sweep once a minute",
        _overdue,
    ),
    Known(
        "last place",
        "the real server's JSON parser takes a long decimal for the double beside the nearest",
        _last_place,
    ),
    Known("lost status", "grpc.aio, the judge's client, loses the status of a call that ends while it writes", _lost),
)


def _both(situation: Situation, kind: type) -> bool:
    return isinstance(situation.real, kind) and isinstance(situation.ours, kind)


def _envelope(step: Step) -> Envelope | None:
    try:
        match step:
            case Call("Send", _, request):
                return request_class("Send").FromString(request).envelope
            case Frame(_, request):
                return core_pb2.StreamSessionRequest.FromString(request).envelope
    except DecodeError:
        pass
    return None


def _session_id(step: Step) -> str:
    """The session that a subscription or a what-if asks for."""
    match step:
        case Frame(_, request):
            return core_pb2.StreamSessionRequest.FromString(request).subscribe_session_id
        case Call("WhatIfReplay", _, request):
            return request_class("WhatIfReplay").FromString(request).session_id
    return ""


def _owner(situation: Situation) -> str | None:
    if not isinstance(situation.step, Frame | Close):
        return None
    for step in situation.scenario.steps:
        if isinstance(step, Open) and step.stream == situation.step.stream:
            return step.metadata[0][1].removeprefix("Bearer ")
    return None


def _is_envelope(said: Plain) -> bool:
    return isinstance(said, dict) and "message_type" in said


def _failure(answer: Plain) -> tuple[str, str | None] | None:
    """The status and the code that a call failed with, if it did."""
    match answer:
        case {"status": status, "code": code} | [*_, {"ended": {"status": status, "code": code}}]:
            return status, code
    return None


def _codes(answer: Plain) -> Sequence[str]:
    """The error codes in an answer."""
    if isinstance(answer, dict) and isinstance(answer.get("ack"), dict):
        error = answer["ack"]["error"]
        return [error["code"]] if error else []
    if isinstance(answer, list):
        return [said["error"]["code"] for said in answer if isinstance(said, dict) and "error" in said]
    return []
