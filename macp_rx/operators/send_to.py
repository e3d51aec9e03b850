"""send_to: messages out, in order, one at a time; their acks in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable

from macp_rx.errors import MacpOverflowError
from macp_rx.operators.lift import lift

__all__ = ["send_to"]

M = TypeVar("M")
R = TypeVar("R")


def send_to(send: Callable[[M], Observable[R]], *, buffer: int = 256) -> Callable[[Observable[M]], Observable[R]]:
    """Sends each message when the one before was answered, and emits the answers.

    Args:
        send: sends one message, such as ``session.rx.send``; its Observable emits the answer and completes.
        buffer: how many messages may wait; one more ends the stream with MacpOverflowError.

    Errors:
        What a send failed with or raised, such as MacpAckError; what waits behind it is not sent.

    Marble:
        messages  -(a b)----c-|
        > mo.send_to(lambda message: cold("--(ack |)"))
        acks      ---ack-ack--(ack |)
    """

    def operator(source: Observable[M]) -> Observable[R]:
        def subscribe(observer: abc.ObserverBase[R], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
            waiting: deque[M] = deque()
            sending = SerialDisposable()
            busy = ended = False

            def on_next(message: M) -> None:
                if len(waiting) == buffer:
                    observer.on_error(MacpOverflowError(f"{buffer} messages wait to be sent; say less, or later"))
                    return
                waiting.append(message)
                if not busy:
                    advance()

            def advance() -> None:
                nonlocal busy
                if waiting:
                    busy = True
                    try:
                        answers = send(waiting.popleft())
                    except Exception as error:  # behind the answer before it, where nobody would hear it
                        observer.on_error(error)
                        return
                    sending.disposable = answers.subscribe(
                        observer.on_next, observer.on_error, advance, scheduler=scheduler
                    )
                else:
                    busy = False
                    if ended:
                        observer.on_completed()

            def on_completed() -> None:
                nonlocal ended
                ended = True
                if not busy:
                    observer.on_completed()

            return CompositeDisposable(
                source.subscribe(on_next, observer.on_error, on_completed, scheduler=scheduler), sending
            )

        return lift(source, subscribe)

    return operator
