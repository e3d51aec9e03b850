"""Time is a scheduler: real on an asyncio loop, virtual over an integer.

A `Clock` is everything in a run that is not a function of its input: time, ids and jitter come from here and from nowhere
else, so that under a `VirtualClock` a whole run — client, transport, runtime, agents — is a function of its seed. Only an
envelope that is made by hand, with `macp_rx.envelope`, has another id and time unless it is given one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import selectors
import threading
import uuid
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from threading import get_ident
from typing import Any, Final, TypeVar, TypeVarTuple

from reactivex import abc
from reactivex.disposable import Disposable, SingleAssignmentDisposable
from reactivex.scheduler.eventloop import AsyncIOScheduler
from reactivex.scheduler.periodicscheduler import PeriodicScheduler

from macp_rx.errors import MacpClosedError, MacpOverflowError, MacpSessionError, MacpWouldBlockError

__all__ = ["Clock", "LoopClock", "LoopTimeClock", "VirtualClock", "VirtualLoop", "loop_clock"]

_S = TypeVar("_S")
_Ts = TypeVarTuple("_Ts")


class Clock(PeriodicScheduler):
    """A scheduler that is also the one source of ids and jitter.

    Everything a client does happens on its clock's own thread: callbacks, timers, deliveries. ``schedule`` may be called
    from any thread.
    """

    @property
    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return round(self.now.timestamp() * 1000)

    @property
    @abstractmethod
    def seconds(self) -> float:
        """Seconds that pass evenly from no particular moment: for how long, where ``now`` is for when."""

    @property
    def runs_by_itself(self) -> bool:
        """Whether time passes on its own; False where it passes only while somebody waits, as under virtual time."""
        return True

    @property
    @abstractmethod
    def loop(self) -> asyncio.AbstractEventLoop:
        """This clock as an asyncio loop: where coroutines run on its time, and on its own thread."""

    @abstractmethod
    def new_id(self) -> str:
        """A fresh id in the form of a UUIDv4: lower case, hyphenated; right for sessions, messages and commitments."""

    @abstractmethod
    def jitter(self) -> float:
        """A random number in [0, 1), for backoff."""

    @abstractmethod
    def on_own_thread(self) -> bool:
        """Whether the caller already runs on the clock's own thread."""

    @abstractmethod
    def wait(self, ready: threading.Event, timeout: float | None = None) -> bool:
        """Blocks the caller until ``ready`` is set.

        Args:
            ready: an event that work on this clock will set.
            timeout: seconds of this clock's time; None waits without limit.

        Returns:
            Whether it was set in time.

        Raises:
            MacpWouldBlockError: the caller is the thread that would have to set it.
        """

    def run_soon(self, action: Callable[[], object]) -> None:
        """Runs ``action`` on the clock's own thread: at once if the caller is there already, else as soon as it can."""
        if self.on_own_thread():
            action()
        else:
            self.schedule(lambda _scheduler, _state: _nothing(action()))

    def run_later(self, seconds: float, action: Callable[[], object]) -> abc.DisposableBase:
        """Runs ``action`` on the clock's own thread after so many seconds; dispose what is returned, and it does not."""
        return self.schedule_relative(seconds, lambda _scheduler, _state: _nothing(action()))


def _nothing(_: object) -> None:
    return None


CLOSED: Final = "the loop of this clock is closed; was the client closed?"

LOOK_SECONDS: Final = 1.0
"""How often a wait without limit looks whether its loop still lives: one that was closed wakes nobody."""


class LoopClock(Clock):
    """Real time on an asyncio loop.

    Unlike RxPY's AsyncIOScheduler it may be called from any thread, and one class serves both sides
    (`reactive-facts.md` 1.3: the plain one stalls from foreign threads, the thread-safe one misjudges them).

    Args:
        loop: the loop that runs everything scheduled here.
        ends: whether the loop runs already and, once it stops, has ended: a wait then says that the client was closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, ends: bool = False) -> None:
        super().__init__()
        self._loop = loop
        self._ends = ends

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""
        return self._loop

    @property
    def now(self) -> datetime:
        """Wall-clock time in UTC."""
        return datetime.now(UTC)

    @property
    def seconds(self) -> float:
        """The loop's own time."""
        return self._loop.time()

    def new_id(self) -> str:
        """A random UUIDv4."""
        return str(uuid.uuid4())

    def jitter(self) -> float:
        """A random number in [0, 1)."""
        return random.random()

    def on_own_thread(self) -> bool:
        """Whether the caller runs on the loop."""
        return asyncio._get_running_loop() is self._loop  # 40 ns; get_running_loop() raises off the loop, 500 ns

    def wait(self, ready: threading.Event, timeout: float | None = None) -> bool:
        """Blocks the calling thread until ``ready`` is set; refuses to block the loop itself."""
        if ready.is_set():
            return True
        if self.on_own_thread():
            raise MacpWouldBlockError(
                "a blocking call on the loop that must deliver its result would wait for ever; "
                "await the same call under .rx, read with async for, or subscribe"
            )
        running = self._loop.is_running()
        if self._loop.is_closed() or (self._ends and not running):
            raise MacpClosedError(CLOSED)
        if not running:
            raise MacpWouldBlockError(
                "nothing runs the loop that must deliver the result: run it in another thread, or was the client closed?"
            )
        if timeout is not None:
            return ready.wait(timeout)
        while not ready.wait(LOOK_SECONDS):
            if self._loop.is_closed():
                raise MacpClosedError(CLOSED)
        return True

    def schedule(self, action: abc.ScheduledAction[_S], state: _S | None = None) -> abc.DisposableBase:
        """Runs ``action`` on the loop as soon as it can."""
        result = SingleAssignmentDisposable()

        def run() -> None:
            if not result.is_disposed:
                result.disposable = self.invoke_action(action, state)

        if self.on_own_thread():
            self._loop.call_soon(run)
            return result
        try:
            self._loop.call_soon_threadsafe(run)
        except RuntimeError as error:
            raise MacpClosedError(CLOSED) from error
        return result

    def schedule_relative(
        self, duetime: timedelta | float, action: abc.ScheduledAction[_S], state: _S | None = None
    ) -> abc.DisposableBase:
        """Runs ``action`` on the loop after ``duetime`` seconds."""
        seconds = self.to_seconds(duetime)
        if seconds <= 0:
            return self.schedule(action, state)
        result = SingleAssignmentDisposable()
        timer: asyncio.TimerHandle | None = None

        def run() -> None:
            if not result.is_disposed:
                result.disposable = self.invoke_action(action, state)

        def start() -> None:
            nonlocal timer
            if not result.is_disposed:
                timer = self._loop.call_later(seconds, run)

        def stop() -> None:
            result.dispose()
            if timer is not None and not self._loop.is_closed():
                # without this a disposed timer would stay in the loop's heap until it is due
                self.run_soon(timer.cancel)

        self.run_soon(start)
        return Disposable(stop)

    def schedule_absolute(
        self, duetime: datetime | float, action: abc.ScheduledAction[_S], state: _S | None = None
    ) -> abc.DisposableBase:
        """Runs ``action`` on the loop at ``duetime`` (aware datetime, or Unix seconds)."""
        return self.schedule_relative(self.to_datetime(duetime) - self.now, action, state)


class LoopTimeClock(LoopClock):
    """A LoopClock that tells the loop's own time, counted from 1970, so that it is right on a loop whose time is virtual.

    RxPY's AsyncIOScheduler tells the wall clock since 5.1: on a virtual loop its ``delay`` and ``throttle`` go wrong
    (`reactive-facts.md` 1.6).
    """

    @property
    def now(self) -> datetime:
        """The loop's time."""
        return EPOCH + timedelta(seconds=self._loop.time())


EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Where virtual time begins, unless told otherwise: fixed, so that a run is the same on every day."""

MICROSECONDS: Final = 1_000_000
FOREIGN: Final = "a VirtualClock belongs to the thread that made it; another one scheduled on it"


class _Timer(abc.DisposableBase):
    """One action in a VirtualClock's queue, and what cancels it."""

    __slots__ = ("action", "result", "state")
    result: abc.DisposableBase  # set only if the action returns one: most do not, and each attribute costs 20 ns

    def __init__(self, action: abc.ScheduledAction[Any], state: object) -> None:
        self.action: abc.ScheduledAction[Any] | None = action
        self.state = state

    def keep(self, result: abc.DisposableBase) -> None:
        self.result = result
        if self.action is None:  # disposed by the action itself
            result.dispose()

    def dispose(self) -> None:
        self.action = None
        if hasattr(self, "result"):
            self.result.dispose()


class VirtualClock(Clock):
    """Time that passes only when told: an integer number of microseconds, and a queue.

    Actions run in the order of their times, and first in, first out at equal times. The time jumps from action to action and
    never otherwise, however many actions there are at one instant. One thread only. The same seed gives the same ids and the
    same jitter in every process.

    Args:
        seed: of ids and jitter.
        start: the time at which it begins.
        max_events: how many actions one ``advance``, ``run_until_idle`` or ``wait`` may run before it is an endless loop.
    """

    def __init__(self, seed: int = 0, *, start: datetime = START, max_events: int = 1_000_000) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._start = start
        self._start_us = round(start.timestamp() * MICROSECONDS)
        self._max_events = max_events
        self._time = 0
        self._queue: list[tuple[int, int, _Timer]] = []
        self._count = 0
        self._thread = get_ident()
        self._running = False
        self._loop: _TimelessLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Coroutines under virtual time: their timers are in this clock's queue. No threads, no sockets, no `run`."""
        if self._loop is None:
            self._loop = _TimelessLoop(self)  # type: ignore[abstract]  # typeshed has as abstract what raises when called
        return self._loop

    @property
    def time(self) -> int:
        """Microseconds since the start."""
        return self._time

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._time / MICROSECONDS

    @property
    def now(self) -> datetime:
        """The virtual time in UTC."""
        return self._start + timedelta(microseconds=self._time)

    @property
    def runs_by_itself(self) -> bool:
        """False: somebody must advance it, or wait on it."""
        return False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to run."""
        return all(timer.action is None for _due, _number, timer in self._queue)

    def new_id(self) -> str:
        """A UUIDv4 drawn from the seed."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def jitter(self) -> float:
        """A number in [0, 1) drawn from the seed."""
        return self._random.random()

    def on_own_thread(self) -> bool:
        """Whether the caller is an action that this clock is running."""
        return self._running

    def schedule(self, action: abc.ScheduledAction[_S], state: _S | None = None) -> abc.DisposableBase:
        """Queues ``action`` for the present instant, behind what is queued for it already."""
        return self._at(self._time, action, state)

    def schedule_relative(
        self, duetime: timedelta | float, action: abc.ScheduledAction[_S], state: _S | None = None
    ) -> abc.DisposableBase:
        """Queues ``action`` for ``duetime`` seconds from now."""
        seconds = duetime.total_seconds() if isinstance(duetime, timedelta) else duetime
        due = self._time + int(seconds * MICROSECONDS + 0.5) if seconds > 0 else self._time
        # `_at` once more, in line: this is what simulations call, and the call alone costs a tenth of it
        if get_ident() != self._thread:
            raise MacpWouldBlockError(FOREIGN)
        timer = _Timer(action, state)
        self._count = count = self._count + 1
        heappush(self._queue, (due, count, timer))
        return timer

    def schedule_absolute(
        self, duetime: datetime | float, action: abc.ScheduledAction[_S], state: _S | None = None
    ) -> abc.DisposableBase:
        """Queues ``action`` for ``duetime`` (aware datetime, or Unix seconds); what is past runs at the present instant."""
        return self._at(max(self._time, self._microseconds(duetime)), action, state)

    def advance_by(self, seconds: timedelta | float) -> None:
        """Lets that much time pass, running what becomes due.

        Args:
            seconds: how much; not negative.
        """
        microseconds = round(self.to_seconds(seconds) * MICROSECONDS)
        if microseconds < 0:
            raise MacpSessionError(f"time does not go back: advance_by({seconds})")
        self._run(until=self._time + microseconds)

    def advance_to(self, time: datetime | float) -> None:
        """Lets time pass until ``time`` (aware datetime, or Unix seconds), running what becomes due."""
        until = self._microseconds(time)
        if until < self._time:
            raise MacpSessionError(
                f"time does not go back: it is {self.now}, and advance_to said {self.to_datetime(time)}"
            )
        self._run(until=until)

    def run_until_idle(self) -> None:
        """Runs until nothing is left to run."""
        self._run(until=None)

    def wait(self, ready: threading.Event, timeout: float | None = None) -> bool:
        """Runs until ``ready`` is set, or ``timeout`` seconds of virtual time have passed, or nothing is left to run.

        Returns:
            Whether it was set.

        Raises:
            MacpWouldBlockError: called from inside an action, which waiting would never let end.
        """
        if ready.is_set():
            return True
        self._run(None if timeout is None else self._time + round(timeout * MICROSECONDS), ready)
        return ready.is_set()

    def _microseconds(self, time: datetime | float) -> int:
        return round(self.to_seconds(time) * MICROSECONDS) - self._start_us

    def _at(self, due: int, action: abc.ScheduledAction[Any], state: object) -> abc.DisposableBase:
        if get_ident() != self._thread:
            raise MacpWouldBlockError(FOREIGN)
        timer = _Timer(action, state)
        self._count = count = self._count + 1
        heappush(self._queue, (due, count, timer))
        return timer

    def _run(self, until: int | None, ready: threading.Event | None = None) -> None:
        if self._running:
            raise MacpWouldBlockError(
                "an action of this clock waits for the clock, which waits for the action; subscribe instead of blocking"
            )
        self._running = True
        queue, pop = self._queue, heappop
        events, suspicious = 0, self._max_events - 999
        names: Counter[str] = Counter()
        try:
            while queue and (until is None or queue[0][0] <= until):
                due, _number, timer = pop(queue)
                action = timer.action
                if action is None:  # disposed
                    continue
                self._time = due
                result = action(self, timer.state)
                if result is not None:
                    timer.keep(result)
                if ready is not None and ready.is_set():
                    return
                events += 1
                if events > suspicious:
                    names[_name(action)] += 1
                    if events > self._max_events:
                        raise MacpOverflowError(_endless(self._max_events, self._time, names))
            if until is not None:
                self._time = until
        finally:
            self._running = False


def _name(action: Callable[..., object]) -> str:
    code = getattr(action, "__code__", None)
    where = f" ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})" if code else ""
    return f"{getattr(action, '__qualname__', repr(action))}{where}"


def _endless(events: int, time: int, names: Counter[str]) -> str:
    loop = ", ".join(f"{name} {count} times" for name, count in names.most_common(3))
    return f"{events} actions and no end at {time / MICROSECONDS:g} s; the last thousand were {loop}"


class _TimelessLoop(asyncio.AbstractEventLoop):
    """What asyncio's tasks, futures, sleeps and timeouts need of a loop, on a VirtualClock's queue.

    A whole loop beside the clock would have a queue of its own, and which of the two goes first would be chance. What is not
    here (sockets, signals, subprocesses) raises NotImplementedError, as the base class says.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def time(self) -> float:
        return self._clock.seconds

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._clock.on_own_thread()

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, _S] | Generator[Any, None, _S],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[_S]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._clock.schedule(self._running(handle))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)  # from another thread the clock refuses it

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = _TimelessHandle(self.time() + delay, callback, args, self, context)
        handle.timer = self._clock.schedule_relative(delay, self._running(handle))
        return handle

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_later(when - self.time(), callback, *args, context=context)

    def run_in_executor(self, executor: object, func: object, *args: object) -> asyncio.Future[Any]:
        raise MacpWouldBlockError(
            "asyncio.to_thread and run_in_executor need real time: under a VirtualClock there is one thread, so call the "
            "function itself, or await asyncio.sleep for the time that it would take"
        )

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        logging.getLogger("asyncio").error(context["message"], exc_info=context.get("exception"))

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """What `asyncio.TimerHandle` calls."""

    def _running(self, handle: asyncio.Handle) -> abc.ScheduledAction[object]:
        def run(_scheduler: abc.SchedulerBase, _state: object) -> None:
            if handle.cancelled():
                return
            outer = asyncio._get_running_loop()
            # a task of another loop may be what waits for this clock; since Python 3.14 a thread has one current task
            waiting = outer and asyncio.current_task(outer)
            if outer and waiting:
                asyncio._leave_task(outer, waiting)
            asyncio._set_running_loop(self)
            try:
                handle._run()
            finally:
                asyncio._set_running_loop(outer)
                if outer and waiting:
                    asyncio._enter_task(outer, waiting)

        return run


class _TimelessHandle(asyncio.TimerHandle):
    timer: abc.DisposableBase

    def cancel(self) -> None:
        super().cancel()
        self.timer.dispose()  # else virtual time would run on to it


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose time jumps to the next timer instead of waiting: for the few tests that need a loop.

    Use it with a LoopTimeClock. Real sockets do not belong under virtual time.
    """

    def __init__(self) -> None:
        self._virtual_time = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_time

    def _jump(self, seconds: float | None) -> None:
        if seconds is None:
            raise MacpWouldBlockError("nothing is scheduled on this virtual loop that could ever end the wait")
        self._virtual_time += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float | None], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and (timeout is None or timeout > 0):
            self._jump(timeout)
        return events


def loop_clock(scheduler: AsyncIOScheduler | Clock) -> LoopClock:
    """The clock of the loop that a scheduler stands for.

    Args:
        scheduler: a LoopClock, or RxPY's AsyncIOScheduler over a running loop.

    Raises:
        MacpSessionError: it stands for no loop.
    """
    if isinstance(scheduler, LoopClock):
        return scheduler
    if not isinstance(scheduler, AsyncIOScheduler):
        kind = type(scheduler).__name__
        raise MacpSessionError(f"gRPC needs an asyncio loop, so an AsyncIOScheduler or a LoopClock, not a {kind}")
    return LoopClock(scheduler._loop)  # pyright: ignore[reportPrivateUsage]  # RxPY shows it nowhere else
