"""A real kernel, spoken to as a front end does."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

__all__ = ["Kernel", "Shown", "Told", "running_kernel"]

PATIENCE: Final = 30.0
"""Seconds that a cell may take on a slow machine."""


@dataclass(frozen=True)
class Shown:
    """Something that the kernel has published.

    Attributes:
        kind: the message's type, such as ``update_display_data``.
        cell: the execution that it belongs to, as the kernel says.
        text: what it is without pictures; of an error its name and text.
        picture: whether there is one.
        display: which output it is, or takes the place of.
        traceback: of an error.
    """

    kind: str
    cell: str
    text: str
    picture: bool
    display: str
    traceback: str


@dataclass(frozen=True)
class Told:
    """What happened while a cell was executed.

    Attributes:
        execution: which execution it was.
        shown: all that was published, also by other cells.
        seconds: how long it took.
    """

    execution: str
    shown: tuple[Shown, ...]
    seconds: float

    @property
    def text(self) -> str:
        """What the cell itself has printed, or is worth."""
        return "".join(one.text for one in self.of("stream", "execute_result", "error"))

    def of(self, *kinds: str) -> list[Shown]:
        """What was published of these kinds."""
        return [one for one in self.shown if one.kind in kinds]


class Kernel:
    """A kernel, and the client that speaks to it."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager = manager
        self._client = client

    def run(self, code: str, *, cell: str = "", interrupt_at: str = "") -> Told:
        """Executes a cell, and waits until the kernel is idle again.

        Args:
            code: the cell's text.
            cell: its id, which front ends tell, and nbclient does not.
            interrupt_at: interrupt the kernel when something of this kind was published.
        """
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        message = self._client.session.msg(
            "execute_request", content | {"user_expressions": {}}, metadata={"cellId": cell} if cell else {}
        )
        self._client.shell_channel.send(message)
        execution = str(message["header"]["msg_id"])
        begun = time.monotonic()
        shown: list[Shown] = []
        for published in self._published(begun + PATIENCE):
            kind, about = published["msg_type"], published["parent_header"].get("msg_id", "")
            if kind == "status" and about == execution and published["content"]["execution_state"] == "idle":
                return Told(execution, tuple(shown), time.monotonic() - begun)
            if kind not in ("status", "execute_input"):
                shown.append(_shown(kind, about, published["content"]))
            if kind == interrupt_at:
                interrupt_at = ""
                self._manager.interrupt_kernel()
        raise TimeoutError(f"{code!r} does not end; it has shown {shown}")

    def _published(self, until: float) -> Iterator[Mapping[str, Any]]:
        while (left := until - time.monotonic()) > 0:
            try:
                yield self._client.get_iopub_msg(timeout=left)
            except queue.Empty:
                return


def _shown(kind: str, about: str, content: Mapping[str, Any]) -> Shown:
    data = content.get("data", {})
    error = f"{content['ename']}: {content['evalue']}" if kind == "error" else ""
    return Shown(
        kind,
        about,
        data.get("text/plain") or content.get("text") or error,
        "image/svg+xml" in data,
        content.get("transient", {}).get("display_id", ""),
        "\n".join(content.get("traceback", [])),
    )


@contextmanager
def running_kernel() -> Iterator[Kernel]:
    """A fresh kernel, which is ended afterwards."""
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
