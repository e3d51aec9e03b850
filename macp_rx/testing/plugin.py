"""The pytest plugin: ``marbles``, ``virtual_time``, ``macp_runtime``, ``macp_server``; each checks that nothing is left."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Generator, Iterator
from typing import Any, cast
from weakref import WeakSet

import pytest

from macp_rx.clock import LoopClock
from macp_rx.runtime import Runtime, Server
from macp_rx.testing.guard import GuardedClock
from macp_rx.testing.marbles import Marbles

__all__ = ["macp_runtime", "macp_server", "marbles", "virtual_time"]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Runs the marbles as the last step of the test itself, so that a difference is its failure and not its teardown's."""
    __tracebackhide__ = True
    result = yield
    marbles = pyfuncitem.stash.get(_MARBLES, None)
    if marbles is not None and not marbles.has_run:
        marbles.run()
    return result


_MARBLES = pytest.StashKey[Marbles]()
"""A test's marbles, however it asked for them."""


@pytest.fixture
def virtual_time() -> Iterator[GuardedClock]:
    """A VirtualClock. While it runs, every other clock, chance and new threads raise."""
    with _no_thread_left():
        yield GuardedClock()


@pytest.fixture
def marbles(request: pytest.FixtureRequest, virtual_time: GuardedClock) -> Marbles:
    """Marble tests on the test's virtual clock; they run when the test function returns."""
    marbles = request.node.stash[_MARBLES] = Marbles(virtual_time)
    return marbles


@pytest.fixture
def macp_runtime(virtual_time: GuardedClock) -> Iterator[Runtime]:
    """An embedded runtime under the test's virtual time. Afterwards no call may be open."""
    runtime = Runtime(clock=virtual_time)
    yield runtime
    left = runtime.open_calls
    runtime.close()
    assert left == 0, (
        f"{left} call(s) to the embedded runtime were left open; dispose what subscribes, close the client"
    )


@pytest.fixture
def macp_server() -> Iterator[Server]:
    """An embedded runtime on a port of loopback, in real time. Afterwards no call may be open, and no task be left."""
    with _no_thread_left(), Runtime() as runtime, runtime.serve() as server:
        assert isinstance(runtime.clock, LoopClock)
        loop = runtime.clock.loop
        before = asyncio.run_coroutine_threadsafe(_tasks(), loop).result()
        yield server
        calls, tasks = asyncio.run_coroutine_threadsafe(_left(runtime, before), loop).result()
    assert calls == 0, f"{calls} call(s) to the server were left open; dispose what subscribes, close the client"
    assert not tasks, f"the test left tasks behind: {', '.join(tasks)}"


async def _tasks() -> WeakSet[asyncio.Task[Any]]:
    """The tasks of the running loop; not grpc's own, which are no coroutines of Python. A task that is kept keeps its thread."""
    return WeakSet(task for task in asyncio.all_tasks() if inspect.iscoroutine(task.get_coro()))


async def _left(runtime: Runtime, before: WeakSet[asyncio.Task[Any]]) -> tuple[int, list[str]]:
    """How many calls and which tasks are left once those that are just ending have ended."""
    before.add(cast("asyncio.Task[Any]", asyncio.current_task()))
    for _ in range(100):
        if runtime.open_calls == 0 and await _tasks() <= before:
            break
        await asyncio.sleep(0.01)
    return runtime.open_calls, sorted(task.get_name() for task in await _tasks() - before)


class _no_thread_left:  # noqa: N801 - used as a context manager only
    """Fails if a thread has come that does not end; one that is just ending is waited for."""

    def __enter__(self) -> None:
        self._before = set(threading.enumerate())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        came = set(threading.enumerate()) - self._before
        for thread in came:
            thread.join(2)
        left = sorted(thread.name for thread in came if thread.is_alive())
        if kind is None:
            assert not left, f"the test left threads behind: {', '.join(left)}"
