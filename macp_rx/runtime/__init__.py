"""The embedded runtime: a pure kernel, a thin shell on a clock, and two carriers, memory and gRPC."""

from typing import TYPE_CHECKING

from macp_rx.runtime.identity import Identity as Identity
from macp_rx.runtime.identity import dev_identity as dev_identity
from macp_rx.runtime.identity import static_tokens as static_tokens
from macp_rx.runtime.runtime import Runtime as Runtime
from macp_rx.runtime.state import Settings as Settings
from macp_rx.runtime.store import SqliteStore as SqliteStore
from macp_rx.runtime.store import Store as Store

if TYPE_CHECKING:
    from macp_rx.runtime.service import Server as Server
    from macp_rx.runtime.service import Tls as Tls


def __getattr__(name: str) -> object:
    """The gRPC port, imported on first use: who has a runtime in memory alone, as simulations have, needs no gRPC."""
    if name not in ("Server", "Tls"):
        raise AttributeError(f"module 'macp_rx.runtime' has no attribute {name!r}")
    from macp_rx.runtime import service

    return getattr(service, name)
