"""Fixtures for what a runtime does: which kind it is, and runtimes that know tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from macp_rx import MacpClient, Runtime
from macp_rx.protocol.messages import DECISION
from macp_rx.runtime.identity import static_tokens
from tests.conftest import RUNTIMES, Connect, RealServer, connecting, runtime_binary

TOKENS = json.dumps(
    [
        {"token": "chair", "sender": "chair", "can_manage_mode_registry": True},
        {"token": "alice", "sender": "alice"},
        {"token": "everything", "sender": "everything", "allowed_modes": []},
        {"token": "decider", "sender": "decider", "allowed_modes": [DECISION]},
        {"token": "observer", "sender": "observer", "is_observer": True},
        {"token": "v1.dotted", "sender": "v1.dotted"},
    ]
)
"""Whom the runtimes of `knowing_tokens` know. A token is its sender's own name, as in development mode."""


@pytest.fixture
def is_reference(request: pytest.FixtureRequest) -> bool:
    """Whether the test runs on the real server, and not on ours."""
    params = request.node.callspec.params
    return "server" in (params.get("connect"), params.get("knowing_tokens"))


@pytest.fixture(scope="module")
def server_with_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A real server that knows `TOKENS`."""
    binary = runtime_binary()
    assert binary is not None
    server = RealServer(binary, MACP_DATA_DIR=str(tmp_path_factory.mktemp("data")), MACP_AUTH_TOKENS_JSON=TOKENS)
    yield server
    server.close()


@pytest.fixture(params=RUNTIMES)
def knowing_tokens(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Clients of a runtime that knows `TOKENS`, and nobody else."""
    with connecting(
        request.param,
        lambda: Runtime(identify=static_tokens(TOKENS)),
        lambda: request.getfixturevalue("server_with_tokens"),
    ) as connect:
        yield connect


@pytest.fixture
def virtual(macp_runtime: Runtime) -> MacpClient:
    """A client of an embedded runtime under the test's virtual time."""
    return MacpClient.embedded(agent="chair", runtime=macp_runtime)
