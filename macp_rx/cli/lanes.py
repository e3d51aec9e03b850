"""What sessions accept, a line each: a lane for each agent, what it says, and where the session stands after it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from macp.v1.core_pb2 import CommitmentPayload, SessionStartPayload
from macp.v1.policy_pb2 import PolicyDescriptor
from rich.console import Console
from rich.text import Text

from macp_rx.cli.terminal import STYLES, plain, show
from macp_rx.errors import MacpError, MacpSessionError
from macp_rx.operators.states import Fold, policy_id_of
from macp_rx.operators.tally import Count
from macp_rx.protocol.messages import Accepted
from macp_rx.protocol.modes import MODES, decision, multi_round, quorum, task
from macp_rx.protocol.policy import BUILT_IN, policy_from

__all__ = ["Lanes", "PolicyOf"]

PolicyOf = Callable[[str], PolicyDescriptor]
"""Where a policy that is not built in comes from, by its id; raises MacpError if it is unknown."""

MOST_LANES: Final = 12
"""A session with more agents has no lanes drawn: there would be no room for what they say."""

NAME: Final = 20
"""So many letters of an agent's name at the most."""

TYPE_WIDTH: Final = len("CounterProposal")

CHOICES: Final = {"Approve": "APPROVE", "Reject": "REJECT", "Abstain": "ABSTAIN"}


def _unknown(policy_id: str) -> PolicyDescriptor:
    raise MacpSessionError(f"nobody can be asked for policy {policy_id!r}")


class Lanes:
    """Shows it, as it comes.

    Args:
        out: where.
        policy_of: what tells a policy; without it the state of a session under a policy of its own is not shown.
    """

    def __init__(self, out: Console, policy_of: PolicyOf = _unknown) -> None:
        self._out = out
        self._policy_of = policy_of
        self._sessions: dict[str, _Session] = {}
        self._last = ""

    def show(self, accepted: Accepted) -> None:
        """Shows one more envelope; where it is of another session than the one before, the session first."""
        session_id = accepted.session_id
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = _Session(accepted, self._policy_of)
        if session_id != self._last:
            gap = [] if not self._last else [Text()]
            self._last = session_id
            for line in (
                *gap,
                Text.assemble(("session ", "bold"), plain(session_id), (f" {plain(accepted.mode)}", "dim")),
            ):
                show(self._out, line)
        for line in session.take(accepted):
            show(self._out, line)
        if session.is_over:
            del self._sessions[session_id]


class _Session:
    """One session: who speaks in it, and where it stands."""

    def __init__(self, first: Accepted, policy_of: PolicyOf) -> None:
        names = [first.sender]
        if isinstance(start := _payload(first), SessionStartPayload):
            names += start.participants
        self._lanes = dict.fromkeys(names)
        self._begun = first.envelope.timestamp_unix_ms
        self._fold = _fold(first, policy_of)
        self._standing = ""
        self.is_over = False

    def take(self, accepted: Accepted) -> list[Text]:
        """The lines of one more envelope."""
        self._lanes.setdefault(accepted.sender)
        payload = _payload(accepted)
        self.is_over = accepted.message_type == "Commitment"
        width = min(NAME, max(map(len, self._lanes)))
        line = Text.assemble((f"{accepted.sequence:>3} {self._when(accepted):>9}  ", "dim"))
        line.append_text(self._marks(accepted.sender, *_sign(accepted, payload)))
        line.append(f"{plain(accepted.sender)[:width]:<{width}} ", "cyan")
        line.append(f"{plain(accepted.message_type):<{TYPE_WIDTH}} ", "bold")
        line.append_text(_said(accepted))
        lines = [line]
        if standing := self._stands(accepted):
            state = Text(" " * 15).append_text(self._marks("", "", ""))
            lines.append(state.append(f"{' ' * width} {standing}", "dim italic"))
        return lines

    def _when(self, accepted: Accepted) -> str:
        sent = accepted.envelope.timestamp_unix_ms
        return f"{(sent - self._begun) / 1000:.2f} s" if sent > 0 and self._begun > 0 else ""

    def _marks(self, sender: str, mark: str, style: str) -> Text:
        if len(self._lanes) > MOST_LANES:
            return Text()
        lanes = Text()
        for name in self._lanes:
            lanes.append(*((f"{mark} ", style) if name == sender else ("│ ", "dim")))
        return lanes.append(" ")

    def _stands(self, accepted: Accepted) -> str:
        """Where it stands now, if that is not where it stood before."""
        if self._fold is None:
            return ""
        if accepted.message_type != "SessionStart":
            try:
                self._fold.take(accepted)
            except MacpError:  # it does not begin with the SessionStart, or its policy is another by now
                self._fold = None
                return ""
        before, self._standing = self._standing, _standing(self._fold.state)
        return self._standing if self._standing != before else ""


def _payload(accepted: Accepted) -> object:
    try:
        return accepted.payload
    except MacpSessionError:
        return None


def _fold(first: Accepted, policy_of: PolicyOf) -> Fold[Any] | None:
    start = _payload(first)
    if not isinstance(start, SessionStartPayload) or first.mode not in MODES:
        return None
    policy_id = policy_id_of(start)
    try:
        policy = BUILT_IN.get(policy_id) or policy_from(policy_of(policy_id))
        return Fold("watch", MODES[first.mode].mode, first, policy)
    except MacpError:
        return None


def _sign(accepted: Accepted, payload: object) -> tuple[str, str]:
    """What stands on the lane, and its colour."""
    if isinstance(payload, CommitmentPayload):
        return "◆", "green" if payload.outcome_positive else "red"
    if isinstance(payload, SessionStartPayload):
        return "○", ""
    choice = str(getattr(payload, "vote", CHOICES.get(accepted.message_type, "")))
    return "●", STYLES.get(choice, "")


def _said(accepted: Accepted) -> Text:
    line = Text()
    try:
        fields = accepted.fields
    except MacpSessionError:
        return line.append(f"{len(accepted.envelope.payload)} bytes", "dim")
    for name, value in fields.items():
        line.append(f"{name} ", "dim")
        line.append(f"{_words(value)}  ", STYLES.get(str(value), ""))
    line.rstrip()
    return line


def _words(value: object) -> str:
    match value:
        case str():
            return plain(value)
        case bytes():
            return f"{len(value)} bytes"
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return f"{value:,}" if isinstance(value, int) else f"{value:g}"
        case Mapping():
            return ", ".join(plain(str(key)) for key in cast("Mapping[object, object]", value))
        case Iterable():
            return ", ".join(_words(item) for item in cast("Iterable[object]", value))
        case _:  # a message inside a message
            return plain(" ".join(str(value).split()))


def _standing(state: Any) -> str:
    """Where a session stands, in words: the phase of its mode, and what is counted in it."""
    phase = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", state.phase).lower()
    match state:
        case decision.State():
            counts = [(proposal_id, _count(votes)) for proposal_id, votes in sorted(state.votes.items())]
            details = [f"{plain(proposal_id)}: {count}" for proposal_id, count in counts]
        case quorum.State(request=request) if request is not None:
            counted = Count(state.approval_count, state.rejection_count, state.abstention_count)
            details = [f"{counted} of {len(state.participants)}, {state.threshold} needed"]
        case task.State() if state.latest_progress is not None:
            details = [f"{state.progress:.0%}"]
        case multi_round.State():
            details = [f"round {state.round}"] if state.round else []
        case _:
            details = []
    return " · ".join([phase, *details])


def _count(votes: Any) -> Count:
    cast = Counter(vote.vote for vote in votes.values())
    return Count(cast["APPROVE"], cast["REJECT"], cast["ABSTAIN"])
