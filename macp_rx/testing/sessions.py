"""Sessions as marbles: lanes of who says what, played on an embedded runtime; conformance fixtures read as such, and written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias, cast

from google.protobuf.message import Message as Protobuf
from macp.v1.core_pb2 import CommitmentPayload, GetSessionResponse, SessionStartPayload
from macp.v1.envelope_pb2 import Envelope, SessionState
from macp.v1.policy_pb2 import PolicyDescriptor
from reactivex import Observable

from macp_rx.client import MacpClient
from macp_rx.clock import VirtualClock
from macp_rx.errors import GRPC_STATUS, MacpRefusedError, MacpSessionError, MacpTransportError
from macp_rx.marbles import FRAME, written
from macp_rx.protocol.fixture import Fixture, Step, envelope, payload_members
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import MULTI_ROUND, Accepted, Message
from macp_rx.protocol.modes import handoff
from macp_rx.protocol.start import SessionStart
from macp_rx.runtime import Runtime
from macp_rx.session import Address, RxSession, Session
from macp_rx.testing.expectation import Where, difference, shown
from macp_rx.testing.sources import Said, Scheduled
from macp_rx.timeline import Completed, Event, Next, Notification, Timeline

__all__ = ["Exactly", "PlayedSession", "Refused", "from_fixture"]

REGISTRAR: Final = "macp-conform"
"""Who registers a fixture's policy, as the specification's runner does."""

ENDED: Final = ("Resolved", "Expired", "Cancelled")
FILLED_IN: Final = ("commitment_id", "mode_version", "configuration_version", "policy_version")


@dataclass(frozen=True, slots=True)
class Exactly:
    """Stands in a session's legend for a message that goes out just so: no version and no id is filled in.

    Attributes:
        message: the message.
        envelope: fields of its Envelope that are not as usual, such as ``{"macp_version": "2.0"}``.
    """

    message: Message
    envelope: Mapping[str, str | int] = field(default_factory=Map[str, str | int])


@dataclass(frozen=True, slots=True)
class Refused:
    """What the runtime did not accept.

    Attributes:
        sender: who said it.
        name: its name in the lane.
        error: why.
    """

    sender: str
    name: str
    error: MacpRefusedError | MacpTransportError


Done: TypeAlias = Callable[[RxSession], Observable[Any]]


@dataclass(slots=True)
class _Mark:
    """One thing in a lane: something said, or the end."""

    time: int
    sender: str
    name: str
    value: SessionStart | Message | Exactly | PolicyDescriptor | Done | None = None
    expected: str | None = None  # the code that it should be refused with, "#" for any
    code: str | None = None  # the code that it was refused with
    sent: Envelope | None = None


class PlayedSession:
    """A session that lanes tell; made by `Marbles.session`. What came of it is there once the marbles have run.

    Attributes:
        session: the session, as its initiator has it: for pipelines on ``session.events``.
        accepted: its history.
        refused: what was refused, in order.
        state: ``Open``, ``Suspended``, ``Resolved``, ``Expired`` or ``Cancelled``, at the last instant of the lanes.
    """

    def __init__(self, clock: VirtualClock, lanes: str | Timeline, legend: Mapping[str, Any], frame: int) -> None:
        timeline = lanes if isinstance(lanes, Timeline) else Timeline.parse(lanes, frame=frame)
        self._marks = _marks(timeline, legend)
        self._lanes = timeline.lanes
        self._start, start = _start(self._marks)
        self._initiator = self._start.sender
        self._runtime = Runtime(clock=clock)
        self._clock = clock
        self._client = MacpClient.embedded(agent=self._initiator, runtime=self._runtime)
        payload = start.payload
        versions = (payload.mode_version, payload.configuration_version, payload.policy_version)
        self.session: Session = Session.at(self._client, Address(start.mode, clock.new_id(), *versions))
        self.accepted: tuple[Accepted, ...] = ()
        self.refused: tuple[Refused, ...] = ()
        self.state: str = ""
        self._voices: dict[str, RxSession] = {}
        self._waiting = deque(self._marks)
        self._events: list[Event] = []
        self._numbers = 0
        self._busy = self._told = False

    @property
    def times(self) -> Sequence[int]:
        """When something happens in the lanes, in microseconds."""
        return sorted({mark.time for mark in self._marks})

    @property
    def timeline(self) -> Timeline:
        """What happened, in the form of the lanes: what was said and, behind what was refused, its code."""
        return Timeline(tuple(self._events))

    def close(self) -> None:
        """Ends the client and the runtime."""
        self._client.close()
        self._runtime.close()

    def go_on(self) -> None:
        """Says what is due, one after the other: the next when the one before was answered, which takes no time."""
        while not self._busy and self._waiting and self._waiting[0].time <= self._clock.time:
            self._busy = True
            self._do(self._waiting.popleft())
        if not self._busy and not self._waiting and not self._told:
            self._told = True
            self._tell()

    def _do(self, mark: _Mark) -> None:
        if mark.value is None:
            self._ask(partial(self._note_end, mark))
            return

        def refused(error: Exception) -> None:
            code = getattr(error, "code", "")
            if not isinstance(error, MacpRefusedError | MacpTransportError) or not code:
                raise error
            mark.code = code
            self.refused = (*self.refused, Refused(mark.sender, mark.name, error))
            self._note(mark, Next(code))
            answered()

        def answered() -> None:
            self._busy = False
            self._clock.run_later(0, self.go_on)

        self._note(mark, Next(mark.value))
        self._saying(mark).subscribe(on_error=refused, on_completed=answered)

    def _saying(self, mark: _Mark) -> Observable[Any]:
        client = self._client.acting_as(mark.sender)
        match mark.value:
            case PolicyDescriptor():
                return client.rx.register_policy(mark.value)
            case SessionStart() | Message():
                message = mark.value.message if isinstance(mark.value, SessionStart) else mark.value
                mark.sent = self._voice(mark.sender).envelope(message, f"m{self._number()}")
            case Exactly(message, fields):
                step = Step(sender=mark.sender, message=message, envelope=fields)
                mark.sent = envelope(self.session.mode, self.session.session_id, step, self._number())
                if "timestamp_unix_ms" not in fields:
                    mark.sent.timestamp_unix_ms = self._clock.now_ms
            case _:
                return cast("Done", mark.value)(self._voice(mark.sender))
        return client.rx.send(mark.sent)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers - 1

    def _voice(self, sender: str) -> RxSession:
        if sender not in self._voices:
            self._voices[sender] = self.session.acting_as(sender).rx
        return self._voices[sender]

    def _note(self, mark: _Mark, what: Notification) -> None:
        self._events.append(Event(self._clock.time, mark.sender, what))

    def _note_end(self, mark: _Mark) -> None:
        if self.state in ENDED:
            self._note(mark, Completed())

    def _ask(self, then: Callable[[], object]) -> None:
        """Learns the session's state."""

        def answered(response: GetSessionResponse) -> None:
            name = SessionState.Name(response.metadata.state).removeprefix("SESSION_STATE_")
            self.state = name.capitalize()

        def unknown(error: Exception) -> None:
            if getattr(error, "code", "") != "SESSION_NOT_FOUND":  # its SessionStart was refused
                raise error
            completed()

        def completed() -> None:
            self._busy = False
            then()
            self.go_on()

        asking = self._client.rx.get_session(self.session.session_id)
        asking.subscribe(answered, unknown, completed)

    def _tell(self) -> None:
        """Learns how it all ended, when everything was said."""

        def ended() -> None:
            if self.state in ENDED and not any(isinstance(event.what, Completed) for event in self._events):
                self._events.append(Event(self._clock.time, self._initiator, Completed()))
            if self.state:
                self._client.history(self.session.session_id).subscribe(history.append, on_completed=kept)

        def kept() -> None:
            self.accepted = tuple(history)

        history: list[Accepted] = []
        self._ask(ended)

    def difference(self) -> str | None:
        """How what happened differs from what the lanes say, for people; None if it does not."""
        if self._waiting or self._busy:
            return f"nothing answered what was said at {written(self._clock.time)}"
        for lane in self._lanes:
            expected, names = _expected([mark for mark in self._marks if mark.sender == lane])
            actual = [(event.time, event.what) for event in self._events if event.lane == lane]
            if told := difference(expected, names, actual):
                why = [f"  {one.name} was refused: {one.error}" for one in self.refused if one.sender == lane]
                return "\n".join([f"lane {lane}", told, *why])
        return None

    def to_fixture(self, description: str = "") -> str:
        """What happened as a conformance fixture of the MACP specification, which `macp-conform` reads.

        It expects what this runtime accepted and refused, the state and the history. It says when only where time decided
        something: the session has expired, or the runtime itself said something.

        Args:
            description: what it shows.

        Raises:
            MacpSessionError: the marbles have not run yet, or a fixture cannot say what is in them.
        """
        if not self.state:
            raise MacpSessionError("there is no session: the marbles have not run yet, or its SessionStart was refused")
        policies = [mark.value for mark in self._marks if isinstance(mark.value, PolicyDescriptor)]
        start = SessionStartPayload.FromString(cast("Envelope", self._start.sent).payload)
        others = [policy.policy_id for policy in policies if policy.policy_id != start.policy_version]
        if others:
            raise MacpSessionError(f"a fixture registers the policy of its session, and not {', '.join(others)}")
        said = self.accepted[1:]
        timed = self.state == "Expired" or any(map(_synthetic, said))
        steps = [
            _step(mark, (mark.time - self._start.time) // FRAME if timed else None)
            for mark in self._marks
            if mark.value is not None and mark is not self._start and not isinstance(mark.value, PolicyDescriptor)
        ]
        expected: dict[str, object] = {}
        if self.session.mode != MULTI_ROUND:  # of which the specification's runner compares no resolution
            expected["expect_resolution_present"] = self.state == "Resolved"
            if self.state == "Resolved":
                expected["expected_resolution"] = payload_members(said[-1].payload)
        expected["expected_history"] = [
            {
                "message_type": one.message_type,
                "sender": one.sender,
                **({"payload": payload_members(one.payload), "synthetic": True} if _synthetic(one) else {}),
            }
            for one in said
        ]
        fixture = Fixture(
            mode=self.session.mode,
            initiator=self._initiator,
            start=start,
            steps=tuple(steps),
            final_state=self.state,
            policy=policies[0] if policies else None,
            expected=expected,
            description=description,
        )
        return fixture.to_json()


def from_fixture(text: str) -> Timeline:
    """A conformance fixture of the MACP specification as lanes that `Marbles.session` plays; ``print`` shows them.

    Where it says no times, its messages come two frames apart. What it expects beside acceptance, codes and the end, such as the
    mode's state, is left out.

    Args:
        text: the fixture, as JSON.

    Raises:
        MacpSessionError: it is none.
    """
    fixture = Fixture.from_json(text)
    events = [] if fixture.policy is None else [Event(0, REGISTRAR, Next(fixture.policy))]
    events.append(Event(0, fixture.initiator, Next(Message(fixture.mode, fixture.start))))
    time = 0
    for number, step in enumerate(fixture.steps, start=1):
        time = (2 * number if step.at_ms is None else step.at_ms) * FRAME
        events.append(Event(time, step.sender, Next(_as_it_stands(step))))
        if step.refused is not None:
            events.append(Event(time, step.sender, Next(step.refused or "#")))
    if fixture.final_state in ENDED:
        events.append(Event(time, fixture.initiator, Completed()))
    return Timeline(tuple(events))


def _as_it_stands(step: Step) -> Message | Exactly:
    payload = step.message.payload
    blank = isinstance(payload, CommitmentPayload) and not all(getattr(payload, name) for name in FILLED_IN)
    return Exactly(step.message, step.envelope) if step.envelope or blank else step.message


def _marks(timeline: Timeline, legend: Mapping[str, Any]) -> list[_Mark]:
    """What the lanes say, and the code that each thing should be refused with."""
    marks: list[_Mark] = []
    names = _Names(legend)
    for event in timeline.events:
        if isinstance(event.what, Completed):
            marks.append(_Mark(event.time, event.lane, "|"))
            continue
        value = event.what.value if isinstance(event.what, Next) else event.what.error
        if isinstance(value, str) and value not in legend:
            _refuse(marks, event, value, legend)
            continue
        name, value = (value, legend[value]) if isinstance(value, str) else (names.of(value), value)
        if isinstance(value, Said):
            if value.sender != event.lane:
                raise MacpSessionError(f"{name} is said by {value.sender!r}, and stands in the lane of {event.lane!r}")
            value = value.message
        if not (isinstance(value, SessionStart | Message | Exactly | PolicyDescriptor) or callable(value)):
            raise MacpSessionError(
                f"{name} means {value!r}; in a session it is a SessionStart, a Message, an Exactly, a PolicyDescriptor, or "
                "what is done, such as lambda session: session.suspend()"
            )
        marks.append(_Mark(event.time, event.lane, name, cast("Any", value)))
    return marks


def _refuse(marks: list[_Mark], event: Event, code: str, legend: Mapping[str, Any]) -> None:
    if code != "#" and code not in GRPC_STATUS:
        raise MacpSessionError(
            f"{code!r} is neither in the legend ({', '.join(legend) or 'which is empty'}) nor a code such as INVALID_ENVELOPE"
        )
    before = [mark for mark in marks if (mark.sender, mark.time) == (event.lane, event.time)]
    if not before or before[-1].value is None or before[-1].expected is not None:
        raise MacpSessionError(
            f"{code} at {written(event.time)} stands behind nothing that is refused: write (v {code})"
        )
    before[-1].expected = code


def _start(marks: Sequence[_Mark]) -> tuple[_Mark, Message[SessionStartPayload]]:
    """The SessionStart, with which a session begins."""
    first = next((mark for mark in marks if not isinstance(mark.value, PolicyDescriptor)), None)
    value: Any = None if first is None else first.value
    message: Any = value.message if isinstance(value, SessionStart) else value
    if first is None or not isinstance(message, Message) or message.message_type != "SessionStart":
        raise MacpSessionError(
            "a session begins with a SessionStart, in the lane of who opens it: 'chair : S-p', {'S': SessionStart(…), …}"
        )
    return first, cast("Message[SessionStartPayload]", message)


def _expected(marks: Sequence[_Mark]) -> tuple[list[Scheduled], list[str]]:
    found: list[tuple[Scheduled, str]] = []
    for mark in marks:
        found.append(((mark.time, Completed() if mark.value is None else Next(mark.value)), mark.name))
        if mark.expected == "#":
            found.append(((mark.time, Next(Where(GRPC_STATUS.__contains__, "any code"))), "#"))
        elif mark.expected is not None:
            found.append(((mark.time, Next(mark.expected)), mark.expected))
    return [one for one, _name in found], [name for _one, name in found]


def _step(mark: _Mark, at_ms: int | None) -> Step:
    if mark.sent is None:
        raise MacpSessionError(f"a fixture has only messages, and cannot say {mark.name!r}")
    message = mark.value.message if isinstance(mark.value, Exactly | SessionStart) else cast("Message", mark.value)
    payload = message.payload
    if isinstance(payload, Protobuf):  # as it was sent: with what was filled in
        payload = type(payload).FromString(mark.sent.payload)
    return Step(
        sender=mark.sender,
        message=Message(mark.sent.mode, payload, message.message_type),
        refused=mark.code,
        at_ms=at_ms,
        envelope=mark.value.envelope if isinstance(mark.value, Exactly) else Map[str, str | int](),
    )


def _synthetic(accepted: Accepted) -> bool:
    return accepted.message_id.startswith(handoff.RESERVED)


class _Names:
    """Names for values that stand in a timeline without one: the first letter of their type, and a number."""

    def __init__(self, legend: Mapping[str, Any]) -> None:
        self._known: list[tuple[object, str]] = [(value, name) for name, value in legend.items()]

    def of(self, value: object) -> str:
        known = next((name for one, name in self._known if type(one) is type(value) and one == value), None)
        if known is not None:
            return known
        message = value.message if isinstance(value, Exactly) else value
        initial = (message.message_type if isinstance(message, Message) else shown(message))[:1].lower()
        taken = {name for _one, name in self._known}
        name = next(name for number in range(len(taken) + 1) if (name := f"{initial}{number or ''}") not in taken)
        self._known.append((value, name))
        return name
