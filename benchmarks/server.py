"""The real server, for the time of a benchmark."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from google.protobuf.message import Message
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ProposalPayload
from macp.v1 import core_pb2, core_pb2_grpc
from macp.v1.envelope_pb2 import Envelope

__all__ = ["AGENT", "METADATA", "binary", "running_server", "session_with"]

AGENT = "bench"
METADATA = (("authorization", f"Bearer {AGENT}"),)


def binary() -> str:
    """MACP_RUNTIME_BIN, else macp-runtime on the PATH, else ../shared/bin/macp-runtime beside the checkout."""
    beside = Path(__file__).parents[2] / "shared/bin/macp-runtime"
    found = (
        os.environ.get("MACP_RUNTIME_BIN") or shutil.which("macp-runtime") or (str(beside) if beside.exists() else None)
    )
    if found is None:
        raise SystemExit("benchmarks: no macp-runtime; set MACP_RUNTIME_BIN, or run scripts/install-runtime")
    return found


@contextmanager
def running_server() -> Iterator[str]:
    """A server in memory, with raised rate limits and otherwise default ones; gives its ``host:port``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "MACP_ALLOW_INSECURE": "1",
        "MACP_MEMORY_ONLY": "1",
        "MACP_BIND_ADDR": target,
        "MACP_SESSION_START_LIMIT_PER_MINUTE": "10000000",
        "MACP_MESSAGE_LIMIT_PER_MINUTE": "10000000",
        "RUST_LOG": "error",
    }
    process = subprocess.Popen([binary()], env={**os.environ, **settings}, stderr=subprocess.DEVNULL)
    try:
        with grpc.insecure_channel(target) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        yield target
    finally:
        process.kill()
        process.wait()


def session_with(target: str, envelopes: int) -> str:
    """Starts a session that has accepted that many envelopes, all but two of them evaluations; gives its id."""
    session_id = str(uuid.uuid4())

    def say(stub: core_pb2_grpc.MACPRuntimeServiceStub, message_type: str, payload: Message) -> None:
        envelope = Envelope(
            macp_version="1.0",
            mode="macp.mode.decision.v1",
            message_type=message_type,
            message_id=str(uuid.uuid4()),
            session_id=session_id,
            sender=AGENT,
            payload=payload.SerializeToString(),
        )
        ack = stub.Send(core_pb2.SendRequest(envelope=envelope), metadata=METADATA).ack
        if not ack.ok:
            raise SystemExit(f"benchmarks: {message_type} was refused: {ack.error}")

    start = core_pb2.SessionStartPayload(
        intent="benchmark",
        participants=[AGENT],
        mode_version="1.0.0",
        configuration_version="config.default",
        ttl_ms=86_400_000,
    )
    with grpc.insecure_channel(target) as channel:
        stub = core_pb2_grpc.MACPRuntimeServiceStub(channel)
        say(stub, "SessionStart", start)
        if envelopes > 1:
            say(stub, "Proposal", ProposalPayload(proposal_id="p1", option="one"))
        for index in range(envelopes - 2):
            evaluation = EvaluationPayload(
                proposal_id="p1", recommendation="APPROVE", confidence=0.5, reason=f"reason number {index}"
            )
            say(stub, "Evaluation", evaluation)
    return session_id
