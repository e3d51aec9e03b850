"""A consumer that is slow for a while, in a process of its own, so that its memory is its own: prints what became of it.

Run as ``python -m tests.chaos.slow_reader ours TARGET`` beside a `tests.chaos.talker`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from macp_rx import AuthConfig, MacpClient
from tests.chaos.talker import SESSION, message_id

__all__ = ["READERS", "consume"]

PACE, SLOW_FOR = 0.1, 2.0
"""Seconds per envelope of a slow consumer, and how long it is slow."""


def _ours(target: str, *options: tuple[str, int]) -> Iterator[str]:
    auth = AuthConfig.for_dev_agent("reader")
    with MacpClient(target=target, secure=False, auth=auth, options=options) as client:
        for accepted in client.session_events(SESSION):
            yield accepted.message_id


def _small_windows(target: str) -> Iterator[str]:
    return _ours(target, ("grpc.http2.bdp_probe", 0))


READERS: Mapping[str, Callable[[str], Iterator[str]]] = {"ours": _ours, "small-windows": _small_windows}


def consume(messages: Iterator[str]) -> dict[str, float]:
    """Reads slowly, then as fast as it can. Returns by how many MB memory grew, and how many envelopes came as they should."""
    next(messages)
    before = most = _resident()
    right = 1
    slow_until = time.monotonic() + SLOW_FOR
    for message in messages:
        if message != message_id(right + 1):
            break
        right += 1
        if time.monotonic() < slow_until:
            time.sleep(PACE)  # what it does with an envelope takes so long
            most = max(most, _resident())
        elif right % 1000 == 0:
            most = max(most, _resident())
    return {"megabytes": (most - before) / 1e6, "right": right}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(consume(READERS[sys.argv[1]](sys.argv[2]))))
