"""explain: runs a pipeline under virtual time, and draws what each of its operators makes of what comes."""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, Disposable

from macp_rx.clock import VirtualClock
from macp_rx.diagrams.lanes import WIDTH, svg
from macp_rx.diagrams.picture import Svg
from macp_rx.diagrams.theme import Theme
from macp_rx.errors import MacpSessionError
from macp_rx.marbles import FRAME
from macp_rx.operators.lift import like
from macp_rx.protocol.messages import Accepted
from macp_rx.simulation.run import Refusal
from macp_rx.streams.status import Status
from macp_rx.streams.stream import Stream
from macp_rx.timeline import Completed, Event, Failed, Next, Notification, Span, Timeline

__all__ = ["Operator", "explain"]

Operator = Callable[[Any], Any]
"""What stands in a ``pipe``."""

SOURCE: Final = "source"
RESULT: Final = "result"


def explain(
    pipeline: Operator | Sequence[Operator],
    events: Timeline | Iterable[Accepted] | Stream[Any],
    *,
    title: str = "",
    theme: Theme = "auto",
    width: int = WIDTH,
) -> Svg:
    """Draws what comes into a pipeline, what each operator makes of it, and what comes out, one under another.

        diagrams.explain([mo.of_type(VotePayload), mo.majority(electorate=3)], run.timeline)

    The pipeline runs, under virtual time, until nothing is left. Operators are named as they stand in the source: in the call of
    ``explain``, in the one assignment of the name that is passed, or in the function's ``events.pipe(…)``. Where there is no
    source, or it does not tell, they are named by the function that they come from.

    Args:
        pipeline: operators, as they stand in ``pipe``; or a function from a stream to a stream, such as an agent.
        events: what comes in. Of a Timeline its items, without refusals and what is told of connections; it ends with the
            timeline. Envelopes come a millisecond apart. Or a stream under a VirtualClock, such as a marble source.
        title: stands above the picture.
        theme: ``light``, ``dark``, or ``auto`` for whichever the reader's system has.
        width: how wide the picture is at the most, in pixels.

    Raises:
        MacpSessionError: there is nothing to run, or it does not run under virtual time.
    """
    frame = inspect.currentframe()
    source, clock = _source(events)
    watch = _Watch(clock)
    operators = _composed(pipeline) if callable(pipeline) else tuple(pipeline)
    if operators:
        watch.run(source, _named(operators, _elements(_call(frame and frame.f_back), operators)))
    elif callable(pipeline):
        watch.run_function(source, pipeline)
    else:
        raise MacpSessionError("a pipeline without operators explains nothing")
    return svg(watch.timeline, title=title, operators=watch.boxes, theme=theme, width=width)


# What comes in.


def _source(events: Timeline | Iterable[Accepted] | Stream[Any]) -> tuple[Stream[Any], VirtualClock]:
    if isinstance(events, Stream):
        clock = events.clock
        if not isinstance(clock, VirtualClock):
            raise MacpSessionError(
                f"a pipeline is explained under virtual time, and this stream is on a {type(clock).__name__}: "
                "hand over what it has said, as in explain(pipeline, client.history(id).pipe(ops.to_list()).run())"
            )
        return events, clock
    told = _told(events) if isinstance(events, Timeline) else _spaced(events)
    clock = VirtualClock()

    def subscribe(observer: abc.ObserverBase[Any], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        return CompositeDisposable(*(clock.run_later(time / 1_000_000, _saying(observer, what)) for time, what in told))

    return Stream(Observable(subscribe), clock), clock


def _told(timeline: Timeline) -> list[tuple[int, Notification]]:
    begin = min((event.time for event in timeline.events), default=0)
    begin = min(begin, 0)
    events = sorted(timeline.events, key=lambda event: event.time)
    told: list[tuple[int, Notification]] = [
        (event.time - begin, event.what)
        for event in events
        if isinstance(event.what, Next) and not isinstance(event.what.value, Refusal | Status)
    ]
    failed = [event for event in events if isinstance(event.what, Failed)]
    if failed and len({event.lane for event in events}) == 1:
        return [*told, (failed[-1].time - begin, failed[-1].what)]
    return [*told, (events[-1].time - begin if events else 0, Completed())]


def _spaced(items: Iterable[object]) -> list[tuple[int, Notification]]:
    told: list[tuple[int, Notification]] = [(number * FRAME, Next(item)) for number, item in enumerate(items, start=1)]
    return [*told, ((len(told) + 1) * FRAME, Completed())]


def _saying(observer: abc.ObserverBase[Any], what: Notification) -> Callable[[], None]:
    def say() -> None:
        match what:
            case Next(value):
                observer.on_next(value)
            case Failed(error):
                observer.on_error(error)
            case Completed():
                observer.on_completed()

    return say


# The run.


class _Watch:
    """Runs a pipeline and writes down what passes between its operators."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._events: list[Event] = []
        self._spans: list[tuple[str, int, list[int]]] = []
        self._lanes: list[str] = []
        self.boxes: dict[str, str] = {}

    @property
    def timeline(self) -> Timeline:
        """What was written down, lanes in the order of the pipeline."""
        spans = (
            Span(lane, begin, ends[0] if ends else None)
            for name in self._lanes
            for lane, begin, ends in self._spans
            if lane == name
        )
        return Timeline(tuple(self._events), tuple(spans))

    def run(self, source: Stream[Any], stages: Sequence[tuple[str, Operator]]) -> None:
        """Runs operators one after the other."""
        self._finish(self._chain(source, stages))

    def run_function(self, source: Stream[Any], function: Operator) -> None:
        """Runs a function of a stream: where all that it does is one ``pipe``, by operators, else as one of them."""
        watched = _Watched(source, self._chain)
        result = _observable(function(watched), _short(function))
        if len(watched.pipes) == 1 and watched.pipes[0] is result:
            self._finish(result)
        else:
            self._lanes, self.boxes = [], {}
            self.run(source, [(_short(function), function)])

    def _chain(self, source: Stream[Any], stages: Sequence[tuple[str, Operator]]) -> Observable[Any]:
        result = self._tapped(source, self._lane(SOURCE))
        for number, (name, operator) in enumerate(stages, start=1):
            made = _observable(operator(result), name)
            if type(made) is Observable:
                made = source.derived(made)  # as `Stream.pipe` does: its clock is not lost
            lane = self._lane(RESULT if number == len(stages) else _word(name, operator))
            self.boxes[lane] = name
            # what has a connect must keep it: nobody sees into it
            result = made if hasattr(made, "connect") else self._tapped(made, lane)
        return result

    def _lane(self, name: str) -> str:
        number = 1
        lane = name
        while lane in self._lanes:
            number += 1
            lane = f"{name}_{number}"
        self._lanes.append(lane)
        return lane

    def _finish(self, result: Observable[Any]) -> None:
        running = result.subscribe(on_error=lambda _error: None, scheduler=self._clock)
        self._clock.run_until_idle()
        running.dispose()

    def _tapped(self, source: Observable[Any], lane: str) -> Observable[Any]:
        def subscribe(
            observer: abc.ObserverBase[Any], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            ends: list[int] = []
            self._spans.append((lane, self._clock.time, ends))

            def note(what: Notification) -> None:
                if not ends:
                    self._events.append(Event(self._clock.time, lane, what))
                if not isinstance(what, Next):
                    ends.append(self._clock.time)

            def on_next(value: object) -> None:
                note(Next(value))
                observer.on_next(value)

            def on_error(error: Exception) -> None:
                note(Failed(error))
                observer.on_error(error)

            def on_completed() -> None:
                note(Completed())
                observer.on_completed()

            def left() -> None:
                ends.append(self._clock.time)

            inner = source.subscribe(on_next, on_error, on_completed, scheduler=scheduler)
            return CompositeDisposable(Disposable(left), inner)

        return like(source, Observable(subscribe))


def _observable(made: object, name: str) -> Observable[Any]:
    if not isinstance(made, Observable):
        raise MacpSessionError(f"{name} is no operator: of a stream it makes {type(made).__name__}")
    observable: Observable[Any] = made  # pyright: ignore[reportUnknownVariableType]
    return observable


class _Watched(Stream[Any]):
    """A stream of which one sees what it is piped through."""

    def __init__(
        self, source: Stream[Any], chain: Callable[[Stream[Any], Sequence[tuple[str, Operator]]], Observable[Any]]
    ) -> None:
        super().__init__(source, source.clock)
        self._chain = chain
        self.pipes: list[object] = []

    def pipe(self, *operators: Operator) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Applies operators, and has them watched."""
        frame = inspect.currentframe()
        call = _call(frame and frame.f_back)
        texts = _written(call.node.args, operators, call.source) if call else []
        result = super().pipe(*operators) if self.pipes else self._chain(self, _named(operators, texts))
        self.pipes.append(result)
        return result


# Names.


def _composed(operator: Operator) -> tuple[Operator, ...]:
    """What ``rx.compose`` was given; nothing of another function."""
    if getattr(operator, "__module__", "") != "reactivex.pipe":
        return ()
    return tuple(inspect.getclosurevars(operator).nonlocals.get("operators", ()))


def _named(operators: Sequence[Operator], texts: Sequence[str]) -> list[tuple[str, Operator]]:
    return list(zip(texts or list(map(_short, operators)), operators, strict=True))


def _short(operator: Operator) -> str:
    """What a function is called; a closure that is called ``operator``, or one of RxPY's curried ones, by what it comes from."""
    parts = getattr(operator, "__qualname__", type(operator).__name__).split(".<locals>.")
    if parts[0] == "curry_flip":
        curried = inspect.getclosurevars(operator).nonlocals.get("fun")
        return str(getattr(curried, "__name__", "operator")).strip("_")
    return parts[-2] if parts[-1] == "operator" and len(parts) > 1 else parts[-1]


def _word(text: str, operator: Operator) -> str:
    """``mo.of_type(VotePayload)`` -> ``of_type``: what a lane is called, without blanks."""
    head = text.partition("(")[0].rpartition(".")[2]
    return head if head.isidentifier() else _short(operator)


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that is going on, as it is written.

    Attributes:
        node: the call.
        tree: what it stands in: a file, or a cell of a notebook.
        source: the text of that.
    """

    node: ast.Call
    tree: ast.AST
    source: str


def _call(frame: FrameType | None) -> _Call | None:
    """The call that a frame is in the middle of; None where there is no source."""
    if frame is None:
        return None
    source = "".join(linecache.getlines(frame.f_code.co_filename))
    position = inspect.getframeinfo(frame).positions
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    if position is None:
        return None
    place = (position.lineno, position.end_lineno, position.col_offset, position.end_col_offset)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and place == (
            node.lineno,
            node.end_lineno,
            node.col_offset,
            node.end_col_offset,
        ):
            return _Call(node, tree, source)
    return None


def _elements(call: _Call | None, operators: Sequence[Operator]) -> list[str]:
    """The operators in ``explain([…], …)``, ``explain(rx.compose(…), …)``, or ``explain(name, …)`` where name has one meaning."""
    if call is None:
        return []
    given = [*call.node.args, *(keyword.value for keyword in call.node.keywords if keyword.arg == "pipeline")]
    match given[0] if given else None:
        case ast.Name(name):
            meaning = _assigned(name, call)
            return _written(_inside(meaning), operators, call.source) if meaning else []
        case ast.expr() as pipeline:
            return _written(_inside(pipeline), operators, call.source)
        case _:
            return []


def _assigned(name: str, call: _Call) -> ast.expr | None:
    """What a name means where the call stands, if it is assigned once: in the function, in one around it, or in the file."""
    around = [
        node
        for node in ast.walk(call.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and call.node in ast.walk(node)
    ]
    for scope in [*reversed(around), call.tree]:
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef) and name in _parameters(scope):
            return None
        values = list(_assignments(scope, name))
        if values:
            return values[0] if len(values) == 1 else None
    return None


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}


def _assignments(scope: ast.AST, name: str) -> Iterator[ast.expr]:
    """What is assigned to a name in a scope, and not in the functions inside it."""
    for node in ast.iter_child_nodes(scope):
        match node:
            case ast.Assign(targets, value) if any(isinstance(one, ast.Name) and one.id == name for one in targets):
                yield value
            case ast.AnnAssign(ast.Name(target), value=ast.expr() as value) if target == name:
                yield value
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() | ast.ClassDef():
                pass
            case _:
                yield from _assignments(node, name)


def _inside(pipeline: ast.expr) -> Sequence[ast.expr]:
    match pipeline:
        case ast.List(elements) | ast.Tuple(elements):
            return elements
        case ast.Call(ast.Name("compose") | ast.Attribute(attr="compose"), arguments):
            return arguments
        case _:
            return []


def _written(expressions: Sequence[ast.expr], operators: Sequence[Operator], source: str) -> list[str]:
    """Their text, if it is one for each operator: what stands in several lines is put into one."""
    if len(expressions) != len(operators) or any(isinstance(one, ast.Starred) for one in expressions):
        return []
    texts = [ast.get_source_segment(source, one) or "" for one in expressions]
    return [ast.unparse(one) if "\n" in text else text for one, text in zip(expressions, texts, strict=True)]
