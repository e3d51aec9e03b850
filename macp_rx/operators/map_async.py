"""map_async: a coroutine for each item, a few at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from inspect import isawaitable
from typing import Final, Protocol, TypeVar, overload, runtime_checkable

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, Disposable

from macp_rx.errors import MacpOverflowError, MacpSessionError, MacpTimeoutError
from macp_rx.operators.lift import lift, on_clock, seconds_of
from macp_rx.streams.stream import tell_raised

__all__ = ["LIMIT", "Closable", "Limit", "map_async"]

A = TypeVar("A")
B = TypeVar("B")


@runtime_checkable
class Closable(Protocol):
    """What can be dropped before its time, such as a coroutine."""

    def close(self) -> None:
        """Drops it; harmless after its end."""


@overload  # mypy cannot solve the union below for an async function inside of pipe
def map_async(
    fn: Callable[[A], Awaitable[B]],
    *,
    concurrency: int = 8,
    timeout: float | timedelta | None = None,
    otherwise: Callable[[A, Exception], B] | None = None,
    finish: bool = True,
    buffer: int = 256,
    scheduler: abc.SchedulerBase | None = None,
) -> Callable[[Observable[A]], Observable[B]]: ...
@overload
def map_async(
    fn: Callable[[A], Awaitable[B] | B],
    *,
    concurrency: int = 8,
    timeout: float | timedelta | None = None,
    otherwise: Callable[[A, Exception], B] | None = None,
    finish: bool = True,
    buffer: int = 256,
    scheduler: abc.SchedulerBase | None = None,
) -> Callable[[Observable[A]], Observable[B]]: ...


def map_async(
    fn: Callable[[A], Awaitable[B] | B],
    *,
    concurrency: int = 8,
    timeout: float | timedelta | None = None,
    otherwise: Callable[[A, Exception], B] | None = None,
    finish: bool = True,
    buffer: int = 256,
    scheduler: abc.SchedulerBase | None = None,
) -> Callable[[Observable[A]], Observable[B]]:
    """Calls an async function for each item and emits what it returns, in the order in which the calls end.

    The calls run on the stream's own clock, so that they need no thread and ``asyncio.sleep`` in them is virtual under virtual
    time. What still runs when the subscription is disposed, or the stream fails, is cancelled.

    Args:
        fn: the function, such as one that asks a model. What a plain function returns goes out at once.
        concurrency: how many calls may run at a time.
        timeout: seconds after which a call is cancelled and has failed with MacpTimeoutError; None leaves it its time.
        otherwise: what to emit for an item whose call failed; without it the stream fails with that error.
        finish: whether calls that run when the source completes may end; else they are cancelled.
        buffer: how many items may wait for a call; one more ends the stream with MacpOverflowError.
        scheduler: the clock they run on; the stream's own by default.

    Errors:
        What a call raised. MacpTimeoutError; MacpOverflowError.

    Marble:
        questions  -a-b-----|
        > mo.map_async(answer_in(3))
        answers    ----a-b--|

        questions  -(a b)-------|
        > mo.map_async(answer_in(3), concurrency=1)
        answers    ---- a -- b -|

        questions  -a-------|
        > mo.map_async(answer_in(3), timeout=0.002, otherwise=lambda question, error: "late")
        answers    ---late-----|

        questions  -a-|
        > mo.map_async(answer_in(3), finish=False)
        answers    ---|
    """
    if concurrency < 1:
        raise MacpSessionError(f"map_async needs a concurrency of at least 1, not {concurrency}")
    limit = None if timeout is None else seconds_of(timeout, "map_async")

    def operator(source: Observable[A]) -> Observable[B]:
        clock = on_clock(source, scheduler, "map_async")

        def subscribe(observer: abc.ObserverBase[B], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
            waiting: deque[A] = deque()
            running: dict[asyncio.Task[B], tuple[A, Awaitable[B]]] = {}
            ended = over = False

            def on_next(item: A) -> None:
                if over:  # it failed, and a source that speaks while it is subscribed to has not heard yet
                    return
                if len(running) < concurrency:
                    begin(item)
                elif len(waiting) == buffer:
                    fail(
                        MacpOverflowError(
                            f"{buffer} items wait for map_async; raise its concurrency, or sample upstream"
                        )
                    )
                else:
                    waiting.append(item)

            def begin(item: A) -> None:
                try:
                    made = fn(item)
                except Exception as error:
                    failed(item, error)
                    return
                if not isawaitable(made):
                    give(made)
                    return
                task = clock.loop.create_task(Limit(limit).on(made))
                running[task] = item, made
                task.add_done_callback(done)

            def done(task: asyncio.Task[B]) -> None:
                item, made = running.pop(task)
                if task.cancelled() and isinstance(made, Closable):
                    made.close()  # dropped before its first step, it would be reported as never awaited
                if over:
                    if not task.cancelled():
                        task.exception()  # heard, so that asyncio does not log it
                    return
                error = asyncio.CancelledError() if task.cancelled() else task.exception()
                if error is None:
                    give(task.result())
                elif isinstance(error, Exception):
                    failed(item, error)
                else:
                    failed(item, MacpSessionError(f"a call of map_async ended with {error!r}"))
                while waiting and len(running) < concurrency and not over:
                    begin(waiting.popleft())
                if ended and not running and not over:
                    observer.on_completed()

            def failed(item: A, error: Exception) -> None:
                if otherwise is None:
                    fail(error)
                    return
                try:
                    instead = otherwise(item, error)
                except Exception as another:
                    fail(another)
                else:
                    give(instead)

            def give(answer: B) -> None:
                try:
                    observer.on_next(answer)
                except Exception as error:  # its own; a task's end has nobody above it who could tell it
                    cancel()
                    tell_raised(clock, observer, error)

            def fail(error: Exception) -> None:
                cancel()
                observer.on_error(error)

            def on_completed() -> None:
                nonlocal ended
                ended = True
                if not finish:
                    cancel()
                if not running or over:
                    observer.on_completed()

            def cancel() -> None:
                nonlocal over
                over = True
                waiting.clear()
                for task in tuple(running):
                    task.cancel()

            # a source that is no Stream may speak on any thread, and a task is made on its loop's own
            return CompositeDisposable(
                source.subscribe(
                    lambda item: clock.run_soon(partial(on_next, item)),
                    lambda error: clock.run_soon(partial(fail, error)),
                    lambda: clock.run_soon(on_completed),
                    scheduler=scheduler,
                ),
                Disposable(lambda: clock.run_soon(cancel)),
            )

        return lift(source, subscribe)

    return operator


class Limit:
    """How long a call may take; None is as long as it likes.

    Args:
        seconds: how long.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._timeout: asyncio.Timeout | None = None

    def exceeded(self) -> MacpTimeoutError | None:
        """What the call has failed with, if that is why it was cancelled."""
        late = self._timeout is not None and self._timeout.expired()
        return MacpTimeoutError(f"no answer within {self._seconds:g} s") if late else None

    async def on(self, call: Awaitable[B]) -> B:
        """Awaits a call for so long.

        Raises:
            MacpTimeoutError: it took longer.
        """
        LIMIT.set(self)  # this is the first step of the call's own task, so of its own context
        try:
            async with asyncio.timeout(self._seconds) as self._timeout:
                return await call
        except TimeoutError as error:
            late = self.exceeded()
            if late is not None:
                raise late from error
            raise


LIMIT: Final[ContextVar[Limit | None]] = ContextVar("macp_rx: the limit of the call that runs", default=None)
"""So that a call which is cancelled can tell that it took too long from that nobody needs it any more."""
