"""What agents are made of: answers to what was said, several agents in one, an agent that knows how its session began."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Iterable
from inspect import isawaitable
from typing import Any, Generic

import reactivex as rx
from google.protobuf.message import Message as Protobuf
from macp.v1 import policy_pb2
from macp.v1.core_pb2 import SessionStartPayload
from reactivex import Observable, Subject, abc
from reactivex import operators as ops
from reactivex.disposable import CompositeDisposable, Disposable, SerialDisposable
from reactivex.scheduler import ImmediateScheduler
from typing_extensions import TypeVar

from macp_rx import operators as mo
from macp_rx.clock import Clock
from macp_rx.errors import MacpSessionError
from macp_rx.operators.lift import follow, lift, like
from macp_rx.operators.map_async import Closable
from macp_rx.operators.states import Rules
from macp_rx.protocol.messages import Accepted, Message
from macp_rx.protocol.policy import Policy
from macp_rx.session import Agent
from macp_rx.streams.stream import Demand, Stream
from macp_rx.taking_part import said_by

__all__ = ["CONCURRENCY", "Answer", "Then", "from_start", "log_fallback", "merge", "on", "on_state", "opening"]

_log = logging.getLogger("macp_rx.agents")

P = TypeVar("P", bound=Protobuf)
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
S = TypeVar("S")
T = TypeVar("T")

Answer = Message[Any] | Iterable[Message[Any]] | None
"""What an agent says to one thing: a message, several in order, or nothing."""

CONCURRENCY = 8
"""How many async answers of one agent may be under way at a time."""


class on(Generic[P]):  # noqa: N801 - reads as a sentence: on(ProposalPayload).say(…)
    """An agent that answers envelopes with certain payloads: ``on(ProposalPayload).say(fn)``.

    Args:
        payloads: payload classes of the installed macp-proto, such as ``ProposalPayload``.
    """

    def __init__(self, *payloads: type[P]) -> None:
        self._select = mo.of_type(*payloads)

    def say(
        self,
        answer: Callable[[Accepted[P]], Answer | Awaitable[Answer]],
        *,
        concurrency: int = CONCURRENCY,
        timeout: float | None = None,
        fallback: Callable[[Accepted[P], Exception], Answer] | None = None,
    ) -> Agent:
        """The agent that says what a function answers.

        An async function runs on the session's clock. What still runs when the session ends is cancelled. What was accepted
        before the agent joined is answered, too, as it must be by one who was started again; ``accepted.live`` tells it from
        what happens now.

            accepted   S-p-----q---
            says       --a-----a---

        Args:
            answer: what to say to an envelope: a Message, several, or None for nothing; or a coroutine of that.
            concurrency: how many coroutines may run at a time.
            timeout: seconds that a coroutine may take.
            fallback: what to say where ``answer`` failed, which is logged; without it that ends the agent.

        Errors:
            What ``answer`` raised; MacpTimeoutError.
        """

        def answered(accepted: Accepted[P]) -> Iterable[Message[Any]] | Awaitable[Iterable[Message[Any]]]:
            said = answer(accepted)
            return Then(said, _each) if isawaitable(said) else _each(said)

        def agent(events: Observable[Accepted]) -> Observable[Message[Any]]:
            def instead(accepted: Accepted[P], error: Exception) -> Iterable[Message[Any]]:
                log_fallback(events, accepted, error)
                return _each(fallback(accepted, error)) if fallback is not None else ()

            answers: Observable[Iterable[Message[Any]]] = events.pipe(
                self._select,
                mo.map_async(
                    answered,
                    concurrency=concurrency,
                    timeout=timeout,
                    otherwise=None if fallback is None else instead,
                    finish=False,
                ),
            )
            return _spoken(answers)

        return agent


class on_state(Generic[S]):  # noqa: N801 - as `on`
    """An agent that answers what has become of the session: ``on_state(quorum).say(fn)``.

    Args:
        mode: a module of `macp_rx.protocol.modes`, such as ``quorum``.
        policy: the policy that the session is bound to; may be left out if it is a built-in one, such as the default.
    """

    def __init__(self, mode: Rules[S], *, policy: Policy | policy_pb2.PolicyDescriptor | None = None) -> None:
        self._states = mo.states(mode, policy=policy)

    def say(self, answer: Callable[[S], Answer]) -> Agent:
        """The agent that says what a function answers to the session's state, after each accepted message until the commitment.

            accepted   S-p-v-y-C
            says       ------C--

        What it says is accepted a little later, or not at all. Until then it is asked again when others speak, and may answer
        the same again: then that is said again.

        Args:
            answer: what to say to a state: a Message, several, or None for nothing.

        Errors:
            What ``answer`` raised; as `mo.states`.
        """

        def said(state: S) -> Iterable[Message[Any]]:
            return _each(answer(state))

        def agent(events: Observable[Accepted]) -> Observable[Message[Any]]:
            return _spoken(events.pipe(ops.take_while(_is_open), self._states, ops.map(said)))

        return agent


def _is_open(accepted: Accepted) -> bool:
    return accepted.message_type != "Commitment"


def opening(*messages: Message[Any]) -> Agent:
    """An agent that says these messages, in order, when the session has started.

        accepted   S-a-b---
        says       -a-b----

    Args:
        messages: what it opens with, such as ``decision.propose("p1", "canary")``.
    """

    def answer(_start: Accepted[SessionStartPayload]) -> Answer:
        return messages

    return on(SessionStartPayload).say(answer)


class Then(Awaitable[B], Generic[A, B]):
    """What is made of an awaitable's result.

    Args:
        call: the awaitable.
        make: makes the result.
    """

    def __init__(self, call: Awaitable[A], make: Callable[[A], B]) -> None:
        self._call = call
        self._make = make

    def __await__(self) -> Generator[Any, Any, B]:
        return self._make((yield from self._call.__await__()))

    def close(self) -> None:
        """Drops the call, as a coroutine's ``close`` does."""
        if isinstance(self._call, Closable):
            self._call.close()


def log_fallback(events: Observable[Accepted], accepted: Accepted[P], error: Exception) -> None:
    """Logs why an agent says what it falls back on.

    Args:
        events: what the agent hears, which knows its name.
        accepted: what it has no answer to.
        error: why.
    """
    who = (events.listener if isinstance(events, Stream) else "") or "an agent"
    _log.warning("%s in %s: no answer to %r: %s; the fallback is said", who, accepted.session_id, accepted, error)


def _each(answer: Answer) -> Iterable[Message[Any]]:
    if answer is None:
        return ()
    return (answer,) if isinstance(answer, Message) else tuple(answer)


def _spoken(answers: Observable[Iterable[Message[Any]]]) -> Observable[Message[Any]]:
    """The messages of each answer, now. ``ops.flat_map`` subscribes to four observables for each (40 us: measured)."""

    def subscribe(
        observer: abc.ObserverBase[Message[Any]], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        def on_next(messages: Iterable[Message[Any]]) -> None:
            for message in messages:
                observer.on_next(message)

        return follow(answers, on_next, observer, scheduler)

    return lift(answers, subscribe)


def _at_once(sources: Iterable[T]) -> Observable[T]:
    """These now, and not when the scheduler comes to them."""
    return rx.from_iterable(sources, ImmediateScheduler.singleton())


def merge(*agents: Agent) -> Agent:
    """Several agents as one, under one name; what each of them says goes out as it comes.

        first    --a---b-
        second   ----x---
        says     --a-x-b-

    Args:
        agents: the agents. An exception of one ends all of them.
    """

    def agent(events: Observable[Accepted]) -> Observable[Message[Any]]:
        def subscribe(
            observer: abc.ObserverBase[Message[Any]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            heard: Subject[Accepted] = Subject()
            # rx.merge subscribes when the scheduler comes to it: what is accepted until then nobody would hear (measured)
            said = _at_once([said_by(one, like(events, heard)) for one in agents]).pipe(ops.merge_all())
            speaking = said.subscribe(observer, scheduler=_promptly(scheduler))
            return CompositeDisposable(speaking, events.subscribe(heard, scheduler=scheduler))

        return lift(events, subscribe)

    return agent


class _Prompt(Demand):
    """A clock that does at once what is due now, and not on its next turn.

    The same for an agent that is itself made with ``rx.merge``: by the next turn it would have missed what it is told now.
    """

    def schedule(self, action: abc.ScheduledAction[R], state: R | None = None) -> abc.DisposableBase:
        return action(self, state) or Disposable()


def _promptly(scheduler: abc.SchedulerBase | None) -> abc.SchedulerBase | None:
    return _Prompt(scheduler) if isinstance(scheduler, Clock) else scheduler


def from_start(make: Callable[[Accepted[SessionStartPayload]], Agent]) -> Agent:
    """An agent that is made of how its session began, as one that must know the participants is.

    Args:
        make: makes the agent of the SessionStart.

    Errors:
        MacpSessionError: what it hears does not begin with a SessionStart.
    """

    def agent(events: Observable[Accepted]) -> Observable[Message[Any]]:
        def subscribe(
            observer: abc.ObserverBase[Message[Any]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            heard: Subject[Accepted] = Subject()
            speaking = SerialDisposable()
            begun = False

            def on_next(accepted: Accepted) -> None:
                nonlocal begun
                if not begun:
                    if not isinstance(accepted.payload, SessionStartPayload):
                        raise MacpSessionError(
                            "an agent from_start needs a session's history from its SessionStart on, "
                            f"and heard {accepted!r} first"
                        )
                    begun = True
                    said = said_by(make(accepted), like(events, heard))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
                    speaking.disposable = said.subscribe(observer, scheduler=_promptly(scheduler))
                heard.on_next(accepted)

            def take(accepted: Accepted) -> None:
                try:
                    on_next(accepted)
                except Exception as error:
                    observer.on_error(error)

            def on_completed() -> None:
                heard.on_completed()
                if not begun:
                    observer.on_completed()

            return CompositeDisposable(
                events.subscribe(take, observer.on_error, on_completed, scheduler=scheduler), speaking
            )

        return lift(events, subscribe)

    return agent
