"""While virtual time runs, every other source of time, chance and threads is an error."""

from __future__ import annotations

import os
import random
import secrets
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any, Final
from unittest.mock import patch

from reactivex.scheduler import TimeoutScheduler, TrampolineScheduler

from macp_rx.clock import VirtualClock

__all__ = ["GuardedClock", "only_virtual_time"]

_FORBIDDEN: Final[tuple[tuple[object, str], ...]] = (
    *(
        (time, name)
        for name in (
            *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"),
            *("process_time", "process_time_ns", "thread_time", "thread_time_ns"),
        )
    ),
    *((uuid, name) for name in ("uuid1", "uuid4")),
    (os, "urandom"),
    *((secrets, name) for name in ("choice", "randbelow", "randbits", "token_bytes", "token_hex", "token_urlsafe")),
    *((random, name) for name in random.__all__ if name[0].islower() and name not in ("seed", "getstate", "setstate")),
    (TimeoutScheduler, "singleton"),  # what RxPY's timed operators fall back to: a thread per timer
    (TrampolineScheduler, "schedule_relative"),  # which really waits: subscribing only ever schedules there for now
    (threading.Thread, "start"),  # and with it every scheduler of RxPY that has threads
)


@contextmanager
def only_virtual_time() -> Generator[None]:
    """Makes the clocks of `time`, ids, chance, real waits and new threads raise, so that a run depends on its seed alone.

    What Python does not let anybody replace gets through: ``datetime.now``, ``random.Random()``, and what was imported by name
    before, as in ``from time import time``.

    On the calling thread: other threads, such as the loop of a server beside the test, need their clocks. And not for
    `logging` and OpenTelemetry, since the time on a log line and the id of a span are no part of a result.
    """
    thread = get_ident()
    with ExitStack() as patches:
        for owner, name in _FORBIDDEN:
            patches.enter_context(patch.object(owner, name, _raising(owner, name, thread)))
        yield


def _raising(owner: object, name: str, thread: int) -> Callable[..., Any]:
    original: Callable[..., Any] = getattr(owner, name)

    def refuse(*args: object, **keywords: object) -> Any:
        caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # as logging itself looks for its caller
        package = str(caller.f_globals.get("__name__")).partition(".")[0]
        if get_ident() != thread or package in ("logging", "opentelemetry"):
            return original(*args, **keywords)
        raise AssertionError(
            f"{getattr(owner, '__name__', owner)}.{name} was used while virtual time runs: the result would not depend on the "
            "seed alone. Take time, ids and chance from the clock, and give timed operators scheduler=clock"
        )

    return refuse


class GuardedClock(VirtualClock):
    """A VirtualClock that forbids every other clock while it runs."""

    def _run(self, until: int | None, ready: threading.Event | None = None) -> None:
        with only_virtual_time():
            super()._run(until, ready)
