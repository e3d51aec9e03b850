"""What agents hear in these specs, and what they are to say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from reactivex import Observable, abc
from reactivex.disposable import Disposable

from macp_rx import Accepted, Agent, Message, Stream
from macp_rx.clock import VirtualClock
from macp_rx.testing import Marbles
from tests.operators.voices import LEGEND

__all__ = ["Slow", "check_log", "check_nothing_logged", "heard_at_once", "hears"]


def hears(marbles: Marbles, agent: Agent, accepted: str, legend: dict[str, Any] | None = None) -> Observable[Message]:
    """What an agent says about these marbles."""
    return agent(marbles.hot(accepted, {**LEGEND, **(legend or {})}))


def heard_at_once(clock: VirtualClock, accepted: Sequence[Accepted]) -> Stream[Accepted]:
    """A source that says everything while it is subscribed to, as one that replays from memory may."""

    def subscribe(observer: abc.ObserverBase[Accepted], _: abc.SchedulerBase | None = None) -> abc.DisposableBase:
        for one in accepted:
            observer.on_next(one)
        observer.on_completed()
        return Disposable()

    return Stream(Observable(subscribe), clock)


class Slow:
    """An async function that answers after some milliseconds, and remembers what became of its calls.

    Args:
        answer: its answer, or what it raises.
        ms: how long it takes.
    """

    def __init__(self, answer: Any, ms: int = 2) -> None:
        self._answer = answer
        self._ms = ms
        self.ends: list[str] = []

    async def __call__(self, _about: Accepted[Any], *_: Any) -> Any:
        try:
            await asyncio.sleep(self._ms / 1000)
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        self.ends.append("done")
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def ended(self, *ends: str) -> Callable[[], str | None]:
        """A check for the end of the marbles."""
        return lambda: None if self.ends == list(ends) else f"the calls have ended {self.ends}"


def check_log(marbles: Marbles, caplog: Any, *texts: str) -> None:
    """Fails at the end of the run unless just this was logged: each text is part of one record."""

    def check() -> str | None:
        said = [record.getMessage() for record in caplog.records]
        return None if len(said) == len(texts) and all(map(str.__contains__, said, texts)) else f"logged {said}"

    marbles.check(check)


def check_nothing_logged(marbles: Marbles, caplog: Any) -> None:
    """Fails at the end of the run if something was logged."""
    check_log(marbles, caplog)
