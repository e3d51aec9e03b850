"""A unary call is a stream of one item, which comes in time or not at all."""

from __future__ import annotations

import pytest

from macp_rx import MacpTimeoutError
from macp_rx.clock import VirtualClock
from macp_rx.testing import Marbles
from tests.streams.wire import Fault, Wire


@pytest.mark.parametrize(
    ("default", "timeout", "limit"), [(30.0, None, 30.0), (3.0, None, 3.0), (3.0, 5.0, 5.0), (None, 2.0, 2.0)]
)
def test_it_fails_when_its_time_is_over(
    wire: Wire, virtual_time: VirtualClock, default: float | None, timeout: float | None, limit: float
) -> None:
    """Its own timeout, else the client's; the client's is 30 s unless said otherwise."""
    client = wire.client() if default == 30 else wire.client(default_timeout=default)
    wire.next("ListModes", Fault(hangs=True))
    began = virtual_time.seconds
    with pytest.raises(MacpTimeoutError):
        client.list_modes(timeout=timeout)
    assert virtual_time.seconds - began == pytest.approx(limit)


def test_without_a_timeout_it_waits(wire: Wire, marbles: Marbles) -> None:
    client = wire.client(default_timeout=None)
    wire.next("ListModes", Fault(hangs=True))
    marbles.expect(client.rx.list_modes(), "^ 23h !").to_be("-")
