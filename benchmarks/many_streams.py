"""A thousand session streams, and one of two thousand sessions: threads and memory. Each contestant in a process of its own.

Every stream reads a session of its own, and counts as live once it has received that session's SessionStart.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import grpc.aio
from macp.v1 import core_pb2, core_pb2_grpc

from benchmarks import Row, wait_for
from benchmarks.server import METADATA, connect, connect_sdk, open_sessions, running_server
from macp_rx import Accepted, MacpClient, Stream

__all__ = ["rows"]

STREAMS = 1000
ALL = 2000
SDK_CLIENTS = 10  # its clients of one server share a connection, which hangs at 128 streams: so a server for each
BARE_STREAMS = 100  # on one channel
RUNS = 3
LINGER = 2.0
"""Seconds that threads may take to end after close: grpc's own end a little later than the call returns."""

Sessions = Mapping[str, list[str]]
Figures = dict[str, float]


def rows(rounds: int) -> Iterable[Row]:
    """Extra threads while all streams live and after close, and resident memory for each stream."""
    del rounds  # a count needs few
    with ExitStack() as stack:
        targets = [stack.enter_context(running_server()) for _ in range(SDK_CLIENTS)]
        one = {targets[0]: open_sessions(targets[0], STREAMS)}
        spread = {target: open_sessions(target, STREAMS // SDK_CLIENTS) for target in targets}
        crowded = stack.enter_context(running_server())
        everything = _median("all", {crowded: open_sessions(crowded, ALL)})
        ours, sdk, bare = (_median(who, on) for who, on in (("ours", one), ("sdk", spread), ("bare", one)))
    what = f"{STREAMS} session streams"
    name = f"macp-sdk-python, {SDK_CLIENTS} clients of {SDK_CLIENTS} servers"

    alone = f"bare grpc.aio, {STREAMS // BARE_STREAMS} channels"

    def count(label: str, key: str, peer: Figures, peer_name: str, most: int | None) -> Row:
        bar, holds = ("", None) if most is None else (f"≤ {most}", ours[key] <= most)
        return Row(f"{what}: {label}", f"{ours[key]:.0f}", f"{peer[key]:.0f}", peer_name, None, bar, holds)

    yield count("extra Python threads", "python", sdk, name, 3)
    yield count("extra OS threads", "system", sdk, name, 3)
    yield count("extra OS threads", "system", bare, alone, None)
    yield count("OS threads left after close", "left", sdk, name, 0)
    threads = everything["python"]
    shown = f"{threads:.0f}", f"{bare['python']:.0f}"
    yield Row(f"all_events of {ALL} sessions: extra Python threads", *shown, alone, None, "≤ 4", threads <= 4)
    shown = f"{everything['system']:.0f}", f"{bare['system']:.0f}"
    yield Row(f"all_events of {ALL} sessions: extra OS threads", *shown, alone, None, "≤ 4", everything["system"] <= 4)
    each, sdk_each, bare_each = (figures["memory"] / STREAMS / 1000 for figures in (ours, sdk, bare))
    shown = f"{each:.0f} kB", f"{sdk_each:.0f} kB"
    yield Row(f"{what}: resident memory each", *shown, name, each / sdk_each, "≤ 45 kB", each <= 45)
    shown = f"{each:.0f} kB", f"{bare_each:.0f} kB"
    yield Row(f"{what}: resident memory each", *shown, alone, each / bare_each, "", None)


def _median(who: str, sessions: Sessions) -> Figures:
    runs = [_measured(who, sessions) for _ in range(RUNS)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _measured(who: str, sessions: Sessions) -> Figures:
    printed = subprocess.run(
        [sys.executable, "-m", "benchmarks.many_streams", who],
        input=json.dumps(sessions),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    return dict(json.loads(printed.stdout.splitlines()[-1]))


def _usage() -> Figures:
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "python": threading.active_count(),
        "system": len(list(Path("/proc/self/task").iterdir())),
        "memory": resident_pages * os.sysconf("SC_PAGE_SIZE"),
    }


def _extra(before: Figures) -> Figures:
    return {key: value - before[key] for key, value in _usage().items()}


def _ours(sessions: Sessions) -> Figures:
    return _reading(sessions, lambda client, ids: map(client.session_events, ids))


def _all(sessions: Sessions) -> Figures:
    return _reading(sessions, lambda client, ids: [client.all_events()])


def _reading(sessions: Sessions, streams: Callable[[MacpClient, list[str]], Iterable[Stream[Accepted]]]) -> Figures:
    ((target, session_ids),) = sessions.items()
    unheard = set(session_ids)
    all_heard = threading.Event()

    def hear(accepted: Accepted) -> None:
        unheard.discard(accepted.session_id)
        if not unheard:
            all_heard.set()

    start = _usage()
    with connect(target) as warm:
        list(warm.history(session_ids[0]))
    before = {**_usage(), "system": start["system"]}
    with connect(target) as client:
        for stream in streams(client, session_ids):
            stream.subscribe(hear)
        wait_for(all_heard)
        live = _extra(before)
    return {**live, "left": _left(start)}


def _sdk(sessions: Sessions) -> Figures:
    start = _usage()
    warm = connect_sdk(next(iter(sessions)))
    warm.initialize()
    warm.close()
    before = {**_usage(), "system": start["system"]}
    clients = {target: connect_sdk(target) for target in sessions}
    streams = []
    for target, session_ids in sessions.items():
        for session_id in session_ids:
            stream = clients[target].open_stream()
            stream.send_subscribe(session_id)
            streams.append(stream)
    for stream in streams:
        stream.read(timeout=60)
    live = _extra(before)
    for client in clients.values():
        client.close()
    return {**live, "left": _left(start)}


def _bare(sessions: Sessions) -> Figures:
    ((target, session_ids),) = sessions.items()
    start = _usage()
    asyncio.run(_read_bare(target, session_ids[:1], start))
    live = asyncio.run(_read_bare(target, session_ids, {**_usage(), "system": start["system"]}))
    return {**live, "left": _left(start)}


async def _read_bare(target: str, session_ids: list[str], before: Figures) -> Figures:
    heard = asyncio.Semaphore(0)

    async def hear(channel: grpc.aio.Channel, session_id: str) -> None:
        call = core_pb2_grpc.MACPRuntimeServiceStub(channel).StreamSession(metadata=METADATA)
        await call.write(core_pb2.StreamSessionRequest(subscribe_session_id=session_id))
        async for _ in call:
            heard.release()

    # without the option equal channels share a connection
    channels = [
        grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(0, len(session_ids), BARE_STREAMS)
    ]
    calls = [
        asyncio.create_task(hear(channels[number // BARE_STREAMS], session_id))
        for number, session_id in enumerate(session_ids)
    ]
    for _ in calls:
        await heard.acquire()
    live = _extra(before)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return live


def _left(start: Figures) -> float:
    """OS threads beyond those of the start, once their number has stopped falling."""
    until = time.monotonic() + LINGER
    while _extra(start)["system"] > 0 and time.monotonic() < until:
        time.sleep(0.05)  # grpc says nothing when a thread of its own has ended
    return max(0.0, _extra(start)["system"])


CONTESTANTS: Mapping[str, Callable[[Sessions], Figures]] = {"ours": _ours, "all": _all, "sdk": _sdk, "bare": _bare}

if __name__ == "__main__":
    print(json.dumps(CONTESTANTS[sys.argv[1]](json.load(sys.stdin))))
