"""An agent in a session: it hears the history, then what is live; what it says goes out unless that was said before.

The rule that makes it safe to start an agent again, wherever it was killed. The id of what it says is a hash of the session, its
name, what it says, and how often it has said just that (`message_id`): so an agent that is a function of the history says it
anew under the same id. Until it has heard the history to its present end, nothing is sent, for what it says first may come
later in there. Then what is in the history was said, and what its memory knows to be refused was said in vain; what is left
goes out, in order. If the runtime has that, too, because it came there on its way, it knows the id and lets it take effect once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import inf
from typing import Any, Final, cast

from macp.v1.envelope_pb2 import Ack
from reactivex import Observable, Subject, abc
from reactivex.disposable import CompositeDisposable, Disposable, SerialDisposable
from reactivex.internal import noop

from macp_rx.errors import MacpAckError, MacpOverflowError, MacpSessionError
from macp_rx.memory import Memory, Recollection, digest
from macp_rx.protocol.messages import Accepted, Message
from macp_rx.streams.session import SessionStream
from macp_rx.streams.status import Connection, Status
from macp_rx.streams.stream import Demand, Stream, raise_later, tell_raised

__all__ = ["TakingPart", "message_id", "said_by"]

HELD: Final = 256
"""How much an agent may say to the history that has not been found there yet; as much may wait to be sent."""

GRACE: Final = 5.0
"""Seconds behind the history until an agent should have said all again that is in there."""

ID_LENGTH: Final = 32
"""In this form are the ids of what agents say; what is said by hand has UUIDs with hyphens."""


def message_id(session_id: str, agent: str, message: Message[Any], times: int) -> str:
    """The id of what an agent says: the same for the same agent in every process, and nobody else's.

    Args:
        session_id: where.
        agent: who.
        message: what.
        times: how often it has said just that there, this time included.
    """
    said = digest(session_id.encode(), agent.encode(), message.message_type.encode(), message.payload_bytes)
    return digest(said, b"%d" % times).hex()[:ID_LENGTH]


def said_by(agent: Callable[[Observable[Accepted]], object], events: Observable[Accepted]) -> Observable[Message[Any]]:
    """What an agent says about these events.

    Raises:
        MacpSessionError: it is no agent: not a function, or one that returns no Observable.
    """
    if not callable(agent):
        raise MacpSessionError(f"an agent is a function from events to messages, not {agent!r}")
    messages = agent(events)
    if not isinstance(messages, Observable):
        raise MacpSessionError(f"an agent returns an Observable of Messages, not {type(messages).__name__}")
    return cast("Observable[Message[Any]]", messages)


class TakingPart:
    """One agent in one session, once.

    Args:
        agent: a function from what was accepted to what to say.
        events: what it hears.
        session_id: where.
        name: who it is; blank for who has no name, and then it is another agent each time.
        send: sends a message under an id.
        report: hears of refusals, and of what the history has that the agent did not say again.
        memory: what it remembers beyond the history.
        on_end: called when the session has ended, and all that was said before was answered.

    Raises:
        MacpSessionError: it is no agent.
    """

    def __init__(
        self,
        agent: Callable[[Observable[Accepted]], object],
        events: SessionStream,
        *,
        session_id: str,
        name: str,
        send: Callable[[Message[Any], str], Stream[Ack]],
        report: Callable[[Exception], None],
        memory: Memory | None = None,
        on_end: Callable[[], None] = noop,
    ) -> None:
        self._events = events
        self._session_id = session_id
        self._name = name
        # who has no name here may be anybody: the same ids as another's would make a duplicate of what it says
        self._speaker = name or events.clock.new_id()
        self._send = send
        self._report = report
        self._on_end = on_end
        if memory is not None and not name:
            raise MacpSessionError(
                "a memory must know whose it is, and this credential names nobody: AuthConfig.for_bearer(token, sender_hint=…)"
            )
        self._recollection = Recollection(memory, session_id, name, events.clock) if memory is not None else None
        self._times: Counter[bytes] = Counter()
        self._in_history: set[str] = set()
        self._not_said: dict[str, Accepted] = {}
        self._held: dict[str, Message[Any]] = {}
        self._caught_up = self._finished = self._joined = self._ended = self._resolved = False
        self._waiting: set[_Waiting] = set()
        self._steps: deque[tuple[float, Callable[[], None]]] = deque()
        self._listening: dict[abc.ObserverBase[Accepted], None] = {}
        self._out: Subject[tuple[str, Message[Any]]] = Subject()
        self._demand = Demand(events.clock)
        heard = events.derived(Observable(self._listen), can_wait=True)
        heard.listener = name
        if self._recollection is not None:
            heard.clock = self._recollection.clock
        self._messages = said_by(agent, heard)

    def subscribe(self, observer: abc.ObserverBase[Ack], scheduler: abc.SchedulerBase) -> abc.DisposableBase:
        """Begins, once: the observer hears the Acks, and the end."""
        from macp_rx.operators.send_to import send_to

        self._observer = observer
        outer = scheduler if isinstance(scheduler, Demand) else None
        if outer is not None:  # who waits hears of the client's end, and what waits is seen
            self._demand = Demand(self._events.clock, outer.lose, *outer.buffers)
        self._remembering = _Waiting(self._demand, self._waiting)
        self._checking = SerialDisposable()
        running = CompositeDisposable(Disposable(self._listening.clear), Disposable(self._steps.clear), self._checking)
        if self._recollection is not None:
            self._recollection.broken = observer.on_error
        if outer is not None:
            running.add(self._waits_with(outer))
        sending = self._out.pipe(send_to(self._say))
        running.add(sending.subscribe(observer.on_next, observer.on_error, self._answered, scheduler=scheduler))
        clock = scheduler if self._recollection is None else self._recollection.clock
        with self._doing(""):
            running.add(self._messages.subscribe(self._said, observer.on_error, self._finish, scheduler=clock))
        self._joined = True
        running.add(self._events.status.subscribe(self._happened))
        running.add(
            self._events.subscribe(self._hear, self._lost, lambda: self._next(inf, self._end), scheduler=self._demand)
        )
        return running

    # What it hears. All that the agent subscribes to when it begins hears each envelope before any of it hears the next.

    def _listen(
        self, observer: abc.ObserverBase[Accepted], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        if self._joined:

            def hear(accepted: Accepted) -> None:
                with self._doing(str(accepted.sequence)):
                    observer.on_next(accepted)

            return self._events.subscribe(hear, observer.on_error, observer.on_completed, scheduler=scheduler)
        self._listening[observer] = None
        leaving = Disposable(lambda: self._listening.pop(observer, None))
        return CompositeDisposable(leaving, self._waits_with(scheduler)) if isinstance(scheduler, Demand) else leaving

    def _waits_with(self, consumer: Demand) -> abc.DisposableBase:
        source = _Waiting(self._demand, self._waiting)

        def leave() -> None:
            consumer.remove(source)
            source.resume()

        consumer.add(source)
        return Disposable(leave)

    def _hear(self, accepted: Accepted) -> None:
        self._next(accepted.sequence, partial(self._deliver, accepted))

    def _next(self, sequence: float, step: Callable[[], None]) -> None:
        """Takes a step behind those before, and behind what the agent remembers to have come before it."""
        if self._recollection is None or (self._caught_up and not self._steps):
            step()
            return
        self._steps.append((sequence, step))
        if len(self._steps) == 1:
            self._step()

    def _step(self) -> None:
        assert self._recollection is not None
        while self._steps:
            sequence, step = self._steps[0]
            if not self._recollection.has_heard(sequence, self._go_on):
                self._remembering.pause()
                return
            step()
            if self._steps:  # and nobody has left
                self._steps.popleft()
        self._remembering.resume()

    def _go_on(self) -> None:
        try:
            self._step()
        except Exception as error:  # the agent's own, as where the source delivers
            tell_raised(self._events.clock, self._observer, error)

    def _deliver(self, accepted: Accepted) -> None:
        if accepted.sender == self._name:
            self._heard_of_itself(accepted)
        self._resolved = self._resolved or accepted.message_type == "Commitment"
        if self._recollection is None:
            self._pass_on(accepted)
        else:
            with self._recollection.hearing(accepted.sequence):
                self._pass_on(accepted)

    def _pass_on(self, accepted: Accepted) -> None:
        for observer in tuple(self._listening):
            observer.on_next(accepted)

    def _heard_of_itself(self, accepted: Accepted) -> None:
        message_id = accepted.message_id
        self._in_history.add(message_id)
        said = self._held.pop(message_id, None) is not None
        if not (said or self._caught_up or self._recollection is None) and len(message_id) == ID_LENGTH:
            self._not_said[message_id] = accepted

    def _lost(self, error: Exception) -> None:
        for observer in tuple(self._listening):
            observer.on_error(error)
        self._observer.on_error(error)

    def _end(self) -> None:
        """The session has ended: an agent may have reasons to speak of its own, such as a timer, and does not outlive it."""
        if self._caught_up:
            self._check()
        self._held.clear()
        self._ended = True
        self._out.on_completed()

    def _answered(self) -> None:
        if self._ended:
            self._on_end()
        self._observer.on_completed()

    def _happened(self, status: Status) -> None:
        if status.connection is Connection.CAUGHT_UP and not self._caught_up:
            self._next(inf, self._catch_up)

    def _catch_up(self) -> None:
        if self._caught_up or self._resolved:  # what is said to a session that has been resolved is refused
            return
        if self._recollection is not None:
            self._recollection.catch_up()
        self._go_out()

    # What it says.

    def _said(self, message: Message[Any]) -> None:
        message_id = self._id_of(message) if isinstance(message, Message) else ""  # `send` tells what is wrong
        if message_id in self._in_history:
            self._not_said.pop(message_id, None)
        elif self._recollection is not None and message_id in self._recollection.refused:
            pass
        elif self._caught_up:
            self._out.on_next((message_id, message))
        elif len(self._held) < HELD:
            self._held[message_id] = message
        else:
            self._observer.on_error(
                MacpOverflowError(f"{HELD} messages wait until the history was heard; say less, or later")
            )

    def _id_of(self, message: Message[Any]) -> str:
        what = digest(message.message_type.encode(), message.payload_bytes)
        self._times[what] += 1
        return message_id(self._session_id, self._speaker, message, self._times[what])

    def _go_out(self) -> None:
        self._caught_up = True
        if self._not_said:  # calls that are made again take a moment
            self._checking.disposable = self._events.clock.run_later(GRACE, self._check)
        held, self._held = self._held, {}
        for message_id, message in held.items():
            self._out.on_next((message_id, message))
        if self._finished:
            self._out.on_completed()

    def _finish(self) -> None:
        self._finished = True
        if self._caught_up:
            self._out.on_completed()

    def _say(self, said: tuple[str, Message[Any]]) -> Observable[Ack]:
        message_id, message = said
        if self._recollection is not None:
            self._recollection.goes_on()
        acknowledged = self._send(message, message_id)

        def subscribe(
            observer: abc.ObserverBase[Ack], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            def failed(error: Exception) -> None:
                if not isinstance(error, MacpAckError):
                    observer.on_error(error)
                elif self._recollection is None or self._recollection.refuse(message_id):
                    self._tell(error)
                    observer.on_completed()

            return acknowledged.subscribe(observer.on_next, failed, observer.on_completed, scheduler=scheduler)

        return Observable(subscribe)

    def _check(self) -> None:
        """Tells what the history has of this agent that it did not say again: then it is no function of the history."""
        for accepted in self._not_said.values():
            self._tell(
                MacpSessionError(
                    f"the history has a {accepted.message_type} of {self._name}, {accepted.sequence} in "
                    f"{self._session_id}, which the agent did not say again when it heard the history again: it is no "
                    "function of the history, and may say something else in its place"
                )
            )
        self._not_said.clear()

    def _tell(self, error: Exception) -> None:
        try:
            self._report(error)
        except Exception as raised:  # the listener's own
            raise_later(self._events.clock, raised)

    def _doing(self, cause: str) -> AbstractContextManager[None]:
        return nullcontext() if self._recollection is None else self._recollection.doing(cause)


class _Waiting:
    """One of those who can make the source wait: it does as long as one of them does."""

    def __init__(self, source: Demand, waiting: set[_Waiting]) -> None:
        self._source = source
        self._waiting = waiting

    def pause(self) -> None:
        self._waiting.add(self)
        self._source.pause()

    def resume(self) -> None:
        self._waiting.discard(self)
        if not self._waiting:
            self._source.resume()
