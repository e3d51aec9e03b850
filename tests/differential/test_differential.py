"""The embedded runtime against the real server: the same bytes to both, and the same answers from both."""

from __future__ import annotations

import asyncio

import pytest

from macp_rx import Runtime
from tests.conftest import RealServer, runtime_binary
from tests.differential.generator import generate
from tests.differential.runner import compare


@pytest.mark.server
def test_both_runtimes_answer_the_same(seeds: list[str]) -> None:
    binary = runtime_binary()
    assert binary is not None
    server = RealServer(binary)
    try:
        with Runtime() as runtime, runtime.serve() as served:
            report = asyncio.run(compare(server.target, served.target, map(generate, seeds)))
    finally:
        server.close()
    print(report)
    assert not report.divergences, report.fail_text()
