"""Sends: in the order of each caller, tried again under the same message id, never told twice."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Final

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Ack
from reactivex.internal import noop

from macp_rx.clock import Clock
from macp_rx.errors import MacpAckError, MacpClosedError, MacpOverflowError, MacpTimeoutError
from macp_rx.streams.retry import Backoff, RetryPolicy, is_transient
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import Receiver, Transport
from macp_rx.transport.methods import SEND
from macp_rx.transport.telemetry import OFF, CallTelemetry, ConnectionTelemetry

__all__ = ["SEND_RETRY", "Outbox"]

_log = logging.getLogger("macp_rx.streams")


SEND_RETRY: Final = RetryPolicy(first=0.05, cap=1.0, give_up_after=30.0)

WAITING: Final = 256
"""How many messages of one caller may wait for the ones before."""

RATE_WAIT: Final = 2.0
"""Seconds to wait at least where a rate limit was hit: its window slides over a minute, and asking at once only counts anew."""


class Outbox:
    """Sends the messages of one connection.

    Messages of one sender to one session go out one after the other, each when the one before was answered: over HTTP/2
    two calls may overtake each other. Different sessions and senders do not wait for each other.

    Args:
        transport: what carries them.
        retry: how to try again; None does not.
        telemetry: what they are reported to.
    """

    def __init__(self, transport: Transport, retry: RetryPolicy | None, telemetry: ConnectionTelemetry = OFF) -> None:
        self._transport = transport
        self._retry = retry
        self._telemetry = telemetry
        self._lines: dict[tuple[AuthConfig | None, str], deque[_Send]] = {}

    def send(
        self, request: core_pb2.SendRequest, receiver: Receiver[Ack], *, auth: AuthConfig | None, timeout: float | None
    ) -> Callable[[], None]:
        """Sends a message when it is its turn.

        Args:
            request: the message. It keeps its id in every try, so it takes effect once.
            receiver: hears the Ack, or why there is none.
            auth: who sends.
            timeout: seconds from now until it fails, tries and waiting included; None as the retry policy says.

        Returns:
            What cancels it. A message that was on its way may have been accepted all the same.
        """
        telemetry = self._telemetry.send(request.envelope)
        send = _Send(self._transport, request, receiver, auth, timeout, self._retry, telemetry)
        session_id = request.envelope.session_id
        if not session_id:
            send.start()
            return send.cancel
        key = auth, session_id
        line = self._lines.setdefault(key, deque())
        if len(line) > WAITING:
            send.fail(MacpOverflowError(f"{WAITING} messages to {session_id} wait to be sent; await their Acks"))
            return noop
        line.append(send)

        def done() -> None:
            was_first = line[0] is send
            line.remove(send)
            if not line:
                del self._lines[key]
            elif was_first:
                line[0].start()

        send.done = done
        if line[0] is send:
            send.start()
        else:
            send.wait()
        return send.cancel


class _Send:
    """One message, and its tries."""

    __slots__ = (
        "_auth",
        "_backoff",
        "_cancel",
        "_context",
        "_deadline",
        "_over",
        "_receiver",
        "_request",
        "_retry",
        "_telemetry",
        "_transport",
        "done",
    )

    def __init__(
        self,
        transport: Transport,
        request: core_pb2.SendRequest,
        receiver: Receiver[Ack],
        auth: AuthConfig | None,
        timeout: float | None,
        retry: RetryPolicy | None,
        telemetry: CallTelemetry,
    ) -> None:
        self._transport = transport
        self._request = request
        self._receiver = receiver
        self._auth = auth
        self._deadline = None if timeout is None else transport.clock.seconds + timeout
        self._retry = retry
        self._telemetry = telemetry
        self._backoff: Backoff | None = None
        self._cancel: Callable[[], None] = noop
        self._over = False
        self._context: Context | None = None
        self.done: Callable[[], None] = noop

    def wait(self) -> None:
        """Waits for those before; its deadline may pass meanwhile."""
        self._context = copy_context()  # it is another's answer that will start it
        if self._deadline is not None:
            clock = self._transport.clock
            self._cancel = clock.run_later(self._deadline - clock.seconds, self._overdue).dispose

    def start(self) -> None:
        self._cancel()
        if self._context is None:
            self._try()
        else:
            self._context.run(self._try)

    def cancel(self) -> None:
        if not self._over:
            self._over = True
            self._telemetry.cancelled()
            self._cancel()
            self.done()

    def _try(self) -> None:
        left = None if self._deadline is None else max(0.001, self._deadline - self._transport.clock.seconds)
        telemetry = self._telemetry
        telemetry.happened("try")
        try:
            self._cancel = self._transport.unary(
                SEND, self._request, self, auth=self._auth, timeout=left, trace=telemetry.trace()
            )
        except MacpClosedError as error:
            # not from here: all who wait behind it would hear it one inside the other, deeper than Python's stack
            self._cancel = self._transport.clock.run_later(0, partial(self.fail, error)).dispose

    def _overdue(self) -> None:
        self.fail(MacpTimeoutError("the messages before it were not answered in time", method=SEND.path))

    def on_next(self, value: core_pb2.SendResponse, /) -> None:
        ack = value.ack
        if ack.ok:
            self._finish(ack)
            return
        error = MacpAckError(ack, self._request.envelope.message_type)
        if not self._try_again(error):
            self.fail(error)

    def on_error(self, error: Exception, /) -> None:
        if self._over:  # raised by the subscriber when it heard the Ack: its own error
            self._receiver.on_error(error)
        elif not self._try_again(error):
            self.fail(error)

    def on_completed(self) -> None:
        pass  # behind the answer

    def _try_again(self, error: Exception) -> bool:
        if self._over or self._retry is None or not is_transient(error):
            return False
        clock: Clock = self._transport.clock
        if self._backoff is None:
            self._backoff = Backoff(self._retry, clock, self._transport)
        delay = self._backoff.next()
        if delay is None:
            return False
        if isinstance(error, MacpAckError) and error.code == "RATE_LIMITED":
            delay += RATE_WAIT
        if self._deadline is not None and clock.seconds + delay >= self._deadline:
            return False
        self._telemetry.happened("retry", error, delay=delay)
        # where nobody has ever answered the address may be wrong, and its user should not have to wait to see that
        doubtful = not self._transport.reached and self._backoff.attempts == 1
        _log.log(
            logging.WARNING if doubtful else logging.INFO, "%s, and is sent again in %.2f s: %s", self, delay, error
        )
        self._cancel = clock.run_later(delay, self._try).dispose
        return True

    def _finish(self, ack: Ack) -> None:
        if not self._over:
            self._over = True
            self._telemetry.ended()
            self.done()
            self._receiver.on_next(ack)
            self._receiver.on_completed()

    def fail(self, error: Exception) -> None:
        if not self._over:
            self._over = True
            self._telemetry.ended(error)
            if self._backoff is not None and self._backoff.attempts:
                _log.warning("%s, and is given up: %s", self, error)
            self.done()
            self._receiver.on_error(error)

    def __str__(self) -> str:
        envelope = self._request.envelope
        where = f" in session {envelope.session_id}" if envelope.session_id else ""
        return f"{envelope.message_type} {envelope.message_id} was not accepted{where}"
