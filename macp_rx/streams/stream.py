"""`Stream`: an Observable that also iterates, awaits and runs, and that can be told to wait."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any, Final, Generic, Protocol, Self, TypeVar, TypeVarTuple, cast, overload

from reactivex import Observable, abc
from reactivex.disposable import Disposable
from reactivex.internal import noop
from reactivex.internal.exceptions import SequenceContainsNoElementsError

from macp_rx.clock import Clock
from macp_rx.errors import MacpClosedError, MacpOverflowError, MacpTimeoutError
from macp_rx.transport.base import BLOCKED, SUBSCRIBER, Receiver, report_blocked, subscribed_by
from macp_rx.transport.telemetry import Buffer

__all__ = [
    "OVERFLOW_FACTOR",
    "Cancellable",
    "Demand",
    "OneOfMany",
    "Pausable",
    "Pull",
    "Running",
    "Stream",
    "on_demand",
    "raise_later",
    "stream",
    "tell_end",
    "tell_raised",
    "whose",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

HIGH_WATER: Final = 256
"""How many items wait for a pull consumer before the source is told to wait; the server's own buffer has the same size."""

OVERFLOW_FACTOR: Final = 16
"""What was on its way when a source was told to wait still comes: so many times what fits."""

OVERFLOW: Final = OVERFLOW_FACTOR * HIGH_WATER
"""Where a pull consumer gives up: reached only if an operator in between makes many items of one, or hides the demand."""


class Stream(Observable[T_co], Generic[T_co]):
    """An Observable on a clock, which also works with ``for``, ``async for``, ``await`` and ``.run()``.

    Cold: each subscription is its own run. What is reached from a stream by ``pipe`` or a fluent method is a stream again.
    Subscribing and disposing happen on the clock's thread, whoever asks. Timed operators of RxPY run on the clock, so they
    start no thread.

    Args:
        source: the observable that does the work.
        clock: what the source runs on; ``for`` and ``run()`` wait on it.
        can_wait: the source waits when it is told to, and the operators between it and this stream pass that on.
        client: what must not be collected as long as somebody may subscribe.

    Attributes:
        listener: who hears it, for the log: an agent's name; blank where nobody has said.
    """

    def __init__(
        self, source: Observable[T_co], clock: Clock, *, can_wait: bool = False, client: object = None
    ) -> None:
        super().__init__()
        self._source = source
        self._client = client
        self.clock = clock
        self.can_wait: bool = can_wait
        self.listener: str = ""

    def derived(self, result: Observable[R], *, can_wait: bool = False) -> Stream[R]:
        """What an operator has made of this stream, as a stream on the same clock.

        Args:
            result: what the operator has made.
            can_wait: the operator hands on what it was told of waiting.
        """
        stream = Stream(result, self.clock, can_wait=can_wait and self.can_wait, client=self._client)
        stream.listener = self.listener
        return stream

    def of(self, client: object) -> Self:
        """The same stream, which keeps a client from being collected."""
        self._client = client
        return self

    def subscribe(
        self,
        on_next: abc.ObserverBase[T_co] | abc.OnNext[T_co] | None = None,
        on_error: abc.OnError | None = None,
        on_completed: abc.OnCompleted | None = None,
        *,
        scheduler: abc.SchedulerBase | None = None,
    ) -> abc.DisposableBase:
        """As RxPY's; remembers for whom, so that ``client.subscriptions`` and the log can name it."""
        with subscribed_by(whose(on_next)):
            return super().subscribe(on_next, on_error, on_completed, scheduler=scheduler)

    def _subscribe_core(
        self, observer: abc.ObserverBase[T_co], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        clock = self.clock
        if clock.runs_by_itself and not clock.on_own_thread():
            # RxPY's operators must not be overtaken while they subscribe: if the first source ends meanwhile on another
            # thread, concat disposes the second before it has begun (measured)
            return Running(clock, lambda: self._on_clock(observer, scheduler).dispose, observer)
        return self._on_clock(observer, scheduler)

    def _on_clock(self, observer: abc.ObserverBase[T_co], scheduler: abc.SchedulerBase | None) -> abc.DisposableBase:
        # the source's core, not its subscribe(): a second auto-detach layer would cost 50 ns an item and 700 B a stream
        return self._source._subscribe_core(observer, scheduler or self.clock)

    def attach(self, receiver: Receiver[T_co], scheduler: abc.SchedulerBase | None) -> abc.DisposableBase:
        """Subscribes a receiver as it is, without RxPY's auto-detach: for operators, whose own subscriber has one."""
        return self._subscribe_core(cast("abc.ObserverBase[T_co]", receiver), scheduler)

    @overload  # type: ignore[override]  # a Stream where the base says Observable; and what returns neither goes alone
    def pipe(self, __op1: Callable[[Observable[T_co]], Observable[R]]) -> Stream[R]: ...
    @overload
    def pipe(self, __op1: Callable[[Observable[T_co]], A], __op2: Callable[[A], Observable[R]]) -> Stream[R]: ...
    @overload
    def pipe(
        self, __op1: Callable[[Observable[T_co]], A], __op2: Callable[[A], B], __op3: Callable[[B], Observable[R]]
    ) -> Stream[R]: ...
    @overload
    def pipe(
        self,
        __op1: Callable[[Observable[T_co]], A],
        __op2: Callable[[A], B],
        __op3: Callable[[B], C],
        __op4: Callable[[C], Observable[R]],
    ) -> Stream[R]: ...
    @overload
    def pipe(
        self,
        __op1: Callable[[Observable[T_co]], A],
        __op2: Callable[[A], B],
        __op3: Callable[[B], C],
        __op4: Callable[[C], D],
        __op5: Callable[[D], Observable[R]],
    ) -> Stream[R]: ...
    @overload
    def pipe(
        self,
        __op1: Callable[[Observable[T_co]], A],
        __op2: Callable[[A], B],
        __op3: Callable[[B], C],
        __op4: Callable[[C], D],
        __op5: Callable[[D], E],
        __op6: Callable[[E], Observable[R]],
    ) -> Stream[R]: ...
    @overload
    def pipe(
        self,
        __op1: Callable[[Observable[T_co]], A],
        __op2: Callable[[A], B],
        __op3: Callable[[B], C],
        __op4: Callable[[C], D],
        __op5: Callable[[D], E],
        __op6: Callable[[E], F],
        __op7: Callable[[F], Observable[R]],
    ) -> Stream[R]: ...
    @overload
    def pipe(self, __op1: Callable[[Observable[T_co]], R]) -> R: ...

    def pipe(self, *operators: Callable[[Any], Any]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Applies operators from left to right; after each one the result is a stream on the same clock again.

        Only an exact ``Observable`` is wrapped: a ConnectableObservable must keep its ``connect``.
        """
        result: Any = self
        for operator in operators:
            result = operator(result)
            if type(result) is Observable:
                result = self.derived(cast("Observable[object]", result))
        return result

    def __add__(self, other: Observable[T_co]) -> Stream[T_co]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """This stream, and when it has completed, the other."""
        return self.derived(super().__add__(other))

    def __iadd__(self, other: Observable[T_co]) -> Stream[T_co]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The same."""
        return self + other

    def __getitem__(self, key: slice | int) -> Stream[T_co]:
        """A part of it, as Python slices: ``events[:3]``."""
        part = super().__getitem__(key)
        return part if isinstance(part, Stream) else self.derived(part)

    def run(self, scheduler: abc.SchedulerBase | None = None) -> T_co:
        """Blocks until the stream ends and returns its last item.

        Raises:
            SequenceContainsNoElementsError: it ended without an item.
            MacpWouldBlockError: called on the thread that must deliver the items.
        """
        ready = threading.Event()
        last = _Last[T_co](ready.set)
        subscription = self.subscribe(last, scheduler=scheduler or Demand(self.clock, last.on_error))
        try:
            if not self.clock.wait(ready):
                raise MacpTimeoutError("the clock has nothing left to run that could end this stream")
        finally:
            subscription.dispose()
        return last.result()

    def __await__(self) -> Generator[Any, None, T_co]:
        """Waits for the end of the stream and gives its last item; works on any loop, whatever thread delivers."""
        if not (self.clock.runs_by_itself or self.clock.on_own_thread()):
            return self.run()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        last = _Last[T_co](_waker(loop, ended))
        subscription = self.subscribe(last, scheduler=Demand(self.clock, last.on_error))
        try:
            yield from ended
        finally:
            subscription.dispose()
        return last.result()

    def __iter__(self) -> Iterator[T_co]:
        """Yields each item, blocking for the next. The source waits while 256 items are unread."""
        pull = Pull[T_co](self.clock)
        pull.subscribe(self)
        try:
            while pull.wait():
                yield pull.take()
        finally:
            pull.dispose()

    async def __aiter__(self) -> AsyncIterator[T_co]:
        """Yields each item without blocking the running loop. The source waits while 256 items are unread."""
        pull = Pull[T_co](self.clock)
        pull.subscribe(self)
        try:
            while await pull.wait_async():
                yield pull.take()
        finally:
            pull.dispose()


def whose(on_next: object) -> object:
    """For whom something is subscribed to: an operator does it for another's sake, in whose callback it may be."""
    module: str = getattr(getattr(on_next, "on_next", on_next), "__module__", None) or ""
    is_operators = on_next is None or module.partition(".")[0] in ("macp_rx", "reactivex")
    already = SUBSCRIBER.get()
    return already if is_operators and already is not None else on_next


def stream(observable: Observable[T], clock: Clock) -> Stream[T]:
    """Adopts any observable: the result iterates, awaits and lends its clock to timed operators.

    Args:
        observable: any RxPY observable.
        clock: what it runs on, such as ``client.clock``.
    """
    return observable if isinstance(observable, Stream) else Stream(observable, clock)


class Running(abc.DisposableBase):
    """What runs on a clock, and what ends it, once each, whichever comes first.

    Args:
        clock: where both run; dispose may be called from any thread, before the start or after the clock's end.
        start: starts a call and returns what cancels it.
        observer: hears what ``start`` raises: on another thread nobody else would, and whoever waits would wait for ever.
    """

    # two for each stream that lives, and a thousand live at once; a Disposable with three closures takes a kilobyte
    __slots__ = ("_cancel", "_clock", "_disposed")

    def __init__(self, clock: Clock, start: Callable[[], Callable[[], None]], observer: abc.ObserverBase[Any]) -> None:
        self._clock = clock
        self._cancel: Callable[[], None] = noop
        self._disposed = False
        try:
            clock.run_soon(partial(self._begin, start, observer))
        except MacpClosedError as error:
            observer.on_error(error)

    def _begin(self, start: Callable[[], Callable[[], None]], observer: abc.ObserverBase[Any]) -> None:
        if not self._disposed:
            try:
                self._cancel = start()
            except Exception as error:
                observer.on_error(error)
        if self._disposed:  # by what was heard meanwhile
            self._end()

    def _end(self) -> None:
        self._cancel()

    def dispose(self) -> None:
        """Ends it."""
        self._disposed = True
        with suppress(MacpClosedError):  # the loop is gone, and every call with it
            self._clock.run_soon(self._end)


class OneOfMany(abc.ObserverBase[T]):
    """One of the observers that one call serves: it hears in its own name, though the call is in another's.

    Args:
        observer: who; subscribed just now.
        clock: what the call lives on.
    """

    __slots__ = ("_blocks", "_next", "_observer", "_who")

    def __init__(self, observer: abc.ObserverBase[T], clock: Clock) -> None:
        self._observer = observer
        self._next = observer.on_next
        self._who = SUBSCRIBER.get()
        self._blocks = clock.runs_by_itself  # under virtual time nobody waits for it

    @property
    def is_stopped(self) -> bool:
        """Whether it has heard the end, as RxPY's observers tell."""
        return bool(getattr(self._observer, "is_stopped", False))

    def on_next(self, value: T) -> None:
        """Hears an item."""
        # as `_hear`, for each item: the call more and its star cost 100 ns
        token, began = SUBSCRIBER.set(self._who), monotonic()
        try:
            self._next(value)
        finally:
            SUBSCRIBER.reset(token)
            if monotonic() - began > BLOCKED and self._blocks:
                report_blocked(began, self._who)

    def on_error(self, error: Exception) -> None:
        """Hears the end by an error."""
        self._hear(self._observer.on_error, error)

    def on_completed(self) -> None:
        """Hears the end."""
        self._hear(self._observer.on_completed)

    def _hear(self, hear: Callable[[*Ts], None], *what: *Ts) -> None:
        token, began = SUBSCRIBER.set(self._who), monotonic()
        try:
            hear(*what)
        finally:
            SUBSCRIBER.reset(token)
            if self._blocks and monotonic() - began > BLOCKED:
                report_blocked(began, self._who)


def tell_raised(clock: Clock, observer: abc.ObserverBase[T], error: Exception) -> None:
    """Tells an observer what it has raised itself: its own error, which nobody else notices.

    Not at once: one that has no on_error raises again, and it would be the call that fails. One that has ended already, as where
    its on_error is what has raised, hears nothing any more: then whoever runs the clock is told.
    """

    def tell() -> None:
        if getattr(observer, "is_stopped", False):
            raise error
        observer.on_error(error)

    clock.run_later(0, tell)


def tell_end(observers: Sequence[abc.ObserverBase[T]], error: Exception | None) -> None:
    """Tells each observer of the end, in their order, whatever another raises, such as one that has no on_error."""
    with ExitStack() as told:
        for observer in reversed(observers):
            if error is None:
                told.callback(observer.on_completed)
            else:
                told.callback(observer.on_error, error)


def raise_later(clock: Clock, error: Exception) -> None:
    """Raises what an observer has raised when it heard the end: there is nobody to tell but whoever runs the clock."""

    def fail() -> None:
        raise error

    clock.run_later(0, fail)


class Pausable(Protocol):
    """A source that can be told to wait."""

    def pause(self) -> None:
        """Delivers nothing after the present item."""

    def resume(self) -> None:
        """Delivers on."""


class Demand(Clock):
    """A clock that carries a consumer's demand upstream.

    RxPY has no way to tell a source to wait, but its operators hand the scheduler of a subscription on to their source.
    So a pull consumer subscribes with a Demand for a scheduler: a source of ours that finds one registers with it, and is
    paused and resumed through whatever operators stand between. In the same way a source learns that somebody waits, who must
    be told when the client is closed.

    Args:
        clock: the clock that really schedules.
        lose: hears why nothing will come any more, past the operators in between; nobody need, where nobody waits.
        buffers: where items wait on their way to the consumer.
    """

    def __init__(self, clock: Clock, lose: Callable[[Exception], None] = noop, *buffers: Buffer) -> None:
        super().__init__()
        self.buffers = buffers
        self._clock = clock
        self.lose = lose
        self._sources: list[Pausable] = []
        self._paused = False

    def add(self, source: Pausable) -> None:
        """Registers a source that can wait. Called on the clock's thread."""
        self._sources.append(source)
        if self._paused:
            source.pause()

    def remove(self, source: Pausable) -> None:
        """Forgets a source that has ended."""
        if source in self._sources:
            self._sources.remove(source)

    def pause(self) -> None:
        """Tells every source to wait. Called inside ``on_next``, on whatever thread an operator in between delivers."""
        if not self._paused:
            self._paused = True
            self._clock.run_soon(self._pause)

    def resume(self) -> None:
        """Tells every source to go on. Called from any thread."""
        if self._paused:
            self._clock.run_soon(self._resume)

    def _pause(self) -> None:
        for source in self._sources:
            source.pause()

    def _resume(self) -> None:
        self._paused = False
        for source in tuple(self._sources):
            source.resume()

    @property
    def now(self) -> datetime:
        """The clock's time."""
        return self._clock.now

    @property
    def seconds(self) -> float:
        """As the clock."""
        return self._clock.seconds

    @property
    def runs_by_itself(self) -> bool:
        """As the clock."""
        return self._clock.runs_by_itself

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """As the clock."""
        return self._clock.loop

    def new_id(self) -> str:
        """As the clock."""
        return self._clock.new_id()

    def jitter(self) -> float:
        """As the clock."""
        return self._clock.jitter()

    def on_own_thread(self) -> bool:
        """As the clock."""
        return self._clock.on_own_thread()

    def wait(self, ready: threading.Event, timeout: float | None = None) -> bool:
        """As the clock."""
        return self._clock.wait(ready, timeout)

    def schedule(self, action: abc.ScheduledAction[S], state: S | None = None) -> abc.DisposableBase:
        """As the clock."""
        return self._clock.schedule(action, state)

    def schedule_relative(
        self, duetime: timedelta | float, action: abc.ScheduledAction[S], state: S | None = None
    ) -> abc.DisposableBase:
        """As the clock."""
        return self._clock.schedule_relative(duetime, action, state)

    def schedule_absolute(
        self, duetime: datetime | float, action: abc.ScheduledAction[S], state: S | None = None
    ) -> abc.DisposableBase:
        """As the clock."""
        return self._clock.schedule_absolute(duetime, action, state)


class Cancellable(Pausable, Protocol):
    """One that can be ended, too: a call, or what stands for one."""

    def cancel(self) -> None:
        """Ends it silently."""


def on_demand(call: Cancellable, scheduler: abc.SchedulerBase | None) -> Callable[[], None]:
    """Lets a call follow the demand that its subscription carries, if it carries one; returns what cancels the call."""
    if not isinstance(scheduler, Demand):
        return call.cancel
    demand = scheduler
    demand.add(call)

    def cancel() -> None:
        demand.remove(call)
        call.cancel()

    return cancel


class Pull(abc.ObserverBase[T]):
    """The bounded buffer between a source that pushes and one consumer that pulls.

    Args:
        clock: what the source runs on.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._demand = Demand(clock, self.on_error, self)
        self._items: deque[T] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._ready = threading.Event()
        self._wake: Callable[[], None] = self._ready.set
        self._subscription: abc.DisposableBase = Disposable()

    def subscribe(self, source: Observable[T]) -> None:
        """Subscribes to the source, carrying demand."""
        self._subscription = source.subscribe(self, scheduler=self._demand)

    @property
    def waiting(self) -> int:
        """How many items wait to be read."""
        return len(self._items)

    @property
    def dropped(self) -> int:
        """None ever: what does not fit is an error."""
        return 0

    def add(self, source: Pausable) -> None:
        """Attaches a source that is not subscribed to but pushes by itself."""
        self._demand.add(source)

    def on_next(self, value: T) -> None:
        """Buffers one item; at the high-water mark the source is told to wait."""
        items = self._items
        items.append(value)
        if len(items) >= HIGH_WATER:
            self._demand.pause()
            if len(items) > OVERFLOW:
                items.pop()
                self.on_error(
                    MacpOverflowError(
                        f"{OVERFLOW} items wait unread: an operator in between makes many items of one or hides the "
                        "demand, so the source could not be told to wait; read faster, or sample upstream"
                    )
                )
                self._subscription.dispose()
        self._wake()

    def on_error(self, error: Exception) -> None:
        """Ends the buffer; the error comes after what is still in it."""
        if not self._ended:
            self._error = error
            self._ended = True
        self._wake()

    def on_completed(self) -> None:
        """Ends the buffer."""
        self._ended = True
        self._wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until an item can be taken.

        Args:
            timeout: seconds of the clock's time; None waits without limit.

        Returns:
            False at the clean end.

        Raises:
            MacpTimeoutError: nothing came in time; the buffer stays usable.
        """
        while not self._items:
            if self._ended:
                return self._end()
            self._demand.resume()  # it may have been paused while the last items were being taken
            self._ready.clear()
            if self._items or self._ended:  # it came between the look and the clear
                continue
            if not self._clock.wait(self._ready, timeout):
                limit = f" within {timeout:g} s" if timeout is not None else "; the clock has nothing left to run"
                raise MacpTimeoutError(f"nothing came{limit}")
        return True

    async def wait_async(self) -> bool:
        """The same, without blocking the running loop."""
        if not (self._clock.runs_by_itself or self._clock.on_own_thread()):
            return self.wait()
        loop = asyncio.get_running_loop()
        while not self._items:
            if self._ended:
                return self._end()
            self._demand.resume()
            came: asyncio.Future[None] = loop.create_future()
            self._wake = _waker(loop, came)
            if not (self._items or self._ended):
                await came
        return True

    @property
    def available(self) -> bool:
        """Whether an item can be taken without waiting."""
        return bool(self._items)

    def take(self) -> T:
        """Takes the item that a wait has promised."""
        item = self._items.popleft()
        if len(self._items) == HIGH_WATER // 2:
            self._demand.resume()
        return item

    def _end(self) -> bool:
        if self._error is not None:
            raise self._error
        return False

    def dispose(self) -> None:
        """Ends the subscription."""
        self._subscription.dispose()


class _Last(abc.ObserverBase[T]):
    """Keeps the last item, and says when the stream has ended."""

    def __init__(self, done: Callable[[], None]) -> None:
        self.done = done
        self._items: list[T] = []
        self._error: Exception | None = None

    def on_next(self, value: T) -> None:
        self._items[:] = [value]

    def on_error(self, error: Exception) -> None:
        self._error = error
        self.done()

    def on_completed(self) -> None:
        self.done()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        if not self._items:
            raise SequenceContainsNoElementsError
        return self._items[0]


def _waker(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> Callable[[], None]:
    """A function that completes ``future`` from any thread; RxPY's own await sets it from the foreign thread and hangs."""

    def set_result() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> None:
        if asyncio._get_running_loop() is loop:
            set_result()
        elif not loop.is_closed():  # else nobody waits any more
            loop.call_soon_threadsafe(set_result)

    return wake
