"""The I/O thread's own loop."""

from __future__ import annotations

import threading

import pytest

from macp_rx import MacpClient, Runtime
from tests.conftest import dial


@pytest.mark.parametrize("callbacks", [1, 50])
def test_io_goes_on_while_callbacks_never_end(callbacks: int) -> None:
    with Runtime() as runtime, runtime.serve() as server, dial(server.target) as client:
        over = threading.Event()
        turns = turning(client, callbacks, over)
        for _ in range(20):
            assert client.list_modes().modes
        over.set()
        assert turns[0] > 20, "the callbacks did not run"


def turning(client: MacpClient, callbacks: int, over: threading.Event) -> list[int]:
    """Callbacks that ask for their next turn in each turn of the loop, so that it never waits for I/O."""
    turns = [0]

    def turn() -> None:
        turns[0] += 1
        if not over.is_set():
            client.clock.loop.call_soon(turn)

    for _ in range(callbacks):
        client.clock.run_soon(turn)
    return turns
