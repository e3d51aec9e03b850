"""A thousand subscriptions come and go, from many threads, in every way: nothing of them is left."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from reactivex.disposable import SerialDisposable

from macp_rx import Accepted, DecisionSession, MacpClient, Runtime, Stream
from tests.conftest import Recorder, dial, wait_until

CYCLES = 1000


def at_once(events: Stream[Accepted]) -> None:
    events.subscribe(Recorder()).dispose()


def after_the_first(events: Stream[Accepted]) -> None:
    heard = Recorder()
    subscription = events.subscribe(heard)
    heard.wait_for(1)
    subscription.dispose()
    subscription.dispose()


def inside_on_next(events: Stream[Accepted]) -> None:
    left = threading.Event()
    subscription = SerialDisposable()

    def leave(_accepted: Accepted) -> None:
        subscription.dispose()
        left.set()

    subscription.disposable = events.subscribe(leave)
    assert left.wait(10)


def by_an_iterator_that_is_dropped(events: Stream[Accepted]) -> None:
    next(iter(events))


def by_raising(events: Stream[Accepted]) -> None:
    raised = threading.Event()

    def fail(_accepted: Accepted) -> None:
        raise ArithmeticError

    events.subscribe(fail, lambda _error: raised.set())
    assert raised.wait(10)


LEAVE: list[Callable[[Stream[Accepted]], None]] = [
    at_once,
    after_the_first,
    inside_on_next,
    by_an_iterator_that_is_dropped,
    by_raising,
]


@pytest.mark.parametrize("shared", [False, True])
def test_a_thousand_subscriptions_leave_nothing(shared: bool) -> None:
    chance = random.Random(1)
    with Runtime() as runtime, runtime.serve("127.0.0.1:0") as server, dial(server.target) as client:
        session = DecisionSession(client)
        session.start(intent="cycles", participants=["chair"], ttl_ms=60_000)
        client.initialize()
        tasks = count_tasks(client)

        def cycle(leave: Callable[[Stream[Accepted]], None]) -> None:
            leave(session.events if shared else client.session_events(session.session_id))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(cycle, chance.choices(LEAVE, k=CYCLES)))
        wait_until(client.clock, lambda: runtime.open_calls == 0, 1)
        wait_until(client.clock, lambda: len(asyncio.all_tasks()) <= tasks, 1)
        assert client.subscriptions == ()


def count_tasks(client: MacpClient) -> int:
    counted: list[int] = []
    done = threading.Event()

    def count() -> None:
        counted.append(len(asyncio.all_tasks()))
        done.set()

    client.clock.run_soon(count)
    assert done.wait(10)
    return counted[0]
