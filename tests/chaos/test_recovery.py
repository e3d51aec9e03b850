"""How soon a stream delivers again once the server can be reached again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from macp_rx import AuthConfig, DecisionSession, MacpClient
from tests.chaos.proxy import Proxy
from tests.conftest import RealServer, Recorder

WITHIN = 1.5


class Arrivals(Recorder):
    """A recorder that knows when each item came."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    def on_next(self, value: object) -> None:
        self.at.append(time.monotonic())
        super().on_next(value)


def refused(proxy: Proxy, seconds: float) -> None:
    proxy.refuse_for(seconds)
    proxy.cut()


@pytest.mark.server
@pytest.mark.parametrize("unreachable", [refused])
def test_a_stream_delivers_within_a_moment_of_the_servers_return(
    real_server: RealServer, unreachable: Callable[[Proxy, float], None], pytestconfig: pytest.Config
) -> None:
    """All outages at once, each behind a proxy of its own."""
    outages = pytestconfig.getoption("--outage") or [1, 10]
    with ExitStack() as stack:
        speaker = stack.enter_context(connect(real_server.target))
        session = DecisionSession(speaker)
        session.start(intent="outage", participants=["chair"], ttl_ms=600_000)
        back: list[tuple[float, Arrivals]] = []
        for seconds in outages:
            proxy = stack.enter_context(Proxy(real_server.target))
            heard = Arrivals()
            stack.enter_context(connect(proxy.target)).session_events(session.session_id).subscribe(heard)
            heard.wait_for(1)
            unreachable(proxy, seconds)
            back.append((time.monotonic() + seconds, heard))
        session.propose("p1", "one")  # while nobody can hear it
        for at, heard in back:
            heard.wait(lambda heard: len(heard.items) == 2, at - time.monotonic() + WITHIN)
            assert heard.at[1] - at >= 0


def connect(target: str) -> MacpClient:
    return MacpClient(target=target, secure=False, auth=AuthConfig.for_dev_agent("chair"))
