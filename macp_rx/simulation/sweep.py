"""Many runs: every combination of settings, with many seeds, on all cores, as one table."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import multiprocessing
import os
import pickle
import signal
import statistics
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final, overload

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from macp_rx.errors import MacpSessionError
from macp_rx.simulation.chance import Chance
from macp_rx.simulation.run import Simulation

if TYPE_CHECKING:
    from distributed import Client
    from pandas import DataFrame

__all__ = ["Record", "Summary", "Sweep", "sweep"]

Run = Callable[..., Simulation]
"""A run of one's own: takes the settings by name, and ``seed``."""

Setting = Sequence[object] | Chance
"""All values to try, or how to draw one for each seed."""

BATCH: Final = 64
"""So many runs at most go to a worker at a time: a run takes milliseconds, and to send it one."""

AHEAD: Final = 4
"""So many batches a worker has before it at most: who reads slowly does not fill the memory."""


@dataclass(frozen=True, slots=True)
class Record:
    """One run, in short.

    Attributes:
        settings: the settings, by name.
        seed: of its chance.
        state: how it ended: ``RESOLVED``, ``CANCELLED`` or ``EXPIRED``.
        positive: whether it was resolved with a positive commitment.
        seconds: virtual seconds until then.
        messages: how many were accepted.
        refusals: how many were not.
        errors: the agents that did not live to the end.
        digest: a hash of all that happened.
        measures: what ``measure`` found, by name.
    """

    settings: Mapping[str, object] = field(hash=False)
    seed: int
    state: str
    positive: bool
    seconds: float
    messages: int
    refusals: int
    errors: tuple[str, ...]
    digest: str
    measures: Mapping[str, object] = field(default_factory=dict[str, object], hash=False)


@dataclass(frozen=True, slots=True)
class Summary:
    """All runs with the same settings.

    Attributes:
        settings: the settings, by name.
        runs: how many.
        resolved: the share that was resolved.
        positive: the share that was resolved positively.
        median: half of them took at most so many seconds.
        slowest: nine in ten took at most so many.
        messages: accepted messages, on average.
        refusals: refused messages, on average.
    """

    settings: Mapping[str, object] = field(hash=False)
    runs: int
    resolved: float
    positive: float
    median: float
    slowest: float
    messages: float
    refusals: float


class Sweep(Sequence[Record]):
    """What a sweep found: a Record for each run, in the order of settings and seeds.

    Args:
        records: the records.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = tuple(records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sweep: ...

    def __getitem__(self, index: int | slice) -> Record | Sweep:
        return Sweep(self._records[index]) if isinstance(index, slice) else self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sweep) and self._records == other._records

    def __hash__(self) -> int:
        return hash(self._records)

    def by(self, *names: str) -> tuple[Summary, ...]:
        """Runs with equal settings together, in order of appearance.

        Args:
            names: the settings to tell apart; all by default.

        Raises:
            MacpSessionError: there is no such setting.
        """
        groups: dict[tuple[object, ...], list[Record]] = {}
        for record in self._records:
            chosen = names or tuple(record.settings)
            missing = [name for name in chosen if name not in record.settings]
            if missing:
                raise MacpSessionError(f"there is no setting {missing[0]!r}; there are {', '.join(record.settings)}")
            groups.setdefault(tuple((name, _key(record.settings[name])) for name in chosen), []).append(record)
        return tuple(_summary(names, group) for group in groups.values())

    def to_pandas(self) -> DataFrame:
        """A row for each run, a column for each setting, number and measure. Needs pandas."""
        try:
            import pandas
        except ImportError as error:
            raise MacpSessionError("to_pandas needs pandas: pip install pandas") from error
        rows: list[dict[str, object]] = [
            {
                **record.settings,
                "seed": record.seed,
                "state": record.state,
                "positive": record.positive,
                "seconds": record.seconds,
                "messages": record.messages,
                "refusals": record.refusals,
                "errors": len(record.errors),
                **record.measures,
            }
            for record in self._records
        ]
        return pandas.DataFrame(rows)

    def __rich__(self) -> Table:
        summaries = self.by()
        table = Table(*(summaries[0].settings if summaries else ()))
        for head in ("runs", "resolved", "positive", "median s", "90 % s", "messages", "refusals"):
            table.add_column(head, justify="right")
        for one in summaries:
            numbers = (f"{one.resolved:.0%}", f"{one.positive:.0%}", f"{one.median:.3g}", f"{one.slowest:.3g}")
            means = (f"{one.messages:.3g}", f"{one.refusals:.3g}")
            table.add_row(*(_name(value) for value in one.settings.values()), str(one.runs), *numbers, *means)
        return table

    def __str__(self) -> str:
        # in a notebook rich would display it, too
        console = Console(width=120, color_system=None, force_jupyter=False)
        with console.capture() as text:
            console.print(self.__rich__())
        return text.get()

    def __repr__(self) -> str:
        return f"Sweep({len(self)} runs)"


def _key(value: object) -> object:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value


def _name(value: object) -> str:
    return getattr(value, "__name__", None) or str(value)


def _summary(names: tuple[str, ...], group: list[Record]) -> Summary:
    seconds = sorted(record.seconds for record in group)
    settings = group[0].settings
    return Summary(
        {name: settings[name] for name in names} if names else settings,
        len(group),
        statistics.fmean(record.state == "RESOLVED" for record in group),
        statistics.fmean(record.positive for record in group),
        statistics.median(seconds),
        seconds[min(len(seconds) - 1, int(0.9 * len(seconds)))],
        statistics.fmean(record.messages for record in group),
        statistics.fmean(record.refusals for record in group),
    )


def sweep(
    run: Run,
    settings: Mapping[str, Setting] | None = None,
    *,
    seeds: int | Iterable[int] = 100,
    measure: Callable[[Simulation], Mapping[str, object]] | None = None,
    workers: int | None = None,
    on: Client | None = None,
    progress: bool = True,
) -> Sweep:
    """Runs every combination of settings with every seed, on all cores or on a cluster; the same records wherever it runs.

        def rollout(policy: str, *, seed: int) -> Simulation: ...

        print(sweep(rollout, {"policy": ["majority", "unanimous"]}, seeds=500))

    Workers are fresh processes, never forked from this one: a worker that was forked where a gRPC client had lived hangs
    (`reactive-facts.md` 4). So functions, also those among the settings, are functions of a module; or, where ``cloudpickle`` is
    installed, any: those of a notebook, and lambdas.

    Args:
        run: one run, by settings and ``seed``, such as a function around `simulate`.
        settings: name -> the values to try, all combined; or how to draw one for each seed.
        seeds: which; a number of them stands for 0 and on.
        measure: what else to note of a run.
        workers: processes; as many as there are cores by default, 1 runs here.
        on: a Dask cluster to run on instead (``pip install 'macp-rx[dask]'``). Its workers need this package. A worker that is
            lost has its runs done by others; one that comes gets its share.
        progress: show a bar, where there is a terminal, or a notebook that has ipywidgets.

    Raises:
        MacpSessionError: a run failed, and with which settings; or it cannot be sent to a worker; or there is nothing to run.
    """
    plan = _Plan(settings or {}, range(seeds) if isinstance(seeds, int) else tuple(seeds))
    if on is not None and workers is not None:
        raise MacpSessionError("a cluster has the workers it has: name workers= or on=, not both")
    workers = _threads_of(on) if on is not None else _cores() if workers is None else workers
    if workers < 1:
        raise MacpSessionError(f"a sweep has at least 1 worker, not {workers}")
    batches = plan.batches(max(1, min(BATCH, len(plan) // (workers * AHEAD))))
    records: list[Record] = []
    with _bar(len(plan), wanted=progress) as advance:
        if on is not None:
            played = _on_cluster(run, measure, batches, on)
        elif workers > 1:
            played = _in_processes(run, measure, batches, workers)
        else:
            played = _here(run, measure, batches)
        for batch in played:
            records.extend(batch)
            advance(len(batch))
    return Sweep(records)


def _cores() -> int:
    """As many as this process may use: a container's share, where that can be told."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Plan:
    """What is to be run, in order; made as it is needed, for it may be a million runs."""

    def __init__(self, settings: Mapping[str, Setting], seeds: Sequence[int]) -> None:
        for name, values in settings.items():
            if isinstance(values, str) or not isinstance(values, Sequence | Chance):
                raise MacpSessionError(f"setting {name!r} is a list of values, or how to draw one, not {values!r}")
            if isinstance(values, Sequence) and not values:
                raise MacpSessionError(f"setting {name!r} has no value to try")
        if not seeds:
            raise MacpSessionError("a sweep has at least 1 seed")
        self._settings = settings
        self._seeds = seeds
        listed = {name: values for name, values in settings.items() if isinstance(values, Sequence)}
        self._combinations = [dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values())]

    def __len__(self) -> int:
        return len(self._combinations) * len(self._seeds)

    def batches(self, size: int) -> Iterator[Batch]:
        runs = iter(self)
        while batch := list(itertools.islice(runs, size)):
            yield batch

    def __iter__(self) -> Iterator[tuple[dict[str, object], int]]:
        for combination in self._combinations:
            for seed in self._seeds:
                yield {name: self._value(name, combination, seed) for name in self._settings}, seed

    def _value(self, name: str, combination: Mapping[str, object], seed: int) -> object:
        chance = self._settings[name]
        return chance.draw(Random(f"{seed} {name}")) if isinstance(chance, Chance) else combination[name]


Batch = Sequence[tuple[dict[str, object], int]]
Measure = Callable[[Simulation], Mapping[str, object]] | None


def _play(run: Run, measure: Measure, batch: Batch) -> list[Record]:
    return [_record(run, measure, settings, seed) for settings, seed in batch]


def _record(run: Run, measure: Measure, settings: dict[str, object], seed: int) -> Record:
    try:
        simulation = run(**settings, seed=seed)
        measures = dict(measure(simulation)) if measure else {}
    except Exception as error:
        told = ", ".join(f"{name}={_name(value)}" for name, value in settings.items())
        raise MacpSessionError(f"the run with {told}{', ' if told else ''}seed={seed} failed: {error!r}") from error
    return Record(
        settings,
        seed,
        simulation.outcome.state,
        simulation.outcome.positive,
        simulation.seconds,
        len(simulation.accepted),
        len(simulation.refusals),
        tuple(simulation.errors),
        simulation.digest,
        measures,
    )


def _here(run: Run, measure: Measure, batches: Iterable[Batch]) -> Iterator[list[Record]]:
    for batch in batches:
        yield _play(run, measure, batch)


# In other processes.


def _in_processes(run: Run, measure: Measure, batches: Iterator[Batch], workers: int) -> Iterator[list[Record]]:
    fresh = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(fresh)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_work) as pool:
        yield from _spread(run, measure, batches, pool, lambda: workers)


def _on_cluster(run: Run, measure: Measure, batches: Iterator[Batch], client: Any) -> Iterator[list[Record]]:
    # without pure=False equal batches would be one; and two of a run that is no function of its seed, too
    with client.get_executor(pure=False) as pool:
        yield from _spread(run, measure, batches, pool, lambda: _threads_of(client))


def _threads_of(client: Any) -> int:
    """How many batches a cluster plays at a time; of one whose workers are still to come, one."""
    return sum(client.nthreads().values()) or 1


def _spread(
    run: Run, measure: Measure, batches: Iterator[Batch], pool: Executor, workers: Callable[[], int]
) -> Iterator[list[Record]]:
    pickler = _pickler(run, measure)
    what = _sent(pickler, (run, measure), run)
    under_way: deque[tuple[Batch, Future[list[Record]]]] = deque()
    try:
        while True:
            with _uninterrupted():
                for batch in itertools.islice(batches, max(0, workers() * AHEAD - len(under_way))):
                    under_way.append((batch, pool.submit(_play_sent, what, _sent(pickler, batch, run))))
            if not under_way:
                return
            batch, future = under_way.popleft()
            # what came back by value is another object: a setting must be the one that was given, to be put together by
            yield [
                replace(record, settings=settings)
                for (settings, _seed), record in zip(batch, future.result(), strict=True)
            ]
    finally:  # Ctrl-C among it: what has not begun does not begin
        for _batch, future in under_way:
            future.cancel()


@contextmanager
def _uninterrupted() -> Generator[None]:
    """Ctrl-C comes behind it: it reaches every process of a terminal, and one that is being started would print a traceback."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_work() -> None:
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for us answers it


def _pickler(run: Run, measure: Measure) -> Any:
    """What makes bytes of a run: cloudpickle, which takes functions by value where a worker cannot import them."""
    try:
        return importlib.import_module("cloudpickle")
    except ImportError as error:
        if "__main__" in (run.__module__, getattr(measure, "__module__", "")):  # which is another module in a worker
            raise MacpSessionError(
                "a worker cannot import a function of a notebook or a script: move it into a module, install cloudpickle, or "
                "say workers=1"
            ) from error
        return pickle


def _sent(pickler: Any, what: object, run: Run) -> bytes:
    """It as bytes that a fresh process can read."""
    try:
        return bytes(pickler.dumps(what))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise MacpSessionError(
            f"{_name(run)} or its settings cannot be sent to a worker ({error}): make them of functions of a module, or say "
            "workers=1"
        ) from error


def _play_sent(what: bytes, batch: bytes) -> list[Record]:
    run, measure = _received(what)
    with _seldom_collected():
        return [replace(record, settings={}) for record in _play(run, measure, pickle.loads(batch))]


_lock = threading.Lock()
_playing = 0
_threshold = gc.get_threshold()


@contextmanager
def _seldom_collected() -> Generator[None]:
    """A run leaves cycles behind; to look for them less often is a fifth faster (measured). A worker of Dask is not ours and may
    play on several threads: the last one out leaves the process as the first one in has found it.
    """
    global _playing, _threshold
    with _lock:
        if not _playing:
            _threshold = gc.get_threshold()
            gc.set_threshold(50_000, 20, 100)
        _playing += 1
    try:
        yield
    finally:
        with _lock:
            _playing -= 1
            if not _playing:
                gc.set_threshold(*_threshold)


_last: tuple[bytes, tuple[Run, Measure]] | None = None


def _received(what: bytes) -> tuple[Run, Measure]:
    """The functions; read once a worker, not once a batch."""
    global _last
    if _last is None or _last[0] != what:
        _last = what, pickle.loads(what)
    return _last[1]


@contextmanager
def _bar(total: int, *, wanted: bool) -> Generator[Callable[[int], object]]:
    console = Console(stderr=True)
    # in a notebook rich draws by ipywidgets, and warns at each sweep where they are not
    notebook = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    shown = wanted and (console.is_terminal or notebook)
    if not shown:  # rich before 15 ends even a bar that it was told not to show, with a line break
        yield lambda _runs: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield partial(bar.advance, bar.add_task("simulating", total=total))
