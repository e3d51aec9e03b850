"""deliver_on: bounded, one at a time, and what happens when the consumer does not keep up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import pytest
import reactivex as rx
from reactivex import operators as ops
from reactivex.abc import DisposableBase, SchedulerBase
from reactivex.internal import DisposedException
from reactivex.scheduler import EventLoopScheduler, ThreadPoolScheduler
from reactivex.subject import Subject
from reactivex.typing import RelativeTime, ScheduledAction

from macp_rx import DecisionSession, MacpClient, MacpClosedError, MacpOverflowError, MacpSessionError, Runtime
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.streams.delivery import Overflow
from macp_rx.testing import Marbles
from tests.conftest import Connect, Recorder

S = TypeVar("S")


def flooded(overflow: Overflow, buffer: int, items: int) -> tuple[list[object], int]:
    """What arrives when so many items come before the consumer gets its turn, and how many are dropped."""
    clock, source, recorder = VirtualClock(), Subject[int](), Recorder()
    deliver = mo.deliver_on(clock, buffer=buffer, overflow=overflow)
    source.pipe(deliver).subscribe(recorder)
    for number in range(items):
        source.on_next(number)
    assert deliver.waiting <= buffer
    source.on_completed()
    clock.run_until_idle()
    assert recorder.completed or isinstance(recorder.error, MacpOverflowError)
    return recorder.items, deliver.dropped


def test_each_policy_keeps_what_it_says_and_counts_the_rest() -> None:
    assert flooded("drop_oldest", 3, 10) == ([7, 8, 9], 7)
    assert flooded("drop_newest", 3, 10) == ([0, 1, 2], 7)
    assert flooded("latest", 3, 10) == ([9], 9)
    assert flooded("error", 3, 10) == ([0, 1, 2], 0)
    assert flooded("error", 10, 10) == (list(range(10)), 0)


def test_order_completion_and_errors_come_behind_the_items(marbles: Marbles) -> None:
    items = marbles.hot("-a-b-(c d)-#", error=ValueError("lost"))
    marbles.expect(items.pipe(mo.deliver_on(marbles.clock, overflow="error"))).to_be(
        "-a-b-(c d)-#", error=ValueError("lost")
    )
    marbles.expect_subscriptions(items).to_be("^------!")


def test_a_consumer_that_raises_gets_its_error_once_and_nobody_else_notices() -> None:
    clock, source, other = VirtualClock(), Subject[int](), Recorder()
    errors: list[Exception] = []

    def raising(_item: int) -> None:
        raise ValueError("mine")

    source.pipe(mo.deliver_on(clock, overflow="error")).subscribe(raising, errors.append)
    source.pipe(mo.deliver_on(clock, overflow="error")).subscribe(other)
    for number in range(3):
        source.on_next(number)
    clock.run_until_idle()
    assert [str(error) for error in errors] == ["mine"]
    assert other.items == [0, 1, 2]
    source.on_next(3)
    clock.run_until_idle()
    assert other.items == [0, 1, 2, 3]


def fails(_item: object = None) -> None:
    raise ValueError("mine")


@pytest.mark.parametrize(("on_next", "on_completed"), [(fails, None), (None, fails)])
def test_what_nobody_takes_is_logged_and_the_scheduler_lives_on(
    on_next: Callable[[int], None] | None, on_completed: Callable[[], None] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """RxPY's thread ends with the first exception that reaches it, and whoever else is on it hears nothing more."""
    scheduler, heard = EventLoopScheduler(exit_if_empty=True), Recorder()
    rx.of(1).pipe(mo.deliver_on(scheduler, overflow="error")).subscribe(on_next, None, on_completed)
    rx.of(1, 2).pipe(mo.deliver_on(scheduler, overflow="error")).subscribe(heard)
    heard.wait_for_end()
    assert heard.items == [1, 2]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["mine"]


def test_who_runs_a_clock_hears_what_nobody_takes() -> None:
    clock = VirtualClock()
    rx.of(1).pipe(mo.deliver_on(clock, overflow="error")).subscribe(fails)
    with pytest.raises(ValueError, match="mine"):
        clock.run_until_idle()


def shut_down() -> ThreadPoolScheduler:
    scheduler = ThreadPoolScheduler(1)
    scheduler.executor.shutdown()
    return scheduler


def disposed() -> EventLoopScheduler:
    scheduler = EventLoopScheduler()
    scheduler.dispose()
    return scheduler


@pytest.mark.parametrize("ended", [shut_down, disposed])
def test_a_scheduler_that_has_ended_is_an_error_and_no_silence(ended: Callable[[], SchedulerBase]) -> None:
    source, heard = Subject[int](), Recorder()
    source.pipe(mo.deliver_on(ended(), overflow="error")).subscribe(heard)
    source.on_next(1)
    assert isinstance(heard.error, RuntimeError | DisposedException)
    assert source.observers == []


def test_what_is_disposed_hears_nothing_more() -> None:
    clock, source, recorder = VirtualClock(), Subject[int](), Recorder()
    subscription = source.pipe(mo.deliver_on(clock, overflow="error")).subscribe(recorder)
    source.on_next(1)
    subscription.dispose()
    clock.run_until_idle()
    assert recorder.items == []
    assert source.observers == []


def test_pause_is_refused_where_a_foreign_operator_hides_it(connect: Connect) -> None:
    events = connect("chair").session_events("0" * 22)
    scheduler = EventLoopScheduler()
    with pytest.raises(MacpSessionError, match="put deliver_on before that operator"):
        events.pipe(ops.map(str), mo.deliver_on(scheduler))
    with pytest.raises(MacpSessionError, match="no stream of macp_rx"):
        Subject[int]().pipe(mo.deliver_on(scheduler))
    events.pipe(mo.deliver_on(scheduler), ops.map(str))
    events.pipe(ops.map(str), mo.deliver_on(scheduler, overflow="latest"))


def test_one_value_needs_no_source_that_waits(connect: Connect) -> None:
    client = connect("chair")
    session = DecisionSession(client)
    session.start(intent="one", participants=["chair"], ttl_ms=60_000)
    scheduler, heard = EventLoopScheduler(exit_if_empty=True), [Recorder(), Recorder()]
    session.rx.cancel().pipe(mo.deliver_on(scheduler)).subscribe(heard[0])
    session.outcome.pipe(mo.deliver_on(scheduler, buffer=1)).subscribe(heard[1])
    for recorder in heard:
        recorder.wait_for_end()
    assert [recorder.error for recorder in heard] == [None, None]
    assert [len(recorder.items) for recorder in heard] == [1, 1]


@pytest.mark.parametrize(("buffer", "overflow"), [(0, "pause"), (1, "sometimes")])
def test_bad_settings_say_what_is_right(buffer: int, overflow: str) -> None:
    with pytest.raises(MacpSessionError):
        mo.deliver_on(VirtualClock(), buffer=buffer, overflow=overflow)  # type: ignore[arg-type]


def test_a_slow_consumer_on_another_thread_holds_the_call_and_loses_nothing(connect: Connect) -> None:
    client = connect("chair")
    session = DecisionSession(client)
    session.start(intent="slow", participants=["chair"], ttl_ms=60_000)
    for number in range(100):
        session.propose(f"p{number}", "one")
    session.commit(action="decision.selected", authority_scope="test", reason="enough")
    # not an EventLoopScheduler: one that is disposed while it runs an action keeps its thread for ever (RxPY 6.1)
    scheduler, go, heard, threads = ThreadPoolScheduler(1), threading.Event(), Recorder(), set[str]()

    def slowly(accepted: object) -> None:
        assert go.wait(10)
        threads.add(threading.current_thread().name)
        heard.on_next(accepted)

    client.session_events(session.session_id, scheduler=scheduler, buffer=4).subscribe(
        slowly, heard.on_error, heard.on_completed
    )
    session.metadata()  # the I/O thread is free meanwhile
    go.set()
    heard.wait_for_end()
    assert heard.error is None
    assert [accepted.sequence for accepted in heard.items] == list(range(1, 103))  # type: ignore[attr-defined]
    assert len(threads) == 1
    assert "macp_rx-io" not in threads
    scheduler.executor.shutdown()


class Looks(EventLoopScheduler):
    """Counts how often somebody wants to look again by itself instead of being woken."""

    count = 0

    def schedule_relative(
        self, duetime: RelativeTime, action: ScheduledAction[S], state: S | None = None
    ) -> DisposableBase:
        self.count += 1
        return super().schedule_relative(duetime, action, state)


def test_a_busy_stream_is_looked_at_now_and_then_and_what_comes_of_a_quiet_one_at_once() -> None:
    scheduler, source, recorder = Looks(), Subject[int](), Recorder()
    source.pipe(mo.deliver_on(scheduler, overflow="drop_oldest")).subscribe(recorder)
    pause = threading.Event()
    for number in range(20):
        source.on_next(number)
        pause.wait(0.002)  # so quiet is the source
    recorder.wait_for(20)
    assert scheduler.count == 0
    for number in range(10_000_000):
        source.on_next(number)
        if scheduler.count:
            break
    assert scheduler.count
    source.on_completed()
    recorder.wait_for_end()
    scheduler.dispose()


def test_the_hop_waits_for_a_consumer_that_pulls() -> None:
    with Runtime() as runtime, MacpClient.embedded(agent="chair", runtime=runtime) as client:
        session = DecisionSession(client)
        session.start(intent="pull", participants=["chair"], ttl_ms=60_000)
        for number in range(600):
            session.propose(f"p{number}", "one")
        session.commit(action="decision.selected", authority_scope="test", reason="enough")
        events = client.session_events(session.session_id).pipe(mo.deliver_on(client.clock, buffer=8))
        assert [accepted.sequence for accepted in events] == list(range(1, 603))


@pytest.mark.parametrize("overflow", ["pause", "drop_oldest"])
def test_a_close_is_told_to_who_waits_behind_the_hop_and_is_silence_to_who_subscribed(
    connect: Connect, overflow: Overflow
) -> None:
    client = connect("chair")
    session = DecisionSession(client)
    session.start(intent="closing", participants=["chair"], ttl_ms=60_000)
    hop, heard = mo.deliver_on(client.clock, overflow=overflow), Recorder()
    waiting = iter(session.events.pipe(hop))
    next(waiting)
    session.events.pipe(hop).subscribe(heard)
    heard.wait_for(1)
    client.close()
    with pytest.raises(MacpClosedError):
        next(waiting)
    assert heard.error is None
    assert not heard.completed
