"""What reliability costs and gives: reading with reconnect and ends, recovery after outages, memory of slow consumers."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.talker import SESSION, message_id
from macp_rx import AuthConfig, MacpClient

__all__ = ["rows"]

PACE, SLOW_FOR = 0.1, 3.0
"""Seconds per envelope of a slow consumer, and how long it is slow."""


def _client(target: str, options: Sequence[tuple[str, int]] = ()) -> MacpClient:
    return MacpClient(target=target, secure=False, auth=AuthConfig.for_dev_agent("bench"), options=options)


# Slow consumers, each in a process of its own.


def _ours(target: str) -> Iterator[str]:
    with _client(target) as client:
        for accepted in client.session_events(SESSION):
            yield accepted.message_id


def _ours_small_windows(target: str) -> Iterator[str]:
    with _client(target, [("grpc.http2.bdp_probe", 0)]) as client:
        for accepted in client.session_events(SESSION):
            yield accepted.message_id


def _sdk(target: str) -> Iterator[str]:
    import macp_sdk

    logging.getLogger("macp_sdk").setLevel(logging.ERROR)  # it warns of every plaintext client
    client = macp_sdk.MacpClient(target=target, allow_insecure=True, auth=macp_sdk.AuthConfig.for_dev_agent("bench"))
    stream = client.open_stream()
    stream.send_subscribe(SESSION)
    for envelope in stream.responses():
        yield envelope.message_id
        if envelope.message_type == "Commitment":
            break
    stream.cancel()
    client.close()


READERS: Mapping[str, Callable[[str], Iterator[str]]] = {
    "ours": _ours,
    "ours-small-windows": _ours_small_windows,
    "sdk": _sdk,
}


def _consume(reader: Callable[[str], Iterator[str]], target: str) -> dict[str, float]:
    """Reads slowly for a while, then as fast as it can; how much memory that took, and how many envelopes came rightly."""
    messages = reader(target)
    next(messages)
    resident = _resident()
    most, right = resident, 1
    slow_until = time.monotonic() + SLOW_FOR
    for message in messages:
        if message != message_id(right + 1):
            break
        right += 1
        if time.monotonic() < slow_until:
            time.sleep(PACE)
            most = max(most, _resident())
        elif right % 1000 == 0:
            most = max(most, _resident())
    return {"megabytes": (most - resident) / 1e6, "right": right}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(_consume(READERS[sys.argv[1]], sys.argv[2])))
