"""One session as a page hears it: what is accepted in it, each with its mark, where it stands, and what its connection does."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, Final, cast
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import reactivex as rx
from macp.v1.core_pb2 import SessionMetadata
from reactivex import Observable, Subject
from reactivex import operators as ops

from macp_rx import operators as mo
from macp_rx.client import MacpClient
from macp_rx.diagrams.cards import Row, card_of
from macp_rx.diagrams.lanes import draw_symbol
from macp_rx.diagrams.picture import clean
from macp_rx.diagrams.symbols import Symbol, symbol_of
from macp_rx.errors import MacpError, MacpSessionError
from macp_rx.operators import Count, Permitted, Tally
from macp_rx.protocol.map import Map
from macp_rx.protocol.messages import Accepted
from macp_rx.protocol.modes import MODES, decision, quorum
from macp_rx.protocol.policy import BUILT_IN, DEFAULT, Policy, policy_from
from macp_rx.streams.retry import FOR_EVER
from macp_rx.streams.status import Connection, Status
from macp_rx.streams.stream import Pull, stream
from macp_rx.studio.frames import frame
from macp_rx.timeline import Next

__all__ = ["KEPT", "frames"]

KEPT: Final = 400
"""So many of the newest messages are told to a page at once; of those before only how many they are."""

LETTERS: Final = 1_000
"""So many letters of what a message says."""

ROWS: Final = 40
"""So many of the proposals that are voted on."""

LABEL: Final = 60
"""So many of what stands below its mark, which the page shortens to the room that there is."""


async def frames(client: MacpClient, metadata: SessionMetadata, after: int) -> AsyncGenerator[str]:
    """What a page is to hear of a session until it has ended: all that has come since the last frame, in one.

    The stream waits for its reader: where a page is slow, so is the session's call, and neither of them costs memory.

    Args:
        client: who reads.
        metadata: which session.
        after: the sequence that the page has heard last; 0 for nothing. The stream begins with the start all the same, as where
            the session stands follows from all of it.
    """
    pull = Pull[Accepted | Status](client.clock)
    try:
        session = _Session(client, metadata, await _policy(client, metadata.policy_version), after)
        pull.subscribe(_told(client, metadata.session_id))
        while await pull.wait_async():
            while pull.available:
                session.take(pull.take())
            if session.caught_up and session.has_news:
                yield session.news()
        if session.has_news:
            yield session.news()
        yield await _ended(client, metadata.session_id, session.commitment)
    except MacpError as error:
        yield frame("failed", {"why": str(error), "code": getattr(error, "code", "")})
    finally:
        pull.dispose()


def _told(client: MacpClient, session_id: str) -> Observable[Accepted | Status]:
    """What a session accepts, and between it what happens to the connection."""
    events = client.session_events(session_id, on_gap="continue", retry=FOR_EVER)
    over: Subject[bool] = Subject()
    accepted = events.pipe(ops.do_action(on_completed=lambda: over.on_next(True)))
    status: Observable[Any] = events.status.pipe(ops.take_until(over))
    return status.pipe(ops.merge(accepted))


async def _policy(client: MacpClient, policy_id: str) -> Policy | None:
    try:
        built_in = BUILT_IN.get(policy_id or DEFAULT.policy_id)
        return built_in or policy_from((await client.rx.get_policy(policy_id)).policy_descriptor)
    except MacpError:  # unregistered meanwhile: where the session stands is not told, and everything else is
        return None


async def _ended(client: MacpClient, session_id: str, commitment: Accepted | None) -> str:
    accepted: Observable[Accepted] = rx.empty() if commitment is None else rx.just(commitment)
    outcome = await client.outcome(session_id, stream(accepted, client.clock))
    action = outcome.commitment.action if outcome.commitment is not None else ""
    mark = _mark(symbol_of(Next(outcome)))
    return frame("ended", {"state": outcome.state, "action": action, "reason": outcome.reason, "mark": mark})


class _Session:
    """What a page has not been told yet.

    Args:
        client: whose clock it is.
        metadata: which session.
        policy: what it is bound to; None if nobody tells.
        after: the sequence that the page has heard last.
    """

    def __init__(self, client: MacpClient, metadata: SessionMetadata, policy: Policy | None, after: int) -> None:
        self.commitment: Accepted | None = None
        self.caught_up = False
        self._clock = client.clock
        self._standing = _Standing(metadata, policy)
        self._told = self._last = after
        self._new: deque[dict[str, object]] = deque(maxlen=KEPT)
        self._down = False

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._new)

    def take(self, what: Accepted | Status) -> None:
        """Takes what the session, or its connection, tells."""
        if isinstance(what, Status):
            self._connection(what)
            return
        self._standing.take(what)
        if what.message_type == "Commitment":
            self.commitment = what
        if what.sequence > self._last:
            self._last = what.sequence
            sent, now = what.envelope.timestamp_unix_ms, self._clock.now_ms
            at = now if what.live or not 0 < sent < now else sent
            shown = {"sequence": what.sequence, "lane": clean(what.sender), "type": clean(what.message_type)}
            self._new.append({**shown, "at": at, "says": _fields(what), **_look(what)})

    def _connection(self, status: Status) -> None:
        """Of an undisturbed connection there is nothing to tell."""
        match status.connection:
            case Connection.CAUGHT_UP:
                self.caught_up = True
                return
            case Connection.RECONNECTING:
                return
            case Connection.CONNECTED if not self._down:
                return
            case Connection.GAP:
                self._standing.lose()
            case _:
                self._down = status.connection is Connection.LOST
        says = [["why", clean(str(status.error)[:LETTERS])]] if status.error else []
        shown = {"connection": status.connection.value, "at": self._clock.now_ms}
        self._new.append({**shown, "says": says, **_look(status)})

    def news(self) -> str:
        """What is new, as one event; its id is where a page that comes back goes on."""
        shown = list(self._new)
        self._new.clear()
        untold = self._last - self._told - sum("sequence" in each for each in shown)
        self._told = self._last
        return frame("said", {"untold": untold, "said": shown, "standing": self._standing.told}, self._told)


def _look(value: Accepted | Status) -> dict[str, str]:
    """A value as a picture has it: its mark, and what stands below."""
    symbol = symbol_of(Next(value))
    return {"mark": _mark(symbol), "label": clean(symbol.label[:LABEL]), "detail": clean(symbol.detail[:LABEL])}


def _fields(accepted: Accepted) -> list[list[str]]:
    """What a message says, by name."""
    try:
        fields = accepted.fields
    except MacpSessionError:
        fields = {"payload": accepted.envelope.payload}
    return [[name, clean(_words(value)[:LETTERS])] for name, value in fields.items()]


def _words(value: object) -> str:
    match value:
        case bytes():
            return f"{len(value):,} bytes"
        case str() | int() | float():
            return str(value)
        case Mapping():
            return ", ".join(map(str, cast("Mapping[object, object]", value)))
        case Iterable():
            return ", ".join(_words(item) for item in cast("Iterable[object]", value))
        case _:  # a message inside a message
            return " ".join(str(value).split())


def _mark(symbol: Symbol) -> str:
    """The mark of a picture, around zero, as SVG; what is in it is escaped."""
    group = Element("g")
    draw_symbol(group, symbol, 0, 0)
    return ElementTree.tostring(group, encoding="unicode")


class _Standing:
    """Where a session stands, as far as its history tells: phase, counts, and which commitment would be accepted.

    Args:
        metadata: which session.
        policy: what it is bound to; without it, and in a mode of one's own, nothing is known.
    """

    def __init__(self, metadata: SessionMetadata, policy: Policy | None) -> None:
        self._state: object = None
        self._permitted: Permitted | None = None
        self._said: Subject[Accepted] = Subject()
        if policy is None or metadata.mode not in MODES:
            return
        self._said.pipe(mo.states(MODES[metadata.mode].mode, policy=policy)).subscribe(self._stands, self._unknown)
        if metadata.participants:
            self._said.pipe(mo.under_policy(policy, metadata.participants)).subscribe(self._permits, self._unknown)

    def take(self, accepted: Accepted) -> None:
        """Takes one more message."""
        self._said.on_next(accepted)

    def lose(self) -> None:
        """A part of the history is missing: from now on nothing is known."""
        self._said.on_completed()
        self._unknown()

    def _stands(self, state: object) -> None:
        self._state = state

    def _permits(self, permitted: Permitted) -> None:
        self._permitted = permitted

    def _unknown(self, _error: Exception | None = None) -> None:
        self._state = self._permitted = None

    @property
    def told(self) -> dict[str, object] | None:
        """It, for a page; None if it is not known."""
        if self._state is None:
            return None
        rows = [(row.name[:LABEL], row.text[:LETTERS], row.bar.parts if row.bar else ()) for row in _rows(self._state)]
        told: dict[str, object] = {"phase": str(getattr(self._state, "phase", "")), "rows": rows}
        if self._permitted is not None:
            permitted = self._permitted
            told["permitted"] = [
                {"sign": sign, "stands": stands, "why": [denial.message for denial in denials]}
                for sign, stands, denials in (
                    ("positive", permitted.positive, permitted.denials.positive),
                    ("negative", permitted.negative, permitted.denials.negative),
                )
            ]
        return told


def _rows(state: object) -> Sequence[Row]:
    """What is counted in a state; of a mode that counts nothing, what its card says."""
    match state:
        case decision.State():
            votes = {proposal_id: state.votes.get(proposal_id) for proposal_id in sorted(state.proposals)[:ROWS]}
            counts = {
                name: _count(vote.vote for vote in cast.values()) if cast else Count() for name, cast in votes.items()
            }
            more = len(state.proposals) - len(counts)
            rest = [Row("", f"and {more:,} more")] if more else []
            return (*card_of(Tally(Map(counts))).rows, *rest)
        case quorum.State(request=request) if request is not None:
            count = Count(state.approval_count, state.rejection_count, state.abstention_count)
            needed = Row("needed", f"{state.threshold} of {len(state.participants)}")
            return (*card_of(Tally(Map({request.request_id: count}))).rows, needed)
        case _:
            return card_of(state).rows


def _count(votes: Iterable[str]) -> Count:
    said = Counter(votes)
    return Count(said["APPROVE"], said["REJECT"], said["ABSTAIN"])
