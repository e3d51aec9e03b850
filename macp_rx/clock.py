"""Time is a scheduler: real on an asyncio loop, virtual over an integer.

A `Clock` is everything in a run that is not a function of its input: time, ids and jitter come from here and from nowhere
else, so that under a `VirtualClock` a whole run — client, transport, runtime, agents — is a function of its seed.
"""

from __future__ import annotations

import asyncio
import random
import threading
import uuid
from abc import abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from reactivex import abc
from reactivex.disposable import Disposable, SingleAssignmentDisposable
from reactivex.scheduler.eventloop import AsyncIOScheduler
from reactivex.scheduler.periodicscheduler import PeriodicScheduler

from macp_rx.errors import MacpClosedError, MacpWouldBlockError

__all__ = ["Clock", "LoopClock"]

_S = TypeVar("_S")


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
    def runs_by_itself(self) -> bool:
        """Whether time passes on its own; False where it passes only while somebody waits, as under virtual time."""
        return True

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


def _nothing(_: object) -> None:
    return None


class LoopClock(Clock):
    """Real time on an asyncio loop.

    Unlike RxPY's AsyncIOScheduler it may be called from any thread, and one class serves both sides
    (`reactive-facts.md` 1.3: the plain one stalls from foreign threads, the thread-safe one misjudges them).

    Args:
        loop: the loop that runs everything scheduled here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop

    @property
    def now(self) -> datetime:
        """Wall-clock time in UTC."""
        return datetime.now(UTC)

    def new_id(self) -> str:
        """A random UUIDv4."""
        return str(uuid.uuid4())

    def jitter(self) -> float:
        """A random number in [0, 1)."""
        return random.random()

    def on_own_thread(self) -> bool:
        """Whether the caller runs on the loop."""
        return asyncio._get_running_loop() is self.loop  # 40 ns; get_running_loop() raises off the loop, 500 ns

    def wait(self, ready: threading.Event, timeout: float | None = None) -> bool:
        """Blocks the calling thread until ``ready`` is set; refuses to block the loop itself."""
        if ready.is_set():
            return True
        if self.on_own_thread():
            raise MacpWouldBlockError(
                "a blocking call on the loop that must deliver its result would wait for ever; "
                "await the same call under .rx, or subscribe to it"
            )
        if not self.loop.is_running():
            raise MacpWouldBlockError("nothing runs the loop that must deliver the result; run it in another thread")
        return ready.wait(timeout)

    def schedule(self, action: abc.ScheduledAction[_S], state: _S | None = None) -> abc.DisposableBase:
        """Runs ``action`` on the loop as soon as it can."""
        result = SingleAssignmentDisposable()

        def run() -> None:
            if not result.is_disposed:
                result.disposable = self.invoke_action(action, state)

        if self.on_own_thread():
            self.loop.call_soon(run)
        elif self.loop.is_closed():
            raise MacpClosedError("the loop of this clock is closed; was the client closed?")
        else:
            self.loop.call_soon_threadsafe(run)
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
                timer = self.loop.call_later(seconds, run)

        def stop() -> None:
            result.dispose()
            if timer is not None and not self.loop.is_closed():
                # without this a disposed timer would stay in the loop's heap until it is due
                self.run_soon(timer.cancel)

        self.run_soon(start)
        return Disposable(stop)

    def schedule_absolute(
        self, duetime: datetime | float, action: abc.ScheduledAction[_S], state: _S | None = None
    ) -> abc.DisposableBase:
        """Runs ``action`` on the loop at ``duetime`` (aware datetime, or Unix seconds)."""
        return self.schedule_relative(self.to_datetime(duetime) - self.now, action, state)


def loop_clock(scheduler: AsyncIOScheduler | LoopClock) -> LoopClock:
    """The clock of the loop that a scheduler stands for.

    Args:
        scheduler: a LoopClock, or RxPY's AsyncIOScheduler over a running loop.
    """
    return scheduler if isinstance(scheduler, LoopClock) else LoopClock(scheduler._loop)  # pyright: ignore[reportPrivateUsage]  # RxPY shows it nowhere else
