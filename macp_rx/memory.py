"""What an agent must remember to be started again: what a session's history does not tell.

An agent is a function of the accepted history, so whoever starts it again has it hear that history again (`taking_part`). What it
cannot learn from there is kept in a file: which of its messages were refused, how the calls of a `remembered` function ended, and
which timers were set and fired. Each is kept before the agent goes on with it.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import inspect
import json
import sqlite3
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import wraps
from operator import attrgetter, itemgetter
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Final, NamedTuple, ParamSpec, Self, TypeVar, cast

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message as Protobuf
from reactivex import abc
from reactivex.disposable import SerialDisposable
from reactivex.internal import noop

from macp_rx import errors
from macp_rx.clock import Clock
from macp_rx.errors import MacpError, MacpSessionError
from macp_rx.operators.map_async import LIMIT, Closable
from macp_rx.protocol.encoding import base64, unbase64
from macp_rx.protocol.messages import Accepted, Message
from macp_rx.streams.stream import Demand

__all__ = ["Memory", "Recollection", "digest", "remembered"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

SCHEMA: Final = """
create table kept (
    number integer primary key,
    session text not null,       -- in which session
    agent text not null,         -- of which agent
    what text not null,          -- refused, answered, timer or fired
    key text not null,           -- of what: a message's id, a call's or a timer's key
    value text not null          -- '', how the call ended, when the timer is due, behind which sequence it fired
) strict;
create index whose on kept (session, agent);
"""
VERSION: Final = 1

TURNS: Final = 5
"""Turns of the loop until what comes of a known answer has come: a task's step, its end, what gathers it, the next call."""

BUSY: Final = 5.0
"""Seconds to wait for another process that is writing; each write is one row."""


class Memory:
    """A file in which agents remember what the history of their sessions does not tell, so that they can be started again.

    A file may serve many agents, sessions and processes; who takes over a session reads what the one before had written. What
    is written survives ``kill -9``. The loss of power may take the last moments with it: SQLite then syncs at checkpoints only
    (WAL, synchronous = NORMAL), as a write per answer and per timer that waited for the disk would hold up the I/O thread.

    Args:
        path: the SQLite file; made if it is not there.

    Raises:
        MacpError: the file cannot be opened, or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        try:
            # each write is a transaction of its own; on whichever clock's thread the agent lives
            self._file = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=BUSY)
        except sqlite3.Error as error:
            raise MacpError(f"cannot open {self._path} as a memory: {error}") from error
        try:
            self._open()
        except sqlite3.Error as error:
            self._file.close()
            raise MacpError(f"cannot use {self._path} as a memory: {error}") from error
        except MacpError:
            self._file.close()
            raise

    def _open(self) -> None:
        self._write_ahead()
        self._file.execute("pragma synchronous = normal")
        self._file.execute("begin immediate")  # others may open it at the same moment
        (version,) = self._file.execute("pragma user_version").fetchone()
        (tables,) = self._file.execute("select count(*) from sqlite_schema").fetchone()
        if version == 0 and tables:
            raise MacpError(f"{self._path} is some other SQLite database, and no memory of macp_rx")
        if version not in (0, VERSION):
            raise MacpError(f"{self._path} is a memory of version {version}; this macp_rx reads version {VERSION}")
        if version == 0:
            for statement in SCHEMA.split(";")[:-1]:
                self._file.execute(statement)
            self._file.execute(f"pragma user_version = {VERSION}")
        self._file.execute("commit")

    def _write_ahead(self) -> None:
        # SQLite waits for other processes wherever it takes a lock, but not here, where it makes more of one that it has: of 600
        # openings of new files, by four processes at the same moment, 24 failed (measured)
        until = monotonic() + BUSY
        while True:
            try:
                self._file.execute("pragma journal_mode = wal")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() > until:
                    raise
            self._file.execute("begin immediate")  # this waits
            self._file.execute("rollback")

    def keep(self, session_id: str, agent: str, what: str, key: str, value: str = "") -> None:
        """Keeps one thing; when this returns, it survives the end of the process.

        Args:
            session_id: in which session.
            agent: of which agent.
            what: ``refused``, ``answered``, ``timer`` or ``fired``.
            key: of what.
            value: what about it.
        """
        row = (session_id, agent, what, key, value)
        with self._telling("write to"):
            self._file.execute("insert into kept (session, agent, what, key, value) values (?, ?, ?, ?, ?)", row)

    def kept(self, session_id: str, agent: str) -> Iterator[tuple[str, str, str]]:
        """What was kept of an agent in a session, oldest first: what, key and value."""
        with self._telling("read"):
            yield from self._file.execute(
                "select what, key, value from kept where session = ? and agent = ? order by number", (session_id, agent)
            )

    def forget(self, session_id: str) -> None:
        """Forgets a session, such as one that has ended; `agents.serve` does when it hears of that."""
        with self._telling("write to"):
            self._file.execute("delete from kept where session = ?", (session_id,))

    def close(self) -> None:
        """Closes the file. Any number of times."""
        self._file.close()

    @contextmanager
    def _telling(self, what: str) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise MacpError(f"cannot {what} {self._path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def remembered(fn: Callable[P, R], *, name: str = "") -> Callable[P, R]:
    """A function whose calls are remembered: an agent that is started again gets the same answers, and asks nobody anew.

    For what is not a function of the session's history: ``agents.voter(remembered(ask_model))``,
    ``mo.map_async(remembered(ask_model))``, ``remembered(random.random)``. How a call ends is kept before the agent hears of it:
    what it answered, and also, where the agent goes on after it, that it failed or exceeded the ``timeout`` of ``map_async``. A
    call that was under way when the process died is made again.

    Its key is the session, the agent, the function's name, the arguments, and how often it was called with just these. Without
    a ``memory`` it is the function as it was.

    Args:
        fn: the function, plain or async. Arguments: what was accepted, messages, protobuf, dataclasses, and what answers may
            be. Answers: None, text, bytes, numbers, lists, tuples, dicts with text for keys, Messages, protobuf. A named tuple
            comes back as a tuple, from the first call on.
        name: what it is remembered under; the function's own name by default.

    Raises:
        MacpSessionError: it has no name of its own, as a lambda. When called: an argument or answer is something else.
    """
    name = name or getattr(fn, "__qualname__", "")
    if not name or "<lambda>" in name:
        raise MacpSessionError(f"{fn!r} has no name to be remembered under: remembered(fn, name=…)")

    @wraps(fn, updated=())
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return _recalled(name, fn, *args, **kwargs)

    return call


def _recalled(name: str, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """By itself, as what is sent to another process must not hold a ContextVar."""
    now = _NOW.get()
    return fn(*args, **kwargs) if now is None else now.recollection.call(name, fn, *args, **kwargs)


class _Now(NamedTuple):
    """What an agent is doing: whose agent it is, and what about."""

    recollection: Recollection
    cause: str


_NOW: Final[ContextVar[_Now | None]] = ContextVar("macp_rx: what an agent is doing", default=None)
"""Set while an agent hears something or a timer of its fires; asyncio hands it on to the calls that come of it."""


class Recollection:
    """What one agent remembers of one session. Lives on the session's clock.

    Args:
        memory: where it is kept.
        session_id: which session.
        agent: the agent's name.
        clock: the session's.
    """

    def __init__(self, memory: Memory, session_id: str, agent: str, clock: Clock) -> None:
        self._memory = memory
        self._session_id = session_id
        self._agent = agent
        self._real = clock
        self.clock: Clock = _Timers(clock, self)
        """The clock on which the agent's timers are remembered."""
        self.broken: Callable[[Exception], None] = noop
        """Hears that the memory cannot be written, where nobody else would."""
        self.refused: set[str] = set()
        self._ended: dict[str, dict[str, Any]] = {}
        self._due: dict[str, int] = {}
        past: list[tuple[int, str, bool]] = []
        for what, key, value in memory.kept(session_id, agent):
            match what:
                case "refused":
                    self.refused.add(key)
                case "answered":
                    how = self._ended[key] = json.loads(value)
                    past.append((how["at"], key, False))
                case "timer":
                    self._due[key] = int(value)
                case _:
                    past.append((int(value), key, True))
        past.sort(key=itemgetter(0))
        self._past = deque(past)
        self._position = 0
        self._caught_up = False
        self._released: set[str] = set()
        self._gates: dict[str, asyncio.Future[None]] = {}
        self._calls: Counter[str] = Counter()
        self._failed: dict[str, str] = {}
        self._set: Counter[str] = Counter()
        self._timers: dict[str, _Timer] = {}
        self._overdue: dict[str, None] = {}

    # What it hears. While it hears the past, what it remembers comes in between where it came, and nothing else does.

    def has_heard(self, sequence: float, then: Callable[[], None]) -> bool:
        """Whether it has heard all that came before what has this place in the history; else it does, and calls ``then``."""
        while self._past and self._past[0][0] < sequence:
            _position, key, fired = self._past.popleft()
            if fired:
                self._fire_again(key)
            elif self._ended[key]["awaited"]:
                self._release(key)
                self._after(TURNS, then)
                return False
        return True

    @contextmanager
    def hearing(self, sequence: int) -> Generator[None]:
        """The agent hears what has this place in the history."""
        self.goes_on()
        self._position = sequence
        with self.doing(str(sequence)):
            yield

    @contextmanager
    def doing(self, cause: str) -> Generator[None]:
        """What is called and set meanwhile has this cause."""
        token = _NOW.set(_Now(self, cause))
        try:
            yield
        finally:
            _NOW.reset(token)

    def catch_up(self) -> None:
        """It has heard the past: what has come meanwhile comes now, and from here on everything does when it does."""
        self._caught_up = True
        for key in tuple(self._gates):
            self._release(key)
        now = self._real.now_ms
        late = [timer for timer in self._timers.values() if timer.late or timer.due <= now]
        for timer in sorted(late, key=attrgetter("due")):
            self._time_has_come(timer)

    def _after(self, turns: int, action: Callable[[], None]) -> None:
        if turns:
            self._real.run_later(0, lambda: self._after(turns - 1, action))
        else:
            action()

    # What it says.

    def refuse(self, message_id: str) -> bool:
        """A message was refused; whether that could be kept."""
        self.refused.add(message_id)
        return self._kept("refused", message_id)

    def goes_on(self) -> None:
        """The agent has survived the calls that failed, so that they would fail again."""
        while self._failed:
            key = next(iter(self._failed))
            self._keep("answered", key, self._failed[key])
            del self._failed[key]

    def _keep(self, what: str, key: str, value: str = "") -> None:
        self._memory.keep(self._session_id, self._agent, what, key, value)

    def _kept(self, what: str, key: str, value: str = "") -> bool:
        """The same where nobody above would hear that it failed: that ends the agent."""
        try:
            self._keep(what, key, value)
        except MacpError as error:
            self.broken(error)
            return False
        return True

    # Its calls.

    def call(self, name: str, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls a function, or tells how it ended before."""
        said = json.dumps([name, encode(list(args)), encode(kwargs)])
        self._calls[said] += 1
        key = digest(said.encode(), b"%d" % self._calls[said]).hex()[:32]
        if key in self._ended:
            return cast("R", self._again(key))
        try:
            made = fn(*args, **kwargs)
        except Exception as error:
            self._note_failure(key, error, awaited=False)
            raise
        if inspect.isawaitable(made):
            return cast("R", _Call(made, self, key, name))
        return self.answered(key, name, made, awaited=False)

    def answered(self, key: str, name: str, answer: R, *, awaited: bool) -> R:
        """Keeps an answer, and gives it as it will come back."""
        try:
            how = {"at": self._position, "awaited": awaited, "answer": encode(answer)}
            again = cast("R", decode(how["answer"]))
        except MacpSessionError as error:
            raise MacpSessionError(f"what {name} answers cannot be remembered: {error}") from None
        self._keep("answered", key, json.dumps(how))
        return again

    def failed(self, key: str, error: BaseException) -> None:
        """Notes that an awaited call failed; one that nobody needs any more has not ended."""
        limit = LIMIT.get()
        late = limit.exceeded() if limit is not None and isinstance(error, asyncio.CancelledError) else None
        reason = late or error
        if isinstance(reason, Exception):
            self._note_failure(key, reason, awaited=True)

    def _note_failure(self, key: str, error: Exception, *, awaited: bool) -> None:
        failure = {"at": self._position, "awaited": awaited, "error": [type(error).__name__, str(error)]}
        self._failed[key] = json.dumps(failure)

    def _again(self, key: str) -> object:
        """How a call ended before; an awaited one, when it did."""
        how = self._ended[key]

        def end() -> object:
            if "error" in how:
                raise _error(*how["error"])
            return decode(how["answer"])

        async def end_async() -> object:
            await self.its_turn(key)
            return end()

        return end_async() if how["awaited"] else end()

    async def its_turn(self, key: str) -> None:
        """Waits until it is the turn of a call to end."""
        if not (self._caught_up or key in self._released):
            gate = self._gates[key] = self._real.loop.create_future()
            await gate

    def _release(self, key: str) -> None:
        self._released.add(key)
        gate = self._gates.pop(key, None)
        if gate is not None and not gate.done():
            gate.set_result(None)

    # Its timers.

    def set_timer(self, seconds: float, action: Callable[[], object]) -> abc.DisposableBase:
        """Sets a timer, which fires when it would have if nobody had died in between, or soon where that is over."""
        now = _NOW.get()
        cause = now.cause if now is not None else ""
        self._set[cause] += 1
        key = f"{cause}.{self._set[cause]}"
        if len(key) > 64:  # a timer that sets a timer that sets a timer
            key = digest(key.encode()).hex()[:32]
        now_ms = self._real.now_ms
        due = self._due.get(key)
        if due is None:
            due = now_ms + round(seconds * 1000)
            self._keep("timer", key, str(due))
        else:
            seconds = max(0.0, (due - now_ms) / 1000)
        timer = self._timers[key] = _Timer(key, due, action, self._timers)
        if key in self._overdue:
            del self._overdue[key]
            timer.waits.disposable = self._real.run_later(0, lambda: self._fire(timer))
        else:
            timer.waits.disposable = self._real.run_later(seconds, lambda: self._time_has_come(timer))
        return timer

    def _time_has_come(self, timer: _Timer) -> None:
        """A timer fires; while the past is heard again, that is for the past to say."""
        if timer.key not in self._timers:
            return
        if not self._caught_up:
            timer.late = True
        elif self._kept("fired", timer.key, str(self._position)):
            self._fire(timer)

    def _fire(self, timer: _Timer) -> None:
        if self._timers.pop(timer.key, None) is timer:
            self.goes_on()
            with self.doing(timer.key):
                timer.fire()

    def _fire_again(self, key: str) -> None:
        timer = self._timers.get(key)
        if timer is not None:
            self._fire(timer)
        else:  # a call will set it that is made again
            self._overdue[key] = None


class _Call(Awaitable[R]):
    """An awaitable, of which is kept how it ends."""

    def __init__(self, call: Awaitable[R], recollection: Recollection, key: str, name: str) -> None:
        self._call = call
        self._recollection = recollection
        self._key = key
        self._name = name

    def __await__(self) -> Generator[Any, Any, R]:
        try:
            answer = yield from self._call.__await__()
        except BaseException as error:
            if isinstance(error, Exception):
                yield from self._recollection.its_turn(self._key).__await__()
            self._recollection.failed(self._key, error)
            raise
        yield from self._recollection.its_turn(self._key).__await__()
        return self._recollection.answered(self._key, self._name, answer, awaited=True)

    def close(self) -> None:
        """Drops the call, as a coroutine's ``close`` does."""
        if isinstance(self._call, Closable):
            self._call.close()


class _Timer(abc.DisposableBase):
    """One timer of an agent, and what cancels it."""

    __slots__ = ("_action", "_among", "_result", "due", "key", "late", "waits")

    def __init__(self, key: str, due: int, action: Callable[[], object], among: dict[str, _Timer]) -> None:
        self.key = key
        self.due = due
        self.late = False
        self._action = action
        self._among = among
        self.waits = SerialDisposable()
        self._result = SerialDisposable()

    def fire(self) -> None:
        self.waits.dispose()
        result = self._action()
        if isinstance(result, abc.DisposableBase):
            self._result.disposable = result

    def dispose(self) -> None:
        if self._among.get(self.key) is self:
            del self._among[self.key]
        self.waits.dispose()
        self._result.dispose()


class _Timers(Demand):
    """The session's clock, but its timers are remembered."""

    def __init__(self, clock: Clock, recollection: Recollection) -> None:
        super().__init__(clock)
        self._recollection = recollection

    def schedule(self, action: abc.ScheduledAction[S], state: S | None = None) -> abc.DisposableBase:
        now = _NOW.get()
        cause = now.cause if now is not None else ""

        def act(_scheduler: abc.SchedulerBase, _state: S | None = None) -> abc.DisposableBase | None:
            with self._recollection.doing(cause):  # a virtual clock does not hand it on
                return action(self, state)

        return self._clock.schedule(act)

    def schedule_relative(
        self, duetime: timedelta | float, action: abc.ScheduledAction[S], state: S | None = None
    ) -> abc.DisposableBase:
        return self._recollection.set_timer(self.to_seconds(duetime), lambda: action(self, state))

    def schedule_absolute(
        self, duetime: datetime | float, action: abc.ScheduledAction[S], state: S | None = None
    ) -> abc.DisposableBase:
        return self.schedule_relative(self.to_datetime(duetime) - self.now, action, state)


# What is kept, as JSON: what JSON has is itself, and everything else is an object with one member that says what it is.


def encode(value: object) -> object:
    """A value as JSON.

    Raises:
        MacpSessionError: it is nothing that can be told from others when the agent is started again.
    """
    match value:
        case Enum():
            return {"enum": [type(value).__qualname__, value.name]}
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {"bytes": base64(value)}
        case list():
            return [encode(one) for one in cast("list[object]", value)]
        case tuple():
            return {"tuple": [encode(one) for one in cast("tuple[object, ...]", value)]}
        case Mapping() if all(isinstance(name, str) for name in cast("Mapping[object, object]", value)):
            members = cast("Mapping[str, object]", value)
            return {"dict": {name: encode(members[name]) for name in sorted(members)}}
        case Protobuf():
            return {"protobuf": [value.DESCRIPTOR.full_name, base64(value.SerializeToString(deterministic=True))]}
        case Message():
            return {"message": [value.mode, encode(value.payload), value.message_type]}
        case Accepted():
            return {"accepted": value.message_id}
        case _ if is_dataclass(value) and not isinstance(value, type):
            members = {field.name: getattr(value, field.name) for field in fields(value)}
            return {"dataclass": [type(value).__qualname__, encode(members)]}
        case _:
            raise MacpSessionError(f"{type(value).__name__} is nothing that remembered knows how to keep")


def decode(value: object) -> object:
    """The value of JSON.

    Raises:
        MacpSessionError: it is one of those that only tell calls apart.
    """
    if isinstance(value, list):
        return [decode(one) for one in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    ((what, of),) = cast("dict[str, Any]", value).items()
    match what:
        case "bytes":
            return unbase64(of, "what was kept")
        case "tuple":
            return tuple(decode(one) for one in of)
        case "dict":
            return {name: decode(one) for name, one in of.items()}
        case "protobuf":
            descriptor = descriptor_pool.Default().FindMessageTypeByName(of[0])
            return message_factory.GetMessageClass(descriptor).FromString(unbase64(of[1], "what was kept"))
        case "message":
            return Message(of[0], cast("Protobuf | bytes", decode(of[1])), of[2])
        case _:
            raise MacpSessionError(
                f"of {'what was accepted' if what == 'accepted' else f'the {what} {of[0]}'} it knows only how to tell it from "
                "others; answer with text, numbers, lists, dicts, tuples, bytes, Messages or protobuf"
            )


def _error(name: str, text: str) -> Exception:
    """An error of that name and text: of its own class where it is one of Python's or ours."""
    cls = getattr(builtins, name, None) or getattr(errors, name, None)
    if isinstance(cls, type) and issubclass(cls, Exception):
        try:
            again = cls(text)
        except TypeError:  # it is made of more than a text
            pass
        else:
            if str(again) == text:
                return again
    unknown: type[MacpError] = type(name, (MacpError,), {})
    return unknown(text)


def digest(*parts: bytes) -> bytes:
    """A hash of some parts, each by itself."""
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
