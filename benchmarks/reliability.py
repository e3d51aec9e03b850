"""What a stream survives: outages, a session's end, a slow consumer. What reading costs with all that: `benchmarks.reading`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks import Row, wait_for
from benchmarks.server import connect, open_sessions, running_server, sdk_stream
from macp_rx import Accepted, DecisionSession
from tests.chaos.proxy import Proxy
from tests.chaos.slow_reader import consume
from tests.chaos.talker import ENVELOPES, SESSION, running_talker

__all__ = ["rows"]

PEER = "macp-sdk-python"
RUNS = 3
AFTER = (0.0, 0.2, 0.4, 0.6, 0.8)
"""Seconds: a client asks every 0.75 s whether a session has ended, and may have asked just before."""
MANY_ROUNDS = 100
"""From so many rounds on, the outage of a minute is measured too."""


def rows(rounds: int) -> Iterable[Row]:
    """Recovery after outages, how soon an end is known, and the memory of slow consumers."""
    with running_server() as target:
        for outage in (1, 10, 60) if rounds >= MANY_ROUNDS else (1, 10):
            yield _recovery(target, outage)
        yield _end(target)
    yield from _slow_consumers()


def _recovery(target: str, outage: float) -> Row:
    runs = [_recovered(target, outage) for _ in range(RUNS if outage < 10 else 1)]
    seconds = statistics.median(runs)
    what = f"server unreachable for {outage:g} s: delivers again after its return"
    return Row(what, f"{seconds:.2f} s", _sdk_in_an_outage(target), PEER, None, "≤ 1.5 s", seconds <= 1.5)


def _recovered(target: str, outage: float) -> float:
    """Seconds from the server's return to the first envelope, which was accepted in between."""
    (session_id,) = open_sessions(target, 1)
    with Proxy(target) as proxy, connect(proxy.target) as reader, connect(target) as speaker:
        heard: list[float] = []
        first, second = threading.Event(), threading.Event()

        def hear(_accepted: Accepted) -> None:
            heard.append(time.monotonic())
            (second if first.is_set() else first).set()

        reader.session_events(session_id).subscribe(hear)
        wait_for(first)
        proxy.refuse_for(outage)
        proxy.cut()
        back = time.monotonic() + outage
        DecisionSession(speaker, session_id).propose("p1", "one")
        wait_for(second)
        return heard[1] - back


def _sdk_in_an_outage(target: str) -> str:
    import macp_sdk

    (session_id,) = open_sessions(target, 1)
    with Proxy(target) as proxy, sdk_stream(proxy.target, session_id) as stream:
        stream.read(timeout=10)
        proxy.cut()
        try:
            stream.read(timeout=10)
        except macp_sdk.MacpTransportError as error:
            return f"never (its stream ends with {error.code})"
    return "never (its stream ends)"


def _end(target: str) -> Row:
    seconds = max(_cancel_known(target, after) for after in AFTER)
    what = "session cancelled by another client: the stream ends, worst of five moments"
    return Row(what, f"after {seconds:.2f} s", _sdk_after_a_cancel(target), PEER, None, "≤ 1 s", seconds <= 1)


def _cancel_known(target: str, after: float) -> float:
    """Seconds from a cancel to the end of a stream that has been read for so long."""
    (session_id,) = open_sessions(target, 1)
    with connect(target) as reader, connect(target) as speaker:
        started, ended = threading.Event(), threading.Event()
        reader.session_events(session_id).subscribe(lambda _accepted: started.set(), on_completed=ended.set)
        wait_for(started)
        time.sleep(after)
        speaker.cancel_session(session_id, reason="benchmark")
        began = time.monotonic()
        wait_for(ended)
        return time.monotonic() - began


def _sdk_after_a_cancel(target: str) -> str:
    import macp_sdk

    (session_id,) = open_sessions(target, 1)
    with sdk_stream(target, session_id) as stream, connect(target) as speaker:
        stream.read(timeout=10)
        speaker.cancel_session(session_id, reason="benchmark")
        try:
            return f"{stream.read(timeout=10)}"
        except macp_sdk.MacpTimeoutError:
            return "not within 10 s"


def _slow_consumers() -> Iterable[Row]:
    with running_talker() as target:
        sdk = _consumed("benchmarks.reliability", "sdk", target)
        for who, label, most in (("ours", "", 20), ("small-windows", ", grpc.http2.bdp_probe=0", 20)):
            ours = _consumed("tests.chaos.slow_reader", who, target)
            what = f"{ENVELOPES:,} envelopes of 1 KiB, at first one in 100 ms{label}: memory grows by"
            grown, whole = ours["megabytes"], ours["right"] == ENVELOPES
            figures = f"{grown:.1f} MB", f"{sdk['megabytes']:.1f} MB"
            yield Row(what, *figures, PEER, grown / sdk["megabytes"], f"< {most} MB, all once", grown < most and whole)


def _consumed(module: str, who: str, target: str) -> dict[str, float]:
    command = [sys.executable, "-m", module, who, target]
    root = Path(__file__).parents[1]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout
    return dict(json.loads(printed.splitlines()[-1]))


def _sdk(target: str) -> Iterator[str]:
    with sdk_stream(target, SESSION) as stream:
        for envelope in stream.responses():
            yield envelope.message_id
            if envelope.message_type == "Commitment":
                break


if __name__ == "__main__":
    print(json.dumps(consume(_sdk(sys.argv[2]))))
