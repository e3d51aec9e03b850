"""`record` writes down what sessions accept, `replay` gives it back as the same stream: so an incident becomes a unit test.

A transcript is JSON Lines, one accepted envelope a line, in MACP canonical JSON, as it happened::

    {"envelope":{…,"message_type":"Vote","sender":"alice"},"sequence":3,"time":"2026-03-01T20:24:01.250Z"}

There is nothing else in it: it may be cut between lines, and transcripts may be put behind each other. An envelope that canonical
JSON cannot say is ``envelope_b64``, its bytes. What is read may also be the log that the reference runtime keeps of a session
(``log.jsonl``), or a conformance fixture of the specification: of that, what is accepted.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike, fspath
from typing import IO, Any, Final, Self, TypeAlias, cast

from google.protobuf.message import DecodeError
from macp.v1.envelope_pb2 import Envelope
from reactivex import Observable, abc
from reactivex.disposable import Disposable
from reactivex.subject import AsyncSubject

from macp_rx.client import MacpClient
from macp_rx.clock import Clock, VirtualClock
from macp_rx.errors import MacpClosedError, MacpSessionError, MacpTranscriptError
from macp_rx.protocol import canonical, jcs
from macp_rx.protocol.encoding import base64, unbase64
from macp_rx.protocol.fixture import Fixture, is_fixture
from macp_rx.protocol.messages import Accepted
from macp_rx.session import Session
from macp_rx.streams.stream import Demand, Stream, on_demand, stream, tell_raised
from macp_rx.timeline import Event, Failed, Next, Timeline

__all__ = ["File", "Recording", "line", "record", "replay", "timeline"]

File: TypeAlias = str | PathLike[str] | IO[str] | IO[bytes]
"""A path, or a file that is open."""

_log = logging.getLogger("macp_rx.transcript")

_Heard = tuple[int, Accepted]  # Unix milliseconds, and what was accepted then

LINE: Final = 'a line of a transcript is {"envelope": {…}, "sequence": 3, "time": "2026-03-01T20:24:01.250Z"}'
ENTRY: Final = (
    "a line of a runtime's log is one of its entries, with entry_kind, session_id, raw_payload, received_at_ms …"
)

BATCH: Final = 256
"""So many envelopes are given back before others on the clock get their turn."""

INSTANT: Final = 1e-6
"""Seconds that a VirtualClock cannot tell from none: a wait for less than that would not end."""


class Recording(abc.DisposableBase):
    """What `record` has begun. Dispose it, or leave its ``with`` block, and it ends; otherwise it ends with what it records.

    Attributes:
        count: how many envelopes it has written.
    """

    def __init__(self, clock: Clock, file: File) -> None:
        self.count: int = 0
        self._clock = clock
        self._name = _name(file)
        self._owned = isinstance(file, str | PathLike)
        try:
            # a path that exists may be another incident's
            self._file: IO[Any] = open(file, "xb") if isinstance(file, str | PathLike) else file  # noqa: SIM115
        except FileExistsError:
            raise MacpTranscriptError(
                self._name, None, "exists already: name another, or pass a file that is open for appending"
            ) from None
        except OSError as error:
            raise MacpTranscriptError(self._name, None, f"cannot be written: {error}") from error
        self._is_text = isinstance(file, io.TextIOBase)
        self._ended = False
        self._end: AsyncSubject[int] = AsyncSubject()
        self._subscription: abc.DisposableBase = Disposable()

    @property
    def end(self) -> Stream[int]:
        """How many envelopes were written, once it has ended: with the session, or because it was disposed.

        Errors:
            MacpTranscriptError: the file cannot be written.
            What the recorded stream failed with; MacpClosedError where the client was closed.
        """
        return Stream(self._end, self._clock)

    def start(self, events: Observable[Accepted]) -> None:
        """Subscribes."""
        # a Demand hears of the client's close, which subscribers do not
        demand = Demand(self._clock, self._fail)
        self._subscription = events.subscribe(self._write, self._fail, self._finish, scheduler=demand)
        if self._ended:
            self._subscription.dispose()

    def __enter__(self) -> Self:
        """It itself."""
        return self

    def dispose(self) -> None:
        """Ends it; what was written is whole."""
        self._subscription.dispose()
        if self._clock.runs_by_itself:
            with suppress(MacpClosedError):  # then nothing runs there any more that could still write
                self._clock.run_soon(self._finish)
                return
        self._finish()

    def _write(self, accepted: Accepted) -> None:
        if self._ended:
            return
        try:
            written = line(accepted, self._clock.now_ms)
            self._file.write(written if self._is_text else written.encode())
            self._file.flush()
        except (OSError, ValueError) as error:  # ValueError: somebody has closed it
            self._subscription.dispose()
            self._fail(MacpTranscriptError(self._name, self.count + 1, f"cannot be written: {error}"))
            return
        self.count += 1

    def _fail(self, error: Exception) -> None:
        if self._close():
            _log.error("recording ended: %s", error)
            self._end.on_error(error)

    def _finish(self) -> None:
        if self._close():
            self._end.on_next(self.count)
            self._end.on_completed()

    def _close(self) -> bool:
        if self._ended:
            return False
        self._ended = True
        if self._owned:
            try:
                self._file.close()
            except OSError as error:  # every line was flushed before
                _log.warning("%s: %s", self._name, error)
        return True


def record(client: MacpClient, what: Session | str | Observable[Accepted], file: File) -> Recording:
    """Writes down what is accepted, as it happens: each line is in the file before the next envelope is heard.

    It writes where the client's callbacks run, one short line at a time, and keeps nothing: the file should be on a disk.
    A line's time is that of the client's clock; of what was accepted before the recording began, its sender's.

    Args:
        client: the connection.
        what: a session, a session's id, or any stream of what was accepted, such as ``client.all_events()``.
        file: a path that does not exist yet, or a file that is open for writing, which stays open.

    Raises:
        MacpTranscriptError: the file cannot be opened, or exists already.
    """
    if isinstance(what, Session):
        events: Observable[Accepted] = what.events
    elif isinstance(what, str):
        events = client.session_events(what)
    else:
        events = stream(what, client.clock)
    recording = Recording(client.clock, file)
    recording.start(events)
    return recording


def replay(file: File, *, speed: float | None = 1.0, clock: Clock | None = None) -> Stream[Accepted]:
    """Gives back what was recorded, with the time between envelopes as it was. Cold: each subscription reads from the start.

    All of it is ``live``, as it was when it happened. Sessions that were recorded together come together; `mo.in_session`
    tells them apart.

        recorded    S-p-v-v-C
        speed=1     S-p-v-v-(C |)
        speed=2     Spvv(C |)
        speed=None  (S p v v C |)

    Args:
        file: a transcript, a runtime's ``log.jsonl``, or a conformance fixture; a path, or an open file, which one subscription
            at a time reads.
        speed: how many times as fast; None is at once.
        clock: whose time; a VirtualClock of its own by default, on which days take no time. ``client.clock`` is real time.

    Errors:
        MacpTranscriptError: a line that cannot be read, with its number, behind everything that stands before it.

    Raises:
        MacpSessionError: a speed of zero or less.
    """
    if speed is not None and not speed > 0:
        raise MacpSessionError(f"speed={speed} does not come to an end: more than 0, or None for at once")
    clock = VirtualClock() if clock is None else clock
    slow = 0.0 if speed is None or math.isinf(speed) else 0.001 / speed

    def subscribe(observer: abc.ObserverBase[Accepted], scheduler: abc.SchedulerBase | None = None) -> Disposable:
        return Disposable(on_demand(_Replay(observer, clock, _read(file), slow), scheduler))

    return Stream(Observable(subscribe), clock, can_wait=True)


def timeline(file: File, session_id: str | None = None) -> Timeline:
    """What is in a file, to print, to draw and to compare: a lane for each sender.

    Args:
        file: as for `replay`.
        session_id: only this session.

    Returns:
        It, from its first envelope on. If a line cannot be read, it ends there, with the error, on the lane ``transcript``.
    """
    events: list[Event] = []
    start: int | None = None
    time = 0
    try:
        for at, accepted in _read(file):
            if session_id in (None, accepted.session_id):
                start = at if start is None else start
                time = max(time, (at - start) * 1000)
                events.append(Event(time, accepted.sender, Next(accepted)))
    except MacpTranscriptError as error:
        events.append(Event(time, "transcript", Failed(error)))
    return Timeline(tuple(events))


class _Replay:
    """One run: gives an envelope, and waits until the next one is due."""

    def __init__(
        self, observer: abc.ObserverBase[Accepted], clock: Clock, heard: Iterator[_Heard], slow: float
    ) -> None:
        self._observer = observer
        self._clock = clock
        self._heard = heard
        self._slow = slow  # seconds for each of its milliseconds
        self._begun = clock.seconds
        self._first: int | None = None
        self._next: _Heard | None = None
        self._waits = self._paused = self._over = False
        self._timer: abc.DisposableBase = Disposable()
        self._later(0)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if not self._waits and not self._over:
            self._later(0)

    def cancel(self) -> None:
        self._over = True
        self._timer.dispose()
        cast("Any", self._heard).close()  # a generator, which closes its file

    def _later(self, seconds: float) -> None:
        self._waits = True
        self._timer = self._clock.run_later(seconds, self._give)

    def _give(self) -> None:
        try:
            seconds = self._given()
        except Exception as error:  # the observer's own
            self.cancel()
            tell_raised(self._clock, self._observer, error)
            return
        self._waits = False
        if seconds is not None:
            self._later(seconds)

    def _given(self) -> float | None:
        """Gives what is due; when there is more, in seconds, or None if nothing comes by itself."""
        for _ in range(BATCH):
            if self._paused or self._over:
                return None
            if self._next is None and not self._look():
                return None
            assert self._next is not None
            at, accepted = self._next
            self._first = at if self._first is None else self._first
            seconds = self._begun + (at - self._first) * self._slow - self._clock.seconds
            if seconds > INSTANT:
                return seconds
            self._next = None
            self._observer.on_next(accepted)
        return 0

    def _look(self) -> bool:
        """Whether there is a next one."""
        try:
            self._next = next(self._heard, None)
        except MacpTranscriptError as error:
            self._over = True
            self._observer.on_error(error)
            return False
        if self._next is None:
            self._over = True
            self._observer.on_completed()
        return self._next is not None


# Writing and reading lines.


def line(accepted: Accepted, now_ms: int) -> str:
    """What was accepted as a line of a transcript, its line break included.

    Args:
        accepted: what was accepted.
        now_ms: Unix milliseconds; of what was accepted before, its sender's time is written.
    """
    sent = accepted.envelope.timestamp_unix_ms
    time = now_ms if accepted.live or not 0 < sent < now_ms else sent
    try:
        said: dict[str, object] = {"envelope": canonical.to_json(accepted.envelope)}
    except MacpSessionError:  # it has fields that the installed macp-proto does not know
        said = {"envelope_b64": base64(accepted.envelope.SerializeToString())}
    return f"{jcs.encode({**said, 'sequence': accepted.sequence, 'time': canonical.rfc3339(time)})}\n"


def _read(file: File) -> Iterator[_Heard]:
    """What is in a file, a line at a time; a fixture as a whole."""
    name = _name(file)
    try:
        with _opened(file) as lines:
            line = lines.readline()
            form = _form(line)
            if form is None:
                yield from _fixture(name, line + lines.read())
                return
            read, right = form
            number = 1
            while line:
                try:
                    heard = read(_members(line))
                except (MacpSessionError, KeyError, TypeError, ValueError) as error:
                    raise MacpTranscriptError(name, number, _wrong(line, error, right)) from None
                if heard is not None:
                    yield heard
                line = lines.readline()
                number += 1
    except OSError as error:
        raise MacpTranscriptError(name, None, f"cannot be read: {error}") from error


@contextmanager
def _opened(file: File) -> Generator[IO[Any]]:
    if isinstance(file, str | PathLike):
        with open(file, "rb") as opened:
            yield opened
    else:
        if file.seekable():
            file.seek(0)
        yield getattr(file, "buffer", file)  # the bytes of a text file, so that those that are no text have a line, too


_Reader = Callable[[Mapping[str, Any]], _Heard | None]


def _form(first: str | bytes) -> tuple[_Reader, str] | None:
    """How to read the lines of a file that begins so, and what such a line is; None if it is no file of lines."""
    try:
        members = _members(first)
    except MacpSessionError:  # cut off, or a fixture, which has several lines
        begins = _text(first[:13])
        members = (
            {"entry_kind": 0} if begins == '{"message_id"' else {"sequence": 0} if begins[:10] == '{"envelope' else {}
        )
    if "entry_kind" in members:
        return _LogReader(), ENTRY
    if "sequence" in members or not first:
        return _transcript, LINE
    return None


def _transcript(members: Mapping[str, Any]) -> _Heard:
    sequence = members["sequence"]
    if type(sequence) is not int or sequence < 1:
        raise MacpSessionError(f"sequence counts from 1 on, and is {sequence!r}")
    if "envelope_b64" in members:
        try:
            envelope = Envelope.FromString(unbase64(members["envelope_b64"], "envelope_b64"))
        except DecodeError:
            raise MacpSessionError("envelope_b64 holds no Envelope") from None
    else:
        envelope = canonical.from_json(members["envelope"], Envelope)
    return canonical.unix_ms(str(members["time"])), Accepted(sequence, envelope, live=True)


class _LogReader:
    """The reference runtime's log of a session: its entries, of which some are its own notes."""

    def __init__(self) -> None:
        self._accepted: Counter[str] = Counter()  # by session: several logs may stand behind each other

    def __call__(self, entry: Mapping[str, Any]) -> _Heard | None:
        session_id, kind = entry["session_id"], entry["entry_kind"]
        if kind == "Incoming":
            envelope = Envelope(
                macp_version=entry["macp_version"],
                mode=entry["mode"],
                message_type=entry["message_type"],
                message_id=entry["message_id"],
                session_id=session_id,
                sender=entry["sender"],
                timestamp_unix_ms=entry["timestamp_unix_ms"],
                payload=bytes(entry["raw_payload"]),
            )
            self._accepted[session_id] += 1
            return int(entry["received_at_ms"]), Accepted(self._accepted[session_id], envelope, live=True)
        if kind == "Checkpoint":
            forgotten = int(entry["compacted_incoming_ordinals"])
            if forgotten > self._accepted[session_id]:
                raise MacpSessionError(
                    f"the runtime has discarded what it accepted up to sequence {forgotten}, as it does when a session ends, "
                    "unless it runs with MACP_COMPACT_TERMINAL_LOGS=0"
                )
        elif kind != "Internal":
            raise MacpSessionError(f"entry_kind is Incoming, Internal or Checkpoint, and not {kind!r}")
        return None


def _fixture(name: str, raw: str | bytes) -> Iterator[_Heard]:
    try:
        text = _text(raw)
        if not is_fixture(json.loads(text)):
            raise MacpTranscriptError(name, 1, f"this is neither a transcript, a runtime's log nor a fixture: {LINE}")
        # it has no id of its own, and one that depends on what it says is the same each time
        session_id = str(uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4))
        entries = Fixture.from_json(text).history(session_id)
    except json.JSONDecodeError as error:
        raise MacpTranscriptError(
            name, error.lineno, f"no JSON: {error.msg} at column {error.colno}; {LINE}, and a fixture one JSON object"
        ) from None
    except RecursionError:
        raise MacpTranscriptError(name, None, "nested too deeply") from None
    except MacpSessionError as error:
        raise MacpTranscriptError(name, None, str(error)) from None
    for sequence, entry in enumerate(entries, start=1):
        assert entry.envelope is not None
        yield entry.at, Accepted(sequence, entry.envelope, live=True)


def _members(line: str | bytes) -> Mapping[str, Any]:
    members = jcs.decode(_text(line))
    if not isinstance(members, dict):
        raise MacpSessionError("this is no JSON object")
    return cast("dict[str, Any]", members)


def _text(line: str | bytes) -> str:
    try:
        return line if isinstance(line, str) else line.decode()
    except UnicodeDecodeError as error:
        raise MacpSessionError(f"no UTF-8: {error.reason} at byte {error.start}") from None


def _wrong(line: str | bytes, error: Exception, right: str) -> str:
    if line[-1:] not in ("\n", b"\n"):
        return f"the file is cut off in this line; {right}"
    if isinstance(error, KeyError):
        return f"this line has no {error}; {right}"
    return f"{str(error).replace('line 1 column', 'column')}; {right}"


def _name(file: File) -> str:
    return fspath(file) if isinstance(file, str | PathLike) else str(getattr(file, "name", "the file"))
