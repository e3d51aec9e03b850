"""A thousand session streams on one client: threads and memory. Each contestant in a process of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import grpc.aio
import psutil
from macp.v1 import core_pb2, core_pb2_grpc

from benchmarks import Row
from benchmarks.server import AGENT, running_server, session_with

__all__ = ["rows"]

STREAMS = 1000
SDK_STREAMS = 100  # all its clients of a target share one connection, which 128 streams block for ever


def rows(rounds: int) -> Iterable[Row]:
    """Extra threads while they live and after close, and resident memory for each stream."""
    del rounds  # a count needs no median
    with running_server() as target:
        session_id = session_with(target, 2)
        ours, sdk = (_measured(who, target, session_id) for who in ("ours", "sdk"))
    name = f"macp-sdk-python, {SDK_STREAMS} streams"
    what = f"{STREAMS} session streams on one client"

    def count(key: str, label: str, limit: int) -> Row:
        holds = ours[key] <= limit
        return Row(f"{what}: {label}", f"{ours[key]:.0f}", f"{sdk[key]:.0f}", name, None, f"≤ {limit}", holds)

    yield count("python", "extra Python threads", 3)
    yield count("system", "OS threads beyond those of one idle grpc.aio channel", 3)
    yield count("left", "OS threads left after close", 0)
    kilobytes, sdk_kilobytes = ours["memory"] / STREAMS / 1000, sdk["memory"] / SDK_STREAMS / 1000
    each = kilobytes / sdk_kilobytes
    shown = f"{kilobytes:.0f} kB", f"{sdk_kilobytes:.0f} kB"
    yield Row(f"{what}: resident memory each", *shown, name, each, "≤ 45 kB", kilobytes <= 45)


def _measured(who: str, target: str, session_id: str) -> dict[str, float]:
    printed = subprocess.run(
        [sys.executable, "-m", "benchmarks.many_streams", who, target, session_id],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    return dict(json.loads(printed.stdout.splitlines()[-1]))


def _os_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _ours(target: str, session_id: str) -> dict[str, float]:
    from macp_rx import AuthConfig, MacpClient

    heard = 0
    all_heard = threading.Event()

    def hear(_accepted: object) -> None:
        nonlocal heard
        heard += 1
        if heard == 2 * STREAMS:
            all_heard.set()

    def connect() -> MacpClient:
        return MacpClient(target=target, secure=False, auth=AuthConfig.for_dev_agent(AGENT))

    with connect() as warm:
        list(warm.history(session_id))
    python, system, memory = threading.active_count(), _os_threads(), _resident()
    grpcs_own = asyncio.run(_threads_of_one_channel(target))
    with connect() as client:
        for _ in range(STREAMS):
            client.session_events(session_id).subscribe(hear)
        all_heard.wait()
        live = {
            "python": threading.active_count() - python,
            "system": _os_threads() - system - grpcs_own,
            "memory": _resident() - memory,
        }
    return {**live, "left": _settled(system)}


async def _threads_of_one_channel(target: str) -> int:
    """How many native threads grpc itself brings, whatever the number of streams: seven here."""
    before = _os_threads()
    async with grpc.aio.insecure_channel(target) as channel:
        stub = core_pb2_grpc.MACPRuntimeServiceStub(channel)
        await stub.Initialize(core_pb2.InitializeRequest(supported_protocol_versions=["1.0"]))
        return _os_threads() - before


def _sdk(target: str, session_id: str) -> dict[str, float]:
    import macp_sdk

    def connect() -> macp_sdk.MacpClient:
        return macp_sdk.MacpClient(target=target, allow_insecure=True, auth=macp_sdk.AuthConfig.for_dev_agent(AGENT))

    warm = connect()
    warm.initialize()
    warm.close()
    python, system, memory = threading.active_count(), _os_threads(), _resident()
    grpcs_own = asyncio.run(_threads_of_one_channel(target))
    client = connect()
    streams = [client.open_stream() for _ in range(SDK_STREAMS)]
    for stream in streams:
        stream.send_subscribe(session_id)
    for stream in streams:
        stream.read(timeout=60)
        stream.read(timeout=60)
    live = {
        "python": threading.active_count() - python,
        "system": _os_threads() - system - grpcs_own,
        "memory": _resident() - memory,
    }
    client.close()
    return {**live, "left": _settled(system)}


def _settled(before: int) -> int:
    """OS threads beyond those before, once their number has stopped falling."""
    until = time.monotonic() + 2
    while _os_threads() > before and time.monotonic() < until:
        time.sleep(0.05)
    return max(0, _os_threads() - before)


if __name__ == "__main__":
    print(json.dumps({"ours": _ours, "sdk": _sdk}[sys.argv[1]](*sys.argv[2:])))
