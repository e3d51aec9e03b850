"""A consumer that is slow for a while: bounded memory, and every envelope exactly once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from macp_rx import DecisionSession, MacpTransportError
from macp_rx.protocol.modes import decision
from macp_rx.streams.status import Connection, Status
from tests.chaos.slow_reader import READERS
from tests.chaos.talker import ENVELOPES, running_talker
from tests.conftest import RealServer, dial

AGENTS = 10
ROOT = Path(__file__).parents[2]


def test_memory_stays_bounded_and_every_envelope_comes_once() -> None:
    """60,000 envelopes of 1 KiB, one taken in 100 ms and then as fast as they come; with large and with small windows."""
    with running_talker() as target:
        readers = {
            who: subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.slow_reader", who, target],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for who in READERS
        }
        heard = {who: json.loads(reader.communicate(timeout=60)[0]) for who, reader in readers.items()}
    for who, most in (("ours", 20), ("small-windows", 5)):
        assert heard[who]["right"] == ENVELOPES
        assert heard[who]["megabytes"] < most


@pytest.mark.server
def test_a_reader_that_lags_behind_a_real_server_gets_the_rest(real_server: RealServer) -> None:
    """The server gives up on a reader that is 256 envelopes behind (`protocol.md` 6.5)."""
    # small windows, or 1,500 envelopes of this size are on their way before the server notices
    small = [("grpc.http2.bdp_probe", 0)]
    with dial(real_server.target) as speaker, dial(real_server.target, options=small) as reader:
        session = DecisionSession(speaker)
        session.start(intent="lag", participants=["chair", *map(str, range(AGENTS))], ttl_ms=60_000)
        session.propose("p1", "one")
        statuses: list[Status] = []
        events = reader.session_events(session.session_id)
        events.status.subscribe(statuses.append)
        unread = iter(events)
        first = next(unread)
        asyncio.run(everybody_talks(session))
        session.commit(action="lag.survived", authority_scope="test", reason="all is said")
        assert [first, *unread] == list(reader.history(session.session_id))
        lagged = [status.error for status in statuses if status.connection is Connection.LOST]
        assert lagged
        assert all(isinstance(error, MacpTransportError) and error.code == "STREAM_LAGGED" for error in lagged)


async def everybody_talks(session: DecisionSession) -> None:
    message = decision.evaluate("p1", "APPROVE", confidence=0.5, reason="x" * 8192)

    async def talk(session: DecisionSession) -> None:
        for _ in range(600 // AGENTS):
            await session.rx.send(message)

    await asyncio.gather(*(talk(session.acting_as(str(number))) for number in range(AGENTS)))
