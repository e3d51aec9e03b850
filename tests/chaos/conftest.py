"""What the chaos suite runs on, and what must hold whatever it does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from tests.conftest import RealServer, check_threads, runtime_binary


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """A call of macp_rx that would block an asyncio loop raises instead."""
    with blockbuster_ctx("macp_rx") as blocking:
        for function in blocking.functions.values():
            # grpc.aio's last object to go joins grpc's poller thread, wherever it is collected; that ends at once
            function.can_block_in("threading.py", {"join", "_wait_for_tstate_lock"})
            function.can_block_in("macp_rx/runtime/kernel.py", {"_own_version"})  # reads files, once in a process
        yield


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every thread ends that came with the test."""
    before = set(threading.enumerate())
    yield
    check_threads(before)


class FileServer(RealServer):
    """A real server that keeps its sessions in files.

    Args:
        data: where it keeps them.
        environment: further settings.
    """

    def __init__(self, data: Path, **environment: str) -> None:
        binary = runtime_binary()
        assert binary is not None
        self._data = data
        self._one_restart = threading.Lock()
        super().__init__(binary, **{"MACP_MEMORY_ONLY": "0", "MACP_DATA_DIR": str(data), **environment})

    def restart(self, how: signal.Signals) -> None:
        """Ends the process and starts it again; one restart at a time."""
        with self._one_restart:
            self.stop(how)
            self._mend()
            self.start()

    def _mend(self) -> None:
        """Cuts off a line that was torn when the server was killed.

        The server skips such a line but leaves it there, so that the next message is glued to it: acknowledged, told to
        every reader, and lost at the next start (measured with 0.13.0).
        """
        for log in self._data.glob("sessions/*/log.jsonl"):
            whole, _, torn = log.read_bytes().rpartition(b"\n")
            if torn:
                log.write_bytes(whole + b"\n" if whole else b"")


Serve = Callable[..., FileServer]


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory, nothing_is_left: None) -> Iterator[Serve]:
    """Starts real servers that keep their sessions in files, with further settings by environment; ends them."""
    servers: list[FileServer] = []

    def serve(**environment: str) -> FileServer:
        servers.append(FileServer(tmp_path_factory.mktemp("data"), **environment))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()
