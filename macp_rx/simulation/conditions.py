"""What it is like for one agent: how far away the runtime is, how often the connection breaks, how slow the agent is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message as Protobuf
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable
from reactivex.internal import noop

from macp_rx.clock import Clock
from macp_rx.errors import MacpSessionError, MacpTimeoutError, MacpTransportError
from macp_rx.operators.lift import lift
from macp_rx.protocol.messages import Accepted, Message
from macp_rx.session import Agent
from macp_rx.simulation.chance import Chance, Number, draw
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import Call, Metadata, Method, Receiver, Transport

__all__ = ["PERFECT", "Conditions", "Link", "behaving"]

Req = TypeVar("Req", bound=Protobuf)
Res = TypeVar("Res", bound=Protobuf)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What it is like for one agent. Times are seconds; each is a number, or drawn anew each time.

    Args:
        latency: how long each message travels, one way.
        cut_every: how long a connection holds before it breaks; None, and it never does. Every call on it fails then.
        outage: how long nothing can be reached after a break.
        duplicated: how likely, in [0, 1], an envelope is delivered a second time.
        thinking: how long the agent takes before it says something.
        silent: how likely, in [0, 1], it does not say it.
    """

    latency: Number = 0.0
    cut_every: Number | None = None
    outage: Number = 0.0
    duplicated: float = 0.0
    thinking: Number = 0.0
    silent: float = 0.0

    def __post_init__(self) -> None:
        for name in ("latency", "outage", "thinking"):
            value = getattr(self, name)
            if not isinstance(value, Chance) and not (isinstance(value, int | float) and value >= 0):
                raise MacpSessionError(f"{name} is a number of seconds, at least 0, or how to draw one, not {value!r}")
        cut = self.cut_every
        if cut is not None and not isinstance(cut, Chance) and not (isinstance(cut, int | float) and cut > 0):
            raise MacpSessionError(f"cut_every is more than 0 seconds, or how to draw them, not {cut!r}")
        for name in ("duplicated", "silent"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise MacpSessionError(f"{name} is a probability, in [0, 1], not {value!r}")

    @property
    def is_local(self) -> bool:
        """Whether there is no network in it."""
        return self.latency == 0 and self.cut_every is None and self.duplicated == 0


PERFECT: Final = Conditions()
"""No latency, no loss, an agent that answers at once."""


def _seconds(number: Number, random: Random) -> float:
    """So many seconds; an error if what was drawn are none, which would else be taken for no time at all."""
    seconds = draw(number, random)
    if not seconds >= 0:
        raise MacpSessionError(f"{number!r} has drawn {seconds}, and a time is at least 0 seconds")
    return seconds


def behaving(agent: Agent, conditions: Conditions, random: Random, clock: Clock) -> Agent:
    """An agent under its conditions: what it says comes later, in the same order, or not at all.

    Args:
        agent: the agent.
        conditions: its conditions.
        random: where their chance comes from.
        clock: what counts the time.
    """
    if conditions.thinking == 0 and conditions.silent == 0:
        return agent

    def slow(events: Observable[Accepted]) -> Observable[Message[Any]]:
        messages = agent(events)

        def subscribe(
            observer: abc.ObserverBase[Message[Any]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            pending = CompositeDisposable()
            line = _Line(clock, conditions.thinking, random)

            def on_next(message: Message[Any]) -> None:
                if not (conditions.silent and random.random() < conditions.silent):
                    pending.add(line.later(lambda: observer.on_next(message)))

            def on_completed() -> None:
                pending.add(line.behind(observer.on_completed))

            pending.add(messages.subscribe(on_next, observer.on_error, on_completed, scheduler=scheduler))
            return pending

        return lift(events, subscribe)

    return slow


class _Line:
    """What takes its time and does not overtake: each thing comes a while later, and never before the one before."""

    def __init__(self, clock: Clock, seconds: Number, random: Random) -> None:
        self._clock = clock
        self._seconds = seconds
        self._random = random
        self._last = 0.0

    def later(self, action: Callable[[], object]) -> abc.DisposableBase:
        """Does it a while later."""
        return self._at(self._clock.seconds + _seconds(self._seconds, self._random), action)

    def behind(self, action: Callable[[], object]) -> abc.DisposableBase:
        """Does it when all before it is done."""
        return self._at(self._clock.seconds, action)

    def _at(self, due: float, action: Callable[[], object]) -> abc.DisposableBase:
        self._last = max(self._last, due)
        return self._clock.run_later(self._last - self._clock.seconds, action)


class Link:
    """A transport with a network in between.

    Args:
        inner: the transport at the far end.
        conditions: what the network is like.
        random: where its chance comes from.
    """

    def __init__(self, inner: Transport, conditions: Conditions, random: Random) -> None:
        self.reached: bool = True
        self._inner = inner
        self._conditions = conditions
        self._random = random
        self._calls: dict[_Crossing[Any, Any], None] = {}
        self._waiting: list[Callable[[], None]] = []  # calls that wait for the connection to come back
        self._down = False
        self._breaking = SerialDisposable()
        self._plan_cut()

    @property
    def clock(self) -> Clock:
        """The far end's."""
        return self._inner.clock

    @property
    def in_process(self) -> bool:
        """It is not: what is on its way can be lost."""
        return False

    def unary(
        self,
        method: Method[Req, Res],
        request: Req,
        receiver: Receiver[Res],
        *,
        auth: AuthConfig | None,
        timeout: float | None,
        trace: Metadata | None = None,
    ) -> Callable[[], None]:
        """Starts a unary call. It fails with UNAVAILABLE while the connection is broken, as one under way does when it breaks."""
        crossing = _Crossing[Req, Res](self, method, receiver)

        def arrive() -> None:
            crossing.cancel_far = self._inner.unary(method, request, crossing, auth=auth, timeout=None)

        crossing.begin(arrive)
        if timeout is not None:
            late = MacpTimeoutError(f"no answer within {timeout:g} s", method=method.path)
            crossing.limit = self.clock.run_later(timeout, lambda: crossing.fail(late))
        return crossing.cancel

    def stream(
        self,
        method: Method[Req, Res],
        requests: Sequence[Req],
        receiver: Receiver[Res],
        *,
        auth: AuthConfig | None,
        on_sent: Callable[[], None] = noop,
        patient: bool = False,
        trace: Metadata | None = None,
    ) -> Call[Req]:
        """Starts a streaming call; one that is patient waits for a broken connection to come back."""
        crossing = _Crossing[Req, Res](self, method, receiver)

        def arrive() -> None:
            far = self._inner.stream(method, requests, crossing, auth=auth, on_sent=on_sent)
            crossing.far, crossing.cancel_far = far, far.cancel

        crossing.begin(arrive, patient=patient)
        return crossing

    def close(self, on_closed: Callable[[], None]) -> None:
        """Ends every call silently."""
        self._breaking.dispose()
        self._waiting.clear()
        for crossing in tuple(self._calls):
            crossing.cancel()
        self._inner.close(on_closed)

    # For its calls.

    def begin(self, crossing: _Crossing[Any, Any], action: Callable[[], None], patient: bool) -> None:
        self._calls[crossing] = None
        if not self._down:
            action()
        elif patient:
            self._waiting.append(action)
        else:
            self.clock.run_later(0, crossing.break_)

    def line(self) -> _Line:
        return _Line(self.clock, self._conditions.latency, self._random)

    def comes_twice(self) -> bool:
        return bool(self._conditions.duplicated) and self._random.random() < self._conditions.duplicated

    def forget(self, crossing: _Crossing[Any, Any]) -> None:
        self._calls.pop(crossing, None)

    # Breaks.

    def _plan_cut(self) -> None:
        if self._conditions.cut_every is not None:
            self._breaking.disposable = self.clock.run_later(
                _seconds(self._conditions.cut_every, self._random), self._cut
            )

    def _cut(self) -> None:
        self._down = True
        self._breaking.disposable = self.clock.run_later(_seconds(self._conditions.outage, self._random), self._restore)
        for crossing in tuple(self._calls):
            crossing.break_()

    def _restore(self) -> None:
        self._down = False
        self._plan_cut()
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            action()


class _Crossing(Generic[Req, Res]):
    """One call on its way over a link: requests go out in a line, responses come back in another."""

    def __init__(self, link: Link, method: Method[Req, Res], receiver: Receiver[Res]) -> None:
        self.far: Call[Req] | None = None
        self.cancel_far: Callable[[], None] = noop
        self.limit: abc.DisposableBase | None = None
        self._link = link
        self._method = method
        self._receiver = receiver
        self._out = link.line()
        self._back = link.line()
        self._over = False

    def begin(self, arrive: Callable[[], None], *, patient: bool = False) -> None:
        self._link.begin(self, lambda: self._go(arrive), patient)

    def _go(self, action: Callable[[], None]) -> None:
        def run() -> None:
            if not self._over:
                action()

        self._out.later(run)

    def _come(self, action: Callable[[], None]) -> None:
        def run() -> None:
            if not self._over:
                action()

        self._back.later(run)

    # Requests.

    def send(self, request: Req) -> None:
        self._go(lambda: self.far.send(request) if self.far else None)

    def half_close(self) -> None:
        self._go(lambda: self.far.half_close() if self.far else None)

    def pause(self) -> None:  # what is on its way comes all the same, as from a real network's buffers
        if self.far is not None:
            self.far.pause()

    def resume(self) -> None:
        if self.far is not None:
            self.far.resume()

    def cancel(self) -> None:
        if not self._over:
            self._over = True
            if self.limit is not None:
                self.limit.dispose()
            self._link.forget(self)
            self.cancel_far()

    # Responses.

    def on_next(self, value: Res, /) -> None:
        for _ in range(2 if self._method.server_streaming and self._link.comes_twice() else 1):
            self._come(lambda: self._deliver(value))

    def _deliver(self, value: Res) -> None:
        try:
            self._receiver.on_next(value)
        except Exception as error:  # the subscriber's own, once
            self.fail(error)

    def on_error(self, error: Exception, /) -> None:
        self._come(lambda: self.fail(error))

    def on_completed(self) -> None:
        def complete() -> None:
            self.cancel()
            self._receiver.on_completed()

        self._come(complete)

    def break_(self) -> None:
        self.fail(MacpTransportError("UNAVAILABLE", "the connection broke", method=self._method.path))

    def fail(self, error: Exception) -> None:
        if not self._over:
            self.cancel()
            self._receiver.on_error(error)
