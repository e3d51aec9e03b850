"""Every test that talks to a runtime runs on three: in memory, over a port of ours, and on the real server."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, settings

from macp_rx import AuthConfig, DecisionSession, MacpClient, Runtime
from macp_rx.clock import Clock

# the first example of a run pays for tables of the interpreter; these machines are noisy, so no example has a deadline
settings.register_profile("macp_rx", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("macp_rx")

Connect = Callable[[str], MacpClient]
"""Makes a client that speaks as an agent; the fixture closes it."""

SERVER = pytest.param("server", marks=pytest.mark.server)
RUNTIMES = ["memory", "port", SERVER]

on_the_real_server = pytest.mark.parametrize("connect", [SERVER], indirect=True)
"""For a test about what the real server does."""


def runtime_binary() -> str | None:
    """The real server: MACP_RUNTIME_BIN, else macp-runtime on the PATH."""
    return os.environ.get("MACP_RUNTIME_BIN") or shutil.which("macp-runtime")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--conformance", action="append", type=Path, default=[], metavar="DIR", help="another folder of MACP fixtures"
    )
    parser.addoption("--chaos-seed", action="append", type=int, metavar="N", help="where the chaos strikes (default 1)")
    parser.addoption("--chaos-points", type=int, default=200, metavar="N", help="how often the chaos strikes")
    parser.addoption(
        "--outage", action="append", type=float, metavar="SECONDS", help="how long the server is away (1, 10)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if runtime_binary():
        return
    needing = [item for item in items if item.get_closest_marker("server")]
    if needing and os.environ.get("CI"):
        raise pytest.UsageError("no macp-runtime: set MACP_RUNTIME_BIN, or run scripts/install-runtime")
    items[:] = [item for item in items if item not in needing]
    config.hook.pytest_deselected(items=needing)


def pytest_report_header() -> str:
    binary = runtime_binary()
    return (
        f"macp-runtime: {binary}"
        if binary
        else "macp-runtime: none, so its tests are deselected (README, MACP_RUNTIME_BIN)"
    )


class RealServer:
    """A macp-runtime process on a free port of loopback, which can be restarted there."""

    def __init__(self, binary: str, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.target = f"127.0.0.1:{probe.getsockname()[1]}"
        settings = {
            "MACP_ALLOW_INSECURE": "1",
            "MACP_MEMORY_ONLY": "1",
            "MACP_BIND_ADDR": self.target,
            "MACP_SESSION_START_LIMIT_PER_MINUTE": "1000000",
            "MACP_MESSAGE_LIMIT_PER_MINUTE": "1000000",
            "RUST_LOG": "error",
        }
        self._command = [binary]
        self._environment = {**os.environ, **settings, **environment}
        self.start()
        with grpc.insecure_channel(self.target) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)

    def start(self) -> None:
        """Starts the process; it listens within some 10 ms."""
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends the process, and waits for its end."""
        self._process.send_signal(how)
        self._process.wait()

    def close(self) -> None:
        self.stop()


@contextmanager
def running_server(**environment: str) -> Iterator[RealServer]:
    """A real server with further settings by environment, as long as the block runs."""
    binary = runtime_binary()
    assert binary is not None
    server = RealServer(binary, **environment)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with running_server(MACP_DATA_DIR=str(tmp_path_factory.mktemp("data"))) as server:
        yield server


def dial(target: str, agent: str = "chair", **options: Any) -> MacpClient:
    """A client, for whoever closes it, of a server that takes an agent at its word and wants no TLS."""
    return MacpClient(target=target, secure=False, auth=AuthConfig.for_dev_agent(agent), **options)


@pytest.fixture(params=RUNTIMES)
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Clients of one runtime, which is each kind in turn. After the test they are closed, and nothing is left."""
    with connecting(request.param, Runtime, lambda: request.getfixturevalue("real_server")) as connect:
        yield connect


@pytest.fixture
def client(connect: Connect) -> MacpClient:
    """The chair's."""
    return connect("chair")


@pytest.fixture
def session(client: MacpClient) -> DecisionSession:
    """A decision of the chair and alice, which has only started."""
    session = DecisionSession(client)
    session.start(intent="test", participants=["chair", "alice"], ttl_ms=60_000)
    return session


@contextmanager
def connecting(kind: str, runtime: Callable[[], Runtime], real_server: Callable[[], RealServer]) -> Iterator[Connect]:
    """Makes clients of a runtime of one kind; closes them, and the runtime if it is ours.

    Args:
        kind: ``memory``, ``port`` or ``server``.
        runtime: makes the embedded runtime.
        real_server: the real server, which is somebody else's to close.
    """
    clients: list[MacpClient] = []
    before = set(threading.enumerate())
    embedded = None if kind == "server" else runtime()
    server = embedded.serve() if embedded and kind == "port" else None
    target = real_server().target if kind == "server" else server.target if server else None

    def connect(agent: str) -> MacpClient:
        client = dial(target, agent) if target else MacpClient.embedded(agent=agent, runtime=embedded)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()
    if embedded:
        embedded.close()
    check_threads(before)


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """The test ends with the threads that it began with, without help from the garbage collector."""
    before = set(threading.enumerate())
    gc.disable()
    try:
        yield
        check_threads(before)
    finally:
        gc.enable()


def check_threads(before: set[threading.Thread]) -> None:
    """Fails if a thread has come that does not end; one that is just ending is waited for."""
    came = set(threading.enumerate()) - before
    for thread in came:
        thread.join(2)
    left = [thread.name for thread in came if thread.is_alive()]
    assert not left, f"threads were left behind: {left}"


def wait_until(clock: Clock, holds: Callable[[], bool], seconds: float = 5) -> None:
    """Waits until something holds, which is looked at on a clock's own thread, every 10 ms."""
    held = threading.Event()

    def look() -> None:
        if holds():
            held.set()
        else:
            clock.run_later(0.01, look)

    clock.run_soon(look)
    assert held.wait(seconds), f"it does not hold after {seconds} s"


def os_threads() -> int:
    """Threads of this process as the kernel counts them, Python's and others'."""
    return len(list(Path("/proc/self/task").iterdir()))


class Recorder:
    """An observer that keeps what it hears, and waits for it without sleeping."""

    def __init__(self) -> None:
        self.items: list[object] = []
        self.error: Exception | None = None
        self.completed = False
        self._changed = threading.Condition()

    def on_next(self, value: object) -> None:
        with self._changed:
            self.items.append(value)
            self._changed.notify_all()

    def on_error(self, error: Exception) -> None:
        with self._changed:
            self.error = error
            self._changed.notify_all()

    def on_completed(self) -> None:
        with self._changed:
            self.completed = True
            self._changed.notify_all()

    def wait(self, until: Callable[[Recorder], bool], seconds: float = 10) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: until(self), seconds), (
                f"waited {seconds} s; heard {self.items}, {self.error!r}"
            )

    def wait_for(self, count: int) -> None:
        self.wait(lambda heard: len(heard.items) >= count)

    def wait_for_end(self) -> None:
        self.wait(lambda heard: heard.completed or heard.error is not None)
