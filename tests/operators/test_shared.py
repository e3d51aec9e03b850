from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import reactivex as rx
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.disposable import Disposable
from reactivex.subject import Subject

from macp_rx import MacpClient, RetryPolicy, Runtime, Stream
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import DECISION
from macp_rx.streams.stream import Demand
from macp_rx.testing import Marbles, misbehaving
from tests.conftest import Recorder
from tests.operators.pausing import Pausing
from tests.runtime.conversation import Conversation


def test_one_subscription_from_the_first_to_the_last(marbles: Marbles) -> None:
    source = marbles.cold("-a-b-c-d-|")
    shared = source.pipe(mo.shared())
    marbles.expect(shared, "^----!").to_be("-a-b-")
    marbles.expect(shared, "--^----!").to_be("---b-c")
    marbles.expect_subscriptions(source).to_be("^------!")


def test_after_the_last_has_left_it_begins_anew(marbles: Marbles) -> None:
    source = marbles.cold("-a-b-|")
    shared = source.pipe(mo.shared())
    marbles.expect(shared, "^-!").to_be("-a")
    marbles.expect(shared, "----^").to_be("-----a-b-|")
    marbles.expect_subscriptions(source).to_be("^-!", "----^----!")


def test_after_its_end_it_begins_anew(marbles: Marbles) -> None:
    source = marbles.cold("-a|")
    shared = source.pipe(mo.shared())
    marbles.expect(shared).to_be("-a|")
    marbles.expect(shared, "----^").to_be("-----a|")
    marbles.expect_subscriptions(source).to_be("^-!", "----^-!")


def test_after_an_error_too(marbles: Marbles) -> None:
    """Where RxPY's share opens the source again, and throws away what it says."""
    source = marbles.cold("-a#", error=ValueError("lost"))
    shared = source.pipe(mo.shared())
    marbles.expect(shared).to_be("-a#", error=ValueError("lost"))
    marbles.expect(shared, "----^").to_be("-----a#", error=ValueError("lost"))


def test_whoever_subscribes_again_on_hearing_of_the_end_begins_anew(marbles: Marbles) -> None:
    calls = iter(["-a#", "-b|"])
    source = rx.defer(lambda _: marbles.cold(next(calls), error=ConnectionError()))
    retried = Stream(source, marbles.clock).pipe(mo.shared(), ops.retry(2), mo.shared())
    marbles.expect(retried).to_be("-a-b|")
    marbles.expect(retried).to_be("-a-b|")


def test_a_retry_before_it_is_one_for_all(marbles: Marbles) -> None:
    source = marbles.hot("-a-#---b-|", error=ConnectionError())
    always = mo.retry_with_backoff(RetryPolicy(first=0.002, cap=0.002), when=lambda _: True)
    shared = source.pipe(always, mo.shared())
    marbles.expect(shared).to_be("-a-----b-|")
    marbles.expect(shared).to_be("-a-----b-|")

    def check() -> str | None:
        spans = len(source.subscriptions)
        return None if spans == 2 else f"{spans} subscriptions"

    marbles.check(check)


@pytest.mark.parametrize("clock", [None, VirtualClock()], ids=["observable", "stream"])
def test_what_one_raises_is_its_own_error_and_the_others_go_on(clock: VirtualClock | None) -> None:
    source: Subject[int] = Subject()
    shared = mo.shared()(source if clock is None else Stream(source, clock))
    heard: list[object] = []
    raised: list[Exception] = []

    def broken(item: int) -> None:
        raise KeyError(item)

    shared.subscribe(broken, raised.append)
    shared.subscribe(heard.append)
    for item in (1, 2):
        source.on_next(item)
    if clock is not None:
        clock.run_until_idle()
    assert heard == [1, 2]
    assert [type(error) for error in raised] == [KeyError]


def test_also_of_one_that_hears_no_errors() -> None:
    """Then it is nobody's, and comes up where the item was told; but the others have it."""
    source: Subject[int] = Subject()
    shared = mo.shared()(source)
    heard: list[object] = []

    def broken(item: int) -> None:
        raise KeyError(item)

    shared.subscribe(broken)
    shared.subscribe(heard.append)
    with pytest.raises(KeyError):
        source.on_next(1)
    source.on_next(2)
    assert heard == [1, 2]


def test_whoever_is_dropped_by_another_s_callback_hears_no_more() -> None:
    source: Subject[int] = Subject()
    shared = mo.shared()(source)
    heard: list[int] = []
    shared.subscribe(lambda _: other.dispose())
    other = shared.subscribe(heard.append)
    source.on_next(1)
    assert heard == []
    assert len(source.observers) == 1


def test_a_source_that_says_everything_at_once_says_it_to_the_first() -> None:
    shared = mo.shared()(rx.of(1, 2))
    for _ in range(2):
        assert shared.pipe(ops.to_list()).run() == [1, 2]


def test_what_comes_after_the_end_reaches_nobody() -> None:
    heard: list[object] = []
    shared = mo.shared()(misbehaving("a|b|"))
    for _ in range(2):
        shared.subscribe(heard.append, heard.append, lambda: heard.append("|"))
    assert heard == ["a", "|", "a", "|"]


def test_subscribers_on_many_threads_are_one() -> None:
    opened: list[object] = []
    gate = threading.Barrier(8)

    def subscribe(observer: abc.ObserverBase[int], _: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        opened.append(observer)
        return Disposable()

    shared = mo.shared()(Observable(subscribe))

    def join() -> None:
        gate.wait()
        shared.subscribe()

    threads = [threading.Thread(target=join) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1


def fails() -> None:
    raise ArithmeticError


def test_an_end_that_one_does_not_take_is_kept_from_nobody() -> None:
    source, heard = Subject[int](), Recorder()
    shared = source.pipe(mo.shared())
    shared.subscribe()  # which has no on_error
    shared.subscribe(heard)
    with pytest.raises(ValueError, match="lost"):
        source.on_error(ValueError("lost"))
    assert str(heard.error) == "lost"
    source, heard = Subject[int](), Recorder()
    shared = source.pipe(mo.shared())
    shared.subscribe(on_completed=fails)
    shared.subscribe(heard)
    with pytest.raises(ArithmeticError):
        source.on_completed()
    assert heard.completed


def test_the_source_waits_for_the_slowest() -> None:
    clock = VirtualClock()
    source = Pausing(clock)
    shared = source.stream.pipe(mo.shared())
    slow, fast = Demand(clock, lambda _: None), Demand(clock, lambda _: None)
    leaves = shared.subscribe(scheduler=slow)
    shared.subscribe(scheduler=fast)

    def waits(*actions: Callable[[], object]) -> bool:
        for action in actions:
            clock.run_soon(action)
        clock.advance_by(0)
        return source.waits

    assert waits(slow.pause)
    assert waits(fast.pause, slow.resume)
    assert not waits(fast.resume)
    assert waits(slow.pause)
    assert not waits(leaves.dispose)


def test_whoever_waits_hears_that_the_client_was_closed(macp_runtime: Runtime) -> None:
    client = MacpClient.embedded(agent="chair", runtime=macp_runtime)
    talk = Conversation(client, DECISION, ["chair"])
    lost: list[Exception] = []
    shared = client.session_events(talk.session_id).pipe(mo.shared())
    shared.subscribe(scheduler=Demand(client.clock, lost.append))
    client.close()
    assert [type(error).__name__ for error in lost] == ["MacpClosedError"]
