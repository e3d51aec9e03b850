"""`Marbles`: hot and cold sources, expectations, one virtual clock."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from reactivex import Observable, abc

from macp_rx.clock import VirtualClock
from macp_rx.errors import MacpSessionError
from macp_rx.marbles import FRAME, Mark, draw, finest, parse, written
from macp_rx.testing.expectation import difference
from macp_rx.testing.sessions import PlayedSession
from macp_rx.testing.sources import MarbleSource, Scheduled, scheduled
from macp_rx.timeline import Completed, Failed, Next, Timeline

__all__ = ["Expected", "Marbles"]

Legend = Mapping[str, Any]


class Marbles:
    """Tests of pipelines, written as marbles, run under virtual time.

        def test_it_maps(marbles):
            source = marbles.hot("--1--2--|", {"1": 1, "2": 2})
            marbles.expect(source.pipe(ops.map(str))).to_be("--a--b--|", {"a": "1", "b": "2"})

    Nothing happens until `run`, which the ``marbles`` fixture calls at the end of the test: so several streams may be
    expected of one source. `macp_rx.marbles` says how marbles are written.

    Args:
        clock: under whose time.
        frame: seconds of one frame.
    """

    def __init__(self, clock: VirtualClock | None = None, *, frame: float = FRAME / 1e6) -> None:
        self.clock: VirtualClock = clock or VirtualClock()
        self.frame: int = round(frame * 1e6)
        """Microseconds of one frame."""
        self._sources: list[MarbleSource] = []
        self._checks: list[tuple[str, Callable[[], str | None]]] = []
        self._running: list[abc.DisposableBase] = []
        self._sessions: list[PlayedSession] = []
        self.has_run: bool = False

    def hot(self, text: str, legend: Legend | None = None, *, error: Exception | None = None) -> MarbleSource:
        """A source that runs from the start, whoever listens. What stands before ``^`` has happened already.

        Args:
            text: its marbles.
            legend: what the names mean; a name without an entry means itself. A `Said` becomes an accepted envelope.
            error: what ``#`` means.
        """
        return self._source(text, legend, error, hot=True)

    def cold(self, text: str, legend: Legend | None = None, *, error: Exception | None = None) -> MarbleSource:
        """A source that runs from each subscription. Arguments as `hot`."""
        return self._source(text, legend, error, hot=False)

    def act(self, text: str, actions: Mapping[str, Callable[[], object]]) -> None:
        """Does things at the times that marbles say.

        Args:
            text: the marbles.
            actions: what each name does.
        """
        for mark in parse(text, frame=self.frame):
            if mark.what not in actions:
                raise MacpSessionError(f"there is no action {mark.what!r} for {text!r}, only {', '.join(actions)}")
            self._at(mark.time, actions[mark.what])

    def session(self, lanes: str | Timeline, legend: Legend | None = None) -> PlayedSession:
        """Plays a session on an embedded runtime, and expects that it accepts and refuses what the lanes say.

            chair : S-p------(c |)                     what a name means is said, by whose lane it is
            alice : ---v-(v INVALID_ENVELOPE)          what is refused has the code behind it; # is any code

        ``|`` says that the session has ended by then; without one it is open at the end. What the runtime itself says is in
        ``accepted``, not in the lanes. The session is there at once, so that pipelines on its events can be expected.

        Args:
            lanes: who says what when, a line for each as `Timeline` has them.
            legend: what the names mean: a SessionStart, which comes first; a Message, or `said` by its sender; an `Exactly`; a
                PolicyDescriptor, which is registered; or what is done, such as ``lambda session: session.suspend()``.

        Raises:
            MacpSessionError: a name that means nothing; no SessionStart; a code with nothing before it.
        """
        played = PlayedSession(self.clock, lanes, legend or {}, self.frame)
        for time in played.times:
            self._at(time, played.go_on)
        self.check(played.difference)
        self._sessions.append(played)
        return played

    def expect(self, observable: Observable[Any], subscription: str = "^") -> Expected:
        """Subscribes, and says what is expected.

        Args:
            observable: what to look at.
            subscription: when to subscribe and when to leave, as marbles: ``"--^----!"``.
        """
        marks = {mark.what: mark.time for mark in parse(subscription, frame=self.frame, from_start=True)}
        if "^" not in marks:
            raise MacpSessionError(f"a subscription begins with ^, as in '--^----!'; {subscription!r} does not")
        seen = _Seen()
        self._at(marks["^"], lambda: self._running.append(_watch(observable, seen, self.clock)))
        if "!" in marks:
            self._at(marks["!"], lambda: seen.leave())  # not seen.leave: that is what it is before the subscription
        return Expected(self, seen)

    def expect_subscriptions(self, source: MarbleSource) -> ExpectedSubscriptions:
        """Says when a source should be subscribed to, and left."""
        return ExpectedSubscriptions(self, source)

    def expect_no_event(self, observable: Observable[Any], seconds: float | timedelta) -> None:
        """Subscribes, and expects silence for that long; what comes after it does not count.

        Args:
            observable: what to look at.
            seconds: how long it must be silent.
        """
        until = round((seconds.total_seconds() if isinstance(seconds, timedelta) else seconds) * 1e6)
        seen = _Seen()
        self._at(0, lambda: self._running.append(_watch(observable, seen, self.clock)))

        def check() -> str | None:
            early = [one for one in seen.said if one[0] <= until]
            return difference([], [], early) if early else None

        self.check(check)

    def check(self, check: Callable[[], str | None]) -> None:
        """Adds something to look at after the run: it returns what is wrong, or None.

        Raises:
            MacpSessionError: the marbles have run already, so that nobody would look.
        """
        if self.has_run:
            raise MacpSessionError("these marbles have run already; say everything that is expected before run()")
        self._checks.append((_place(), check))

    def run(self) -> None:
        """Runs the clock until nothing is left, then checks every expectation.

        Raises:
            AssertionError: the first one that does not hold, and where it is written; both lanes are drawn, the first
                difference marked.
        """
        __tracebackhide__ = True
        self.has_run = True
        try:
            self.clock.run_until_idle()
            wrong = next((f"({place})\n{what}" for place, check in self._checks if (what := check()) is not None), None)
        finally:
            for subscription in self._running:
                subscription.dispose()
            for played in self._sessions:
                played.close()
        if wrong is not None:
            raise AssertionError(f"the marbles differ {wrong}")
        for source in self._sources:
            left = [span for span in source.spans if span[1] is None]
            if left:
                raise AssertionError(f"{len(left)} subscription(s) to {source.name} outlive whoever subscribed")

    def _source(self, text: str, legend: Legend | None, error: Exception | None, *, hot: bool) -> MarbleSource:
        notifications = scheduled(parse(text, frame=self.frame), legend or {}, error)
        name = f"{'hot' if hot else 'cold'}({text!r})"
        source = MarbleSource(name, notifications, self.clock, hot=hot)
        self._sources.append(source)
        return source

    def _at(self, time: int, action: Callable[[], object]) -> None:
        def run(_scheduler: abc.SchedulerBase, _state: object = None) -> None:
            action()

        self.clock.schedule_relative(time / 1e6, run)

    def lane(self, text: str, legend: Legend | None, error: Exception | None) -> tuple[list[Scheduled], list[str]]:
        """What marbles mean, and the name that each notification has in them."""
        marks = parse(text, frame=self.frame)
        meant = _expected(marks, legend or {}, error)
        return meant, [mark.what for mark in marks if mark.what not in "^!"]


def _place() -> str:
    """Where the test says what it expects: the failure comes when the test has returned, so no traceback tells it."""
    frame = inspect.currentframe()
    while frame and str(frame.f_globals.get("__name__")).startswith("macp_rx.testing"):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else ""


def _expected(marks: list[Mark], legend: Legend, error: Exception | None) -> list[Scheduled]:
    """As `scheduled`, but a `Said` stays what it is: it stands for any envelope that says this."""
    found: list[Scheduled] = []
    for mark in marks:
        if mark.what == "|":
            found.append((mark.time, Completed()))
        elif mark.what == "#":
            found.extend(scheduled([mark], legend, error))
        elif mark.what not in "^!":
            found.append((mark.time, Next(legend.get(mark.what, mark.what))))
    return found


@dataclass
class _Seen:
    said: list[Scheduled] = field(default_factory=list[Scheduled])
    leave: Callable[[], None] = field(default=lambda: None)


def _watch(observable: Observable[Any], seen: _Seen, clock: VirtualClock) -> abc.DisposableBase:
    def on_next(value: object) -> None:
        seen.said.append((clock.time, Next(value)))

    def on_error(error: Exception) -> None:
        seen.said.append((clock.time, Failed(error)))

    def on_completed() -> None:
        seen.said.append((clock.time, Completed()))

    subscription = observable.subscribe(on_next, on_error, on_completed, scheduler=clock)
    seen.leave = subscription.dispose
    return subscription


class Expected:
    """What is expected of an observable; made by `Marbles.expect`."""

    def __init__(self, marbles: Marbles, seen: _Seen) -> None:
        self._marbles = marbles
        self._seen = seen

    def to_be(self, text: str, legend: Legend | None = None, *, error: Exception | None = None) -> None:
        """Says that exactly this should come: these notifications, at these times.

        Args:
            text: the marbles.
            legend: what the names mean; a name without an entry means itself. A `Said` means any envelope that says it, a
                `Where` any value that passes.
            error: what ``#`` means; compared by type and arguments.
        """
        expected, names = self._marbles.lane(text, legend, error)
        self._marbles.check(lambda: difference(expected, names, self._seen.said))


class ExpectedSubscriptions:
    """When a source should be subscribed to; made by `Marbles.expect_subscriptions`."""

    def __init__(self, marbles: Marbles, source: MarbleSource) -> None:
        self._marbles = marbles
        self._source = source

    def to_be(self, *texts: str) -> None:
        """Says that these should have been the subscriptions, and no others.

        Args:
            texts: one for each, in order, as marbles: ``"^---!"``; without ``!`` it lasted to the end of the run.
        """
        expected = [_span(text, self._marbles.frame) for text in texts]

        def check() -> str | None:
            actual = [(span.subscribed, span.disposed) for span in self._source.subscriptions]
            if actual == expected:
                return None
            lanes = [_marks(span) for span in [*expected, *actual]]
            drawn = draw(lanes, frame=finest(mark.time for lane in lanes for mark in lane))
            names = ["expected"] * len(expected) + ["actual  "] * len(actual)
            rows = zip(names, drawn, [*expected, *actual], strict=True)
            return "\n".join(
                [
                    f"subscriptions to {self._source.name}",
                    *(f"{name}  {lane}   {_told(span)}" for name, lane, span in rows),
                ]
            )

        self._marbles.check(check)


def _span(text: str, frame: int) -> tuple[int, int | None]:
    marks = {mark.what: mark.time for mark in parse(text, frame=frame, from_start=True)}
    if "^" not in marks:
        raise MacpSessionError(f"a subscription begins with ^, as in '^----!'; {text!r} does not")
    return marks["^"], marks.get("!")


def _marks(span: tuple[int, int | None]) -> list[Mark]:
    begin, end = span
    return [Mark(begin, "^"), *([] if end is None else [Mark(end, "!")])]


def _told(span: tuple[int, int | None]) -> str:
    begin, end = span
    return f"from {written(begin)} to {'the end' if end is None else written(end)}"
