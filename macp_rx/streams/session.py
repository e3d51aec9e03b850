"""The session stream: everything a session accepted and will accept, in order, once, until the session ends.

The protocol gives a call that breaks, lags, repeats itself, and hangs after the session's end (`protocol.md` 6). What is made of
it here: a stream that reopens behind its last sequence, drops what comes twice, and completes when the session has ended and the
server has said all it holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from dataclasses import dataclass
from math import isfinite
from typing import Final, Literal

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.disposable import SerialDisposable

from macp_rx.errors import MacpClosedError, MacpGapError, MacpSessionError, MacpStreamError, MacpTransportError
from macp_rx.protocol.messages import Accepted
from macp_rx.streams.delivery import BUFFER, Delivery
from macp_rx.streams.ends import Ends
from macp_rx.streams.retry import MOMENT, RECONNECT, Backoff, RetryPolicy, is_transient
from macp_rx.streams.source import cold
from macp_rx.streams.status import Connection, Status, Statuses
from macp_rx.streams.stream import Stream, raise_later, tell_raised
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import Call, Transport
from macp_rx.transport.methods import STREAM_SESSION
from macp_rx.transport.shared import SharedTransport
from macp_rx.transport.telemetry import CallTelemetry

__all__ = [
    "OnGap",
    "SessionStream",
    "history",
    "session_events",
    "subscribe_frame",
]

_log = logging.getLogger("macp_rx.streams")


REMEMBERED: Final = 512
"""How many message ids a stream remembers at least to drop what comes twice: twice what the server itself buffers."""

_NONE: Final[Set[str]] = frozenset()

OnGap = Literal["fail", "continue"]
"""What to do where the server has forgotten history that was not read yet: fail with MacpGapError, or go on behind it."""


class SessionStream(Stream[Accepted]):
    """A stream of what a session accepted, with a side channel that tells of its connection.

    Args:
        source: the observable that does the work.
        transport: what carries it.
        status: where its subscriptions tell of their connections.
    """

    def __init__(self, source: Observable[Accepted], transport: Transport, status: Statuses) -> None:
        super().__init__(source, transport.clock, can_wait=True)
        self._status = status
        self._transport = transport

    def delivered_on(self, scheduler: abc.SchedulerBase, buffer: int = BUFFER) -> SessionStream:
        """The same stream, delivered on a scheduler through a bounded buffer: while it is full, the call waits."""
        delivered = Delivery(scheduler, buffer=buffer)(self)
        return SessionStream(delivered, self._transport, self._status).of(self)

    @property
    def status(self) -> Stream[Status]:
        """What happens to the connections of this stream's subscriptions, from now on; never completes."""
        return Stream(Observable(self._status.subscribe), self.clock)


# The protocol has no word for the end of a replay. But frames are taken in order, and what answers one comes behind what was said
# before (probed): so a frame that no runtime accepts, sent behind the subscription, is answered when the replay has been said.
_CAUGHT_UP: Final = "macp_rx: caught up?"
_MARK: Final = core_pb2.StreamSessionRequest(envelope=Envelope(message_id=_CAUGHT_UP))


def subscribe_frame(session_id: str, after_sequence: int) -> core_pb2.StreamSessionRequest:
    """The frame that asks for a session's envelopes after a sequence (RFC-MACP-0006, 3.2)."""
    if after_sequence < 0:
        raise MacpSessionError(f"after_sequence {after_sequence} is negative; 0 starts with the SessionStart")
    return core_pb2.StreamSessionRequest(subscribe_session_id=session_id, after_sequence=after_sequence)


def session_events(
    shared: SharedTransport,
    session_id: str,
    after_sequence: int,
    *,
    auth: AuthConfig | None,
    ends: Ends,
    wait: float = 0,
    on_gap: OnGap = "fail",
    retry: RetryPolicy = RECONNECT,
    listed: bool = True,
) -> SessionStream:
    """Replays what a session accepted, goes on live, and completes when the session has ended.

        accepted           S-p-v-v-C
        after_sequence=0   S-p-v-v-(C|)
        after_sequence=2   ----v-v-(C|)

    Args:
        shared: what carries it.
        session_id: which session.
        after_sequence: start behind this position; 0 starts with the SessionStart.
        auth: who is reading: the initiator, a participant or an observer.
        ends: learns when the session ends.
        wait: seconds to wait for a session that has not been started yet.
        on_gap: what to do where the server has forgotten history.
        retry: how to reconnect.
        listed: in ``client.subscriptions``.

    Errors:
        MacpTransportError: no connection came about, or came back, in time; NOT_FOUND for an unknown session.
        MacpStreamError: FORBIDDEN for an outsider.
        MacpGapError: the server has forgotten what was not read yet.
    """
    reading = _Reading(shared, session_id, after_sequence, auth, ends, wait, on_gap, retry, listed)
    return reading.stream()


def history(
    shared: SharedTransport,
    session_id: str,
    after_sequence: int,
    *,
    auth: AuthConfig | None,
    retry: RetryPolicy = RECONNECT,
    listed: bool = True,
) -> SessionStream:
    """What a session has accepted by now, and then completion.

    Subscribes and half-closes: the server replays what it holds and ends the call with OK. Args and errors as
    `session_events`.
    """
    reading = _Reading(shared, session_id, after_sequence, auth, None, 0, "fail", retry, listed)
    return reading.stream()


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is to be read, and how. Without ``ends`` it is what is there by now."""

    shared: SharedTransport
    session_id: str
    after: int
    auth: AuthConfig | None
    ends: Ends | None
    wait: float
    on_gap: OnGap
    retry: RetryPolicy
    listed: bool

    @property
    def transport(self) -> Transport:
        """What carries it."""
        return self.shared.transport

    def stream(self) -> SessionStream:
        subscribe_frame(self.session_id, self.after)  # what protobuf refuses is refused here, and not on the I/O thread
        statuses = Statuses(self.shared.clock)

        def start(observer: abc.ObserverBase[Accepted]) -> _Following:
            telemetry = self.shared.telemetry.stream(self.session_id, self.after)
            following = _Following(self, observer, statuses, telemetry)
            following.start()
            return following

        what = f"{'history' if self.ends is None else 'events'} of {self.session_id}"
        return SessionStream(cold(self.shared, start, what if self.listed else ""), self.transport, statuses)


class _Following:
    """One subscription: numbers what comes, reopens what breaks, ends when the session has ended.

    Ordinals are not on the wire; the reader counts (`protocol.md` 6.4).
    """

    # 1,000 of these live at once
    __slots__ = (
        "_call",
        "_connected",
        "_down",
        "_early",
        "_ending",
        "_finite",
        "_kinds",
        "_last_id",
        "_live",
        "_lost_by",
        "_next",
        "_observer",
        "_outage",
        "_over",
        "_overlap",
        "_paused",
        "_reading",
        "_seen",
        "_seen_before",
        "_sequence",
        "_skipped",
        "_statuses",
        "_telemetry",
        "_told",
        "_unfollow",
        "_verifies",
        "_waiting",
        "_waits_until",
    )

    def __init__(
        self,
        reading: _Reading,
        observer: abc.ObserverBase[Accepted],
        statuses: Statuses,
        telemetry: CallTelemetry,
    ) -> None:
        self._reading = reading
        self._observer = observer
        self._next = telemetry.delivering(observer.on_next)
        self._statuses = statuses
        self._telemetry = telemetry
        self._sequence = reading.after
        self._finite = reading.ends is None
        self._ending = self._finite
        self._connected = self._live = self._paused = self._over = self._overlap = self._verifies = False
        self._down = False
        self._told: Connection | None = None
        self._last_id = ""
        self._skipped = 0
        # a session has one mode, so its kinds are few: made once, not per item
        self._kinds: dict[str, tuple[str, str]] = {}
        # two generations: forgetting one id at a time costs as much as the rest of the look (120 ns, measured)
        self._seen: set[str] = set()
        self._seen_before: Set[str] = _NONE
        self._call: Call[core_pb2.StreamSessionRequest] | None = None
        self._outage: Backoff | None = None
        self._lost_by: MacpTransportError | None = None
        self._early: Backoff | None = None
        self._waiting: SerialDisposable | None = None
        self._unfollow: Callable[[], None] | None = None
        self._waits_until = 0.0

    def start(self) -> None:
        reading = self._reading
        if reading.wait:
            self._waits_until = reading.transport.clock.seconds + reading.wait
        try:
            self._open()
        except MacpClosedError as error:
            self._fail(error)

    # What a source must be able to do.

    def cancel(self) -> None:
        self._over = True
        self._telemetry.cancelled()
        if self._waiting is not None:
            self._waiting.dispose()
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None
        self._hang_up()

    def pause(self) -> None:
        self._paused = True
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        self._paused = False
        if self._call is not None:
            self._call.resume()

    # The call.

    def _open(self, *, patient: bool = False) -> None:
        reading = self._reading
        # Reopened, it begins with the envelope that was delivered last: so it is seen if the runtime has accepted something in
        # between that it never told. The reference runtime, on files, does not broadcast what it accepts from a caller whose
        # connection breaks in the middle (51 of 482 envelopes, measured).
        self._overlap = bool(self._last_id)
        self._skipped = 0
        frames = [subscribe_frame(reading.session_id, self._sequence - self._overlap), _MARK]
        self._connected = self._live = False
        call = reading.transport.stream(
            STREAM_SESSION, frames, self, auth=reading.auth, patient=patient, trace=self._telemetry.trace()
        )
        self._call = call
        if self._ending:
            call.half_close()
        if self._paused:
            call.pause()

    def _reopen(self, *, patient: bool = False) -> None:
        if self._over:  # whoever heard why it is reopened has left
            return
        try:
            self._open(patient=patient)
        except MacpClosedError:  # silently, as every call of the client has ended
            self.cancel()

    def on_next(self, response: core_pb2.StreamSessionResponse, /) -> None:
        envelope = response.envelope
        message_type = envelope.message_type
        if not self._connected:
            self._reached()
            if self._over:
                return
        if not message_type:
            self._answered(response)
            return
        message_id = envelope.message_id
        if self._overlap:
            self._overlaps(message_id)
            return
        seen = self._seen
        if message_id in seen or message_id in self._seen_before:
            return  # a redelivery does not move the cursor (RFC-MACP-0006, 3.2)
        seen.add(message_id)
        if len(seen) == REMEMBERED:
            self._seen_before, self._seen = seen, set()
        kind = self._kinds.get(message_type)
        if kind is None:
            kind = self._kinds[message_type] = (envelope.mode, message_type)
        self._last_id = message_id
        self._sequence = sequence = self._sequence + 1
        try:
            self._next(Accepted(sequence, envelope, kind, self._live))
        except Exception as error:  # the subscriber's own, whatever it looks like
            self._telemetry.ended(error)
            self.cancel()
            tell_raised(self._reading.shared.clock, self._observer, error)
            return
        if message_type == "Commitment" and not (self._finite or self._verifies):
            # a commitment is accepted only if it resolves; the server leaves the call open after it (measured)
            self._verify()

    def _reached(self) -> None:
        self._connected = self._reading.transport.reached = True
        self._outage = self._lost_by = None
        self._waits_until = 0.0
        if self._told not in (
            Connection.CONNECTED,
            Connection.CAUGHT_UP,
        ):  # else it is a call of ours that nobody knows of
            self._tell(Connection.CONNECTED)

    def _answered(self, response: core_pb2.StreamSessionResponse) -> None:
        """An inline error: the answer to our mark, or the subscription's refusal, after which the server leaves the call open."""
        if response.error.message_id == _CAUGHT_UP:
            if self._overlap:
                self._missed(None)
                return
            self._live = True
            if self._told is not Connection.CAUGHT_UP:
                self._tell(Connection.CAUGHT_UP)
            self._follow_end()
        else:
            self._fail(MacpStreamError(response.error))

    def _follow_end(self) -> None:
        """Only now: a session that ended long ago has told so by its commitment, and nobody needs to ask."""
        reading = self._reading
        if self._unfollow is None and reading.ends is not None and not (self._ending or self._over):
            self._unfollow = reading.ends.follow(reading.session_id, self._session_ended)

    def on_error(self, error: Exception, /) -> None:
        self._call = None
        if not isinstance(error, MacpTransportError):  # such as a token provider's own
            self._fail(error)
        elif error.code == "HISTORY_UNAVAILABLE":
            self._forgotten(error)
        elif error.code == "SESSION_NOT_FOUND" and self._verifies:
            self._complete()  # evicted: there is nobody left to ask
        elif error.code == "SESSION_NOT_FOUND" and self._waits_until:
            self._wait_for_start(error)
        elif is_transient(error):
            self._lost(error)
        else:
            self._fail(error)

    def on_completed(self) -> None:
        self._call = None
        if not (self._ending and self._live):
            self._lost(None)  # the server has ended the call, and neither has the session ended nor was all of it said
        elif self._finite or self._verifies:
            self._complete()
        else:
            self._verify()

    def _tell(self, connection: Connection, error: Exception | None = None, **details: int) -> None:
        self._told = connection
        status = Status(connection, self._sequence, error, **details)
        self._telemetry.happened(connection.value, error, sequence=status.sequence, **details)
        where = self._reading.session_id, status.sequence
        if connection is Connection.LOST:
            self._down = True
            _log.warning(
                "session %s: connection lost behind sequence %d: %s", *where, error or "the server ended the call"
            )
        elif connection is Connection.GAP:
            _log.warning(
                "session %s: up to sequence %d there are %d envelopes that did not come", *where, status.missing
            )
        elif connection is Connection.CONNECTED and self._down:
            self._down = False
            _log.info("session %s: connected again behind sequence %d", *where)
        self._statuses.tell(status)  # last: it may be what ends this stream

    # Its ends.

    def _lost(self, error: MacpTransportError | None) -> None:
        if self._outage is None:
            transport = self._reading.transport
            self._outage = Backoff(self._reading.retry, transport.clock, transport)
            self._tell(Connection.LOST, error)
        self._lost_by = error
        delay = self._outage.next()
        if delay is not None:
            self._later(delay, self._reconnect)
        else:
            ends = "the server ends the stream of a session that is open"
            self._fail(error or MacpTransportError("UNAVAILABLE", ends, method=STREAM_SESSION.path))

    def _reconnect(self) -> None:
        assert self._outage is not None
        left = self._outage.left
        self._tell(Connection.RECONNECTING)
        self._reopen(patient=True)
        if isfinite(left):
            self._later(left, self._give_up)

    def _give_up(self) -> None:
        outage = self._outage
        if outage is None or self._connected:
            return
        if outage.left > MOMENT:  # somebody else has been answered there meanwhile
            self._later(outage.left, self._give_up)
        else:
            why = self._lost_by.message if self._lost_by is not None else "the server ended the call"
            waited = f"no connection within {outage.limit:g} s: {why}"
            gave_up = MacpTransportError("UNAVAILABLE", waited, method=STREAM_SESSION.path)
            gave_up.__cause__ = self._lost_by
            self._fail(gave_up)

    def _wait_for_start(self, error: MacpTransportError) -> None:
        clock = self._reading.transport.clock
        left = self._waits_until - clock.seconds
        if left < MOMENT:
            self._fail(error)
            return
        self._outage = None
        if self._early is None:
            self._early = Backoff(self._reading.retry, clock)
        delay = self._early.next()
        self._later(left if delay is None else min(delay, left), self._reopen)

    def _forgotten(self, error: MacpTransportError) -> None:
        lowest = error.lowest_available_sequence
        if lowest == self._sequence and self._overlap:
            # forgotten with the session's end, and all of it was delivered: what is left to say is nothing
            self._last_id = ""
            if self._verifies:
                self._complete()
            else:
                self._reopen()
            return
        if self._reading.on_gap == "fail" or lowest is None or lowest <= self._sequence:
            gap = MacpGapError(self._sequence, lowest, self._reading.session_id)
            gap.__cause__ = error
            self._fail(gap)
            return
        missing = lowest - self._sequence
        self._sequence = lowest
        self._last_id = ""
        self._tell(Connection.GAP, error, missing=missing)
        self._reopen()

    def _overlaps(self, message_id: str) -> None:
        """Looks for the envelope that was delivered last; if something comes before it, the history is counted."""
        if message_id != self._last_id:
            self._skipped += 1
        elif self._skipped:
            self._count()
        else:
            self._overlap = False

    def _count(self) -> None:
        """Counts where in the history the envelope stands that was delivered last.

        What came before it tells nothing: the runtime has accepted more than it told, or it tells again what it told.
        """
        self._hang_up()
        reading = self._reading
        whole = history(reading.shared, reading.session_id, reading.after, auth=reading.auth, retry=reading.retry)
        last = whole.pipe(ops.filter(self._is_last), ops.take(1), ops.map(_sequence), ops.default_if_empty(0))
        self._wait_for(last.subscribe(self._counted, self._uncounted))

    def _is_last(self, accepted: Accepted) -> bool:
        return accepted.message_id == self._last_id

    def _counted(self, sequence: int) -> None:
        missing = sequence - self._sequence
        if missing < 0:
            self._missed(None)
            return
        self._last_id = ""
        if missing:
            self._missed(missing)
        self._reopen()

    def _uncounted(self, error: Exception) -> None:
        if isinstance(error, MacpGapError) and isinstance(error.__cause__, MacpTransportError):
            self._forgotten(error.__cause__)  # the session has ended meanwhile
        else:
            self._fail(error)

    def _missed(self, how_many: int | None) -> None:
        """The history is not what was delivered: longer, or, if None, without the last of it."""
        if how_many is None or self._reading.on_gap == "fail":
            self._fail(MacpGapError(self._sequence, None, self._reading.session_id, untold=how_many))
            return
        self._sequence += how_many
        self._tell(Connection.GAP, missing=how_many)

    def _verify(self) -> None:
        """Asks once more, behind the end, for what was delivered last: exactly that must come, and nothing after it."""
        self._hang_up()
        if self._reading.transport.in_process or not self._last_id:
            self._complete()
            return
        self._verifies = self._ending = True
        self._outage = None
        self._reopen()

    def _session_ended(self, _metadata: core_pb2.SessionMetadata | None) -> None:
        """Half-closes: the server says what it still holds and ends the call with OK (measured), so no timer is needed."""
        if not self._ending:
            self._ending = True
            if self._call is not None and not self._verifies:
                self._call.half_close()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        if not self._over:
            self._wait_for(self._reading.transport.clock.run_later(seconds, action))

    def _wait_for(self, what: abc.DisposableBase) -> None:
        if self._waiting is None:
            self._waiting = SerialDisposable()
        self._waiting.disposable = what

    def _hang_up(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _complete(self) -> None:
        if not self._over:
            self._telemetry.ended()
            self.cancel()
            try:
                self._observer.on_completed()
            except Exception as error:  # whoever calls us would tell it to an observer that has ended
                raise_later(self._reading.shared.clock, error)

    def _fail(self, error: Exception) -> None:
        if not self._over:
            if self._down:
                _log.warning(
                    "session %s: given up behind sequence %d: %s", self._reading.session_id, self._sequence, error
                )
            self._telemetry.ended(error)
            self.cancel()
            self._observer.on_error(error)


def _sequence(accepted: Accepted) -> int:
    return accepted.sequence
