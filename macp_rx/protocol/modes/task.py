"""Task mode: one task, one assignee, one report (RFC-MACP-0009, `protocol.md` 4.4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from macp.modes.task.v1.task_pb2 import (
    TaskAcceptPayload,
    TaskCompletePayload,
    TaskFailPayload,
    TaskRejectPayload,
    TaskRequestPayload,
    TaskUpdatePayload,
)
from macp.v1.envelope_pb2 import Envelope

from macp_rx.errors import Denial, MacpSessionError
from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.commitment import commit, decode_commitment
from macp_rx.protocol.link import Link
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import TASK, Message
from macp_rx.protocol.modes import rules
from macp_rx.protocol.modes.projection import Projection
from macp_rx.protocol.policy import Policy, permit
from macp_rx.protocol.refusals import decoded, forbidden, invalid
from macp_rx.protocol.validation import validate_progress, validate_required_field

__all__ = [
    "Phase",
    "Rejection",
    "State",
    "TaskAcceptPayload",
    "TaskCompletePayload",
    "TaskFailPayload",
    "TaskRejectPayload",
    "TaskRequestPayload",
    "TaskUpdatePayload",
    "accept_task",
    "as_json",
    "authorize",
    "commit",
    "complete_task",
    "denials",
    "fail_task",
    "initial",
    "reject_task",
    "request_task",
    "step",
    "update_task",
]

MODE: Final = TASK
TITLE: Final = "Task"
DESCRIPTION: Final = "One task is asked for, taken on, reported on and settled"
DETERMINISM_CLASS: Final = "structural-only"
PARTICIPANT_MODEL: Final = "orchestrated"
MESSAGE_TYPES: Final = ("TaskRequest", "TaskAccept", "TaskReject", "TaskUpdate", "TaskComplete", "TaskFail")


# Messages: values, nothing is sent by making one.


def request_task(
    task_id: str,
    title: str,
    *,
    instructions: str = "",
    requested_assignee: str = "",
    input_data: bytes = b"",
    deadline_unix_ms: int = 0,
) -> Message[TaskRequestPayload]:
    """Asks for a task to be done; by anybody, or by one named participant. The deadline is recorded, not enforced.

    Args:
        task_id: its id.
        title: what is to be done, in a line.
        instructions: what is to be done.
        requested_assignee: who is to do it; anybody if blank.
        input_data: what is needed for it.
        deadline_unix_ms: when it is due, in Unix milliseconds; recorded, not enforced.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("task_id", task_id)
    payload = TaskRequestPayload(
        task_id=task_id,
        title=title,
        instructions=instructions,
        requested_assignee=requested_assignee,
        input=input_data,
        deadline_unix_ms=deadline_unix_ms,
    )
    return Message(MODE, payload)


def accept_task(task_id: str, *, assignee: str = "", reason: str = "") -> Message[TaskAcceptPayload]:
    """Takes the task on.

    Args:
        task_id: which task.
        assignee: who takes it on; the sender, also if blank.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("task_id", task_id)
    return Message(MODE, TaskAcceptPayload(task_id=task_id, assignee=assignee, reason=reason))


def reject_task(task_id: str, *, assignee: str = "", reason: str = "") -> Message[TaskRejectPayload]:
    """Does not take the task on, or gives it back.

    Args:
        task_id: which task.
        assignee: who rejects it; the sender, also if blank.
        reason: why.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("task_id", task_id)
    return Message(MODE, TaskRejectPayload(task_id=task_id, assignee=assignee, reason=reason))


def update_task(
    task_id: str, *, status: str = "", progress: float = 0.0, message: str = "", partial_output: bytes = b""
) -> Message[TaskUpdatePayload]:
    """Tells how far the task is.

    Args:
        task_id: which task.
        status: a word for where it stands.
        progress: how far it is; in [0, 1] by custom.
        message: more, for people.
        partial_output: what there is already.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("task_id", task_id)
    validate_progress(progress)
    payload = TaskUpdatePayload(
        task_id=task_id, status=status, progress=progress, message=message, partial_output=partial_output
    )
    return Message(MODE, payload)


def complete_task(
    task_id: str, *, assignee: str = "", output: bytes = b"", summary: str = ""
) -> Message[TaskCompletePayload]:
    """Reports the task done.

    Args:
        task_id: which task.
        assignee: who has done it; the sender, also if blank.
        output: what came out.
        summary: the same, for people.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("task_id", task_id)
    return Message(MODE, TaskCompletePayload(task_id=task_id, assignee=assignee, output=output, summary=summary))


def fail_task(
    task_id: str, *, assignee: str = "", error_code: str = "", reason: str = "", retryable: bool = False
) -> Message[TaskFailPayload]:
    """Reports the task failed.

    Args:
        task_id: which task.
        assignee: who has failed; the sender, also if blank.
        error_code: what went wrong, for programs.
        reason: what went wrong, for people.
        retryable: whether another try may succeed.

    Raises:
        MacpSessionError: what the protocol would refuse.
    """
    validate_required_field("task_id", task_id)
    payload = TaskFailPayload(
        task_id=task_id, assignee=assignee, error_code=error_code, reason=reason, retryable=retryable
    )
    return Message(MODE, payload)


# State.


class Phase(StrEnum):
    """How far a task has come. It is Requested again when its assignee has given it back."""

    PENDING = "Pending"
    REQUESTED = "Requested"
    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    FAILED = "Failed"
    COMMITTED = "Committed"


@dataclass(frozen=True, slots=True)
class Rejection:
    """One participant's refusal of the task.

    Attributes:
        assignee: who.
        reason: why.
        while_assigned: it had accepted before.
        number: its place among the refusals, from 0.
    """

    assignee: str
    reason: str
    while_assigned: bool
    number: int


@dataclass(frozen=True, slots=True)
class State(Projection):
    """What was accepted in a task session.

    Attributes:
        initiator: who started the session, and asks for the task.
        participants: who may work.
        task: what is to be done; one per session.
        current_assignee: who has it now; the first to accept.
        rejections: who has refused it -> how; once each.
        updates: (sender, update), as a list that shares structure.
        report: the completion or the failure; after it nothing is updated.
        reporter: whose.
    """

    initiator: str
    participants: tuple[str, ...]
    task: TaskRequestPayload | None = None
    current_assignee: str | None = None
    rejections: Map[str, Rejection] = field(default_factory=Map[str, Rejection])
    updates: Link[tuple[str, TaskUpdatePayload]] | None = None
    report: TaskCompletePayload | TaskFailPayload | None = None
    reporter: str = ""

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        if self.is_committed:
            return Phase.COMMITTED
        if self.report is not None:
            return Phase.COMPLETED if self.is_completed else Phase.FAILED
        if self.current_assignee is not None:
            return Phase.IN_PROGRESS
        return Phase.PENDING if self.task is None else Phase.REQUESTED

    @property
    def current_status(self) -> str | None:
        """``requested``, ``accepted``, ``in_progress``, ``rejected``, ``completed`` or ``failed``; None without a task.

        It is ``rejected`` only when its assignee has given it back; who has never had it declines for itself alone.
        """
        if self.report is not None:
            return "completed" if self.is_completed else "failed"
        if self.current_assignee is not None:
            # who has given it back cannot take it again, so an update of the assignee's is one since it has the task
            updated = self.updates is not None and self.updates.item[0] == self.current_assignee
            return "in_progress" if updated else "accepted"
        if self.task is None:
            return None
        return "rejected" if self.given_back else "requested"

    @property
    def progress(self) -> float:
        """How far the task is: 0 at first, what the last update says, 1 once it was reported done."""
        return 1.0 if self.is_completed else self.latest_progress or 0.0

    @property
    def latest_progress(self) -> float | None:
        """What the last update says; None without one."""
        return self.updates.item[1].progress if self.updates else None

    @property
    def is_accepted(self) -> bool:
        """Whether somebody has the task and works on it."""
        return self.current_assignee is not None and self.report is None

    @property
    def is_completed(self) -> bool:
        """Whether the task was reported done."""
        return isinstance(self.report, TaskCompletePayload)

    @property
    def is_failed(self) -> bool:
        """Whether the task was reported failed."""
        return isinstance(self.report, TaskFailPayload)

    @property
    def is_retryable(self) -> bool:
        """Whether the task failed in a way that may pass."""
        return isinstance(self.report, TaskFailPayload) and self.report.retryable

    @property
    def declined_participants(self) -> tuple[str, ...]:
        """Who has rejected the task, in that order; none of them can accept it any more."""
        return tuple(sorted(self.rejections, key=lambda who: self.rejections[who].number))

    @property
    def given_back(self) -> bool:
        """Whether an assignee has given the task back."""
        return any(one.while_assigned for one in self.rejections.values())

    def has_declined(self, participant: str) -> bool:
        """Whether a participant has rejected it."""
        return participant in self.rejections

    def is_eligible(self, participant: str) -> bool:
        """Whether the task is this participant's to take: the named one's, else anybody's but the initiator's."""
        named = self.task.requested_assignee if self.task else ""
        return participant == named if named else participant in self.participants and participant != self.initiator

    def can_accept(self, participant: str) -> bool:
        """Whether this participant can take the task now, as far as the policy lets a task be taken twice."""
        free = self.task is not None and self.current_assignee is None and self.report is None
        return free and not self.has_declined(participant) and self.is_eligible(participant)

    @property
    def negative_commit_eligible(self) -> bool:
        """Whether a negative commitment is possible: there is a report, or the one it was meant for never took it on."""
        if self.report is not None:
            return True
        refused = self.rejections.get(self.task.requested_assignee) if self.task else None
        return refused is not None and not refused.while_assigned and self.current_assignee is None


def as_json(state: State) -> dict[str, object]:
    """The state as the reference runtime keeps it."""
    task = state.task
    task_id = task.task_id if task else ""
    return {
        "task": None
        if task is None
        else {
            "task_id": task.task_id,
            "title": task.title,
            "instructions": task.instructions,
            "requested_assignee": task.requested_assignee,
            "input": list(task.input),
            "deadline_unix_ms": task.deadline_unix_ms,
            "requester": state.initiator,
        },
        "active_assignee": state.current_assignee,
        "rejections": [
            {
                "task_id": task_id,
                "assignee": rejection.assignee,
                "reason": rejection.reason,
                "while_assigned": rejection.while_assigned,
            }
            for rejection in map(state.rejections.__getitem__, state.declined_participants)
        ],
        "updates": [
            {
                "task_id": task_id,
                "status": update.status,
                "progress": update.progress,
                "message": update.message,
                "partial_output": list(update.partial_output),
                "sender": sender,
            }
            for sender, update in state.updates or ()
        ],
        "terminal_report": _report_as_json(state),
    }


def _report_as_json(state: State) -> dict[str, object] | None:
    match state.report:
        case TaskCompletePayload() as done:
            complete = {"task_id": done.task_id, "assignee": state.reporter}
            return {"Complete": {**complete, "output": list(done.output), "summary": done.summary}}
        case TaskFailPayload() as failed:
            fail = {"task_id": failed.task_id, "assignee": state.reporter, "error_code": failed.error_code}
            return {"Fail": {**fail, "reason": failed.reason, "retryable": failed.retryable}}
        case _:
            return None


# Rules.


def initial(session: Binding) -> State:
    """The state at the start; there must be somebody besides the initiator."""
    if all(participant == session.initiator for participant in session.participants):
        raise invalid("a task needs a participant besides the initiator")
    return State(session.initiator, session.participants)


def authorize(session: Binding, sender: str, message_type: str) -> None:
    """The initiator asks, participants work, whoever has authority commits."""
    rules.authorize(session, sender, message_type, initiator_only="TaskRequest")


def step(session: Binding, state: State, envelope: Envelope, at: Instant) -> State:
    """The state after one more message of an authorized sender. Raises MacpRefusedError for what it breaks."""
    sender = envelope.sender
    match envelope.message_type:
        case "TaskRequest":
            return _request(session, state, envelope)
        case "TaskAccept":
            return _accept(session, state, sender, decoded(envelope.payload, TaskAcceptPayload))
        case "TaskReject":
            return _reject(session, state, sender, decoded(envelope.payload, TaskRejectPayload))
        case "TaskUpdate":
            return _update(state, sender, decoded(envelope.payload, TaskUpdatePayload))
        case "TaskComplete":
            return _report(state, sender, decoded(envelope.payload, TaskCompletePayload))
        case "TaskFail":
            return _report(state, sender, decoded(envelope.payload, TaskFailPayload))
        case "Commitment":
            commitment = decode_commitment(session, envelope.payload)
            if state.report is None and (commitment.outcome_positive or not state.negative_commit_eligible):
                raise invalid("the task was neither completed nor failed, nor declined by the one it was meant for")
            permit(denials(session.policy, state, positive=commitment.outcome_positive))
            return replace(state, commitment=commitment)
        case other:
            raise invalid(f"task mode has no {other!r}")


def _request(session: Binding, state: State, envelope: Envelope) -> State:
    task = decoded(envelope.payload, TaskRequestPayload)
    if state.task is not None:
        raise invalid("there is a task already")
    if not task.task_id:
        raise invalid("task_id is empty")
    if task.requested_assignee and task.requested_assignee not in session.participants:
        raise invalid(f"requested_assignee {task.requested_assignee!r} is no participant")
    return replace(state, task=task)


def _accept(session: Binding, state: State, sender: str, accepted: TaskAcceptPayload) -> State:
    _check_known(state, accepted.task_id)
    if state.current_assignee is not None:
        raise invalid(f"{state.current_assignee!r} has the task")
    if state.has_declined(sender):
        raise invalid(f"{sender!r} has rejected the task before")
    if state.given_back:
        _check_reassignable(session)
    _check_named(accepted.assignee, sender)
    _check_eligible(state, sender)
    return replace(state, current_assignee=sender)


def _reject(session: Binding, state: State, sender: str, rejected: TaskRejectPayload) -> State:
    _check_known(state, rejected.task_id)
    while_assigned = state.current_assignee == sender
    if while_assigned:
        _check_reassignable(session)
    elif state.current_assignee is not None:
        raise invalid(f"{state.current_assignee!r} has the task")
    _check_named(rejected.assignee, sender)
    if not while_assigned:
        _check_eligible(state, sender)
    if state.has_declined(sender):
        raise invalid(f"{sender!r} has rejected the task before")
    said = Rejection(sender, rejected.reason, while_assigned, len(state.rejections))
    return replace(state, current_assignee=None, rejections=state.rejections.set(sender, said))


def _update(state: State, sender: str, update: TaskUpdatePayload) -> State:
    _check_working(state, sender, update.task_id)
    try:
        validate_progress(update.progress)  # the reference runtime takes it, and then nothing more (probed)
    except MacpSessionError as error:
        raise invalid(str(error)) from None
    return replace(state, updates=Link((sender, update), state.updates))


def _report(state: State, sender: str, report: TaskCompletePayload | TaskFailPayload) -> State:
    _check_working(state, sender, report.task_id)
    _check_named(report.assignee, sender)
    return replace(state, report=report, reporter=sender)


def _check_known(state: State, task_id: str) -> None:
    if state.task is None or state.task.task_id != task_id:
        raise invalid(f"there is no task {task_id!r}")


def _check_working(state: State, sender: str, task_id: str) -> None:
    _check_known(state, task_id)
    if state.report is not None or sender != state.current_assignee:
        raise forbidden("only who has the task reports on it, and nothing follows the report")


def _check_named(named: str, sender: str) -> None:
    if named not in ("", sender):
        raise invalid(f"{sender!r} cannot speak in the name of {named!r}")


def _check_eligible(state: State, sender: str) -> None:
    if not state.is_eligible(sender):
        raise forbidden(f"the task is not {sender!r}'s to take")


def _check_reassignable(session: Binding) -> None:
    if not session.policy.rules.assignment.allow_reassignment_on_reject:
        permit([Denial("reassignment_not_allowed", "the policy does not let an assignee give the task back")])


def denials(policy: Policy, state: State, *, positive: bool) -> Iterator[Denial]:
    """Why a policy denies a commitment of this sign now (`protocol.md` 5.6); nothing if it permits it."""
    output = state.report.output if isinstance(state.report, TaskCompletePayload) else b""
    if positive and policy.rules.completion.require_output and not output:
        yield Denial("output_required", "the task was not completed with an output")
