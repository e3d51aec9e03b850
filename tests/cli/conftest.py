"""Every command runs on a port of ours, and on the real server."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from macp_rx import MacpClient, Runtime
from tests.cli.commands import started
from tests.conftest import SERVER, RealServer, dial


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A command says how loud the log is, and in this process others come after it."""
    loggers = [logging.getLogger(name) for name in ("macp_rx", "macp_rx.streams")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(params=["port", SERVER])
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a runtime listens."""
    if request.param == "server":
        server: RealServer = request.getfixturevalue("real_server")
        yield server.target
    else:
        with Runtime() as runtime, runtime.serve() as port:
            yield port.target


@pytest.fixture
def port() -> Iterator[str]:
    """Where one of ours listens."""
    with Runtime() as runtime, runtime.serve() as port:
        yield port.target


@pytest.fixture
def chair(target: str) -> Iterator[MacpClient]:
    """The chair's client."""
    with dial(target, "chair") as client:
        yield client


@pytest.fixture
def session(target: str) -> str:
    """An open decision of the chair, alice and bob."""
    return started(target)
