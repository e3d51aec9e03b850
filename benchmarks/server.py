"""The real server, for the time of a benchmark, sessions on it, and clients of it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ProposalPayload
from macp.v1 import core_pb2, core_pb2_grpc
from macp.v1.envelope_pb2 import Envelope

from macp_rx import AuthConfig, MacpClient

if TYPE_CHECKING:
    import macp_sdk

__all__ = [
    "AGENT",
    "CONFIGURATION",
    "METADATA",
    "VERSION",
    "apart",
    "binary",
    "connect",
    "connect_sdk",
    "open_sessions",
    "running_server",
    "sdk_stream",
    "session_with",
]

AGENT = "bench"
METADATA = (("authorization", f"Bearer {AGENT}"),)
VERSION = "1.0.0"
CONFIGURATION = "config.default"
POLICY = "policy.default"


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
def apart() -> Iterator[str]:
    """A running server with one processor of its own, and the caller on another, where the system lets them choose.

    Left to the system both wander, and a plain grpc.aio loop takes 19 us a message, or 40, in the same minute.
    """
    if not hasattr(os, "sched_setaffinity") or len(processors := sorted(os.sched_getaffinity(0))) < 2:
        with running_server() as target:
            yield target
        return
    os.sched_setaffinity(0, processors[-1:])  # a process inherits it, and all threads it starts
    try:
        with running_server() as target:
            os.sched_setaffinity(0, processors[:1])
            yield target
    finally:
        os.sched_setaffinity(0, processors)


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
    # nothing of the caller's own settings: "default limits" must mean the server's
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MACP_")}
    process = subprocess.Popen([binary()], env={**inherited, **settings}, stderr=subprocess.DEVNULL)
    try:
        with _stub(target) as stub:
            hello = core_pb2.InitializeRequest(supported_protocol_versions=["1.0"])
            stub.Initialize(hello, wait_for_ready=True, timeout=20)
        yield target
    finally:
        process.kill()
        process.wait()


def connect(target: str, **options: Any) -> MacpClient:
    """A client of ours."""
    return MacpClient(target=target, secure=False, auth=AuthConfig.for_dev_agent(AGENT), **options)


def connect_sdk(target: str) -> macp_sdk.MacpClient:
    """A client of the peer's."""
    import macp_sdk

    logging.getLogger("macp_sdk").setLevel(logging.ERROR)  # it warns of every plaintext client
    return macp_sdk.MacpClient(target=target, allow_insecure=True, auth=macp_sdk.AuthConfig.for_dev_agent(AGENT))


@contextmanager
def sdk_stream(target: str, session_id: str) -> Iterator[macp_sdk.MacpStream]:
    """The peer's stream of a session, from its start."""
    client = connect_sdk(target)
    stream = client.open_stream()
    stream.send_subscribe(session_id)
    try:
        yield stream
    finally:
        stream.cancel()
        client.close()


def session_with(target: str, envelopes: int) -> str:
    """A session of that many envelopes, from its SessionStart to the Commitment that resolves it; gives its id."""
    proposal = ProposalPayload(proposal_id="p1", option="one")
    commitment = core_pb2.CommitmentPayload(
        commitment_id=str(uuid.uuid4()),
        action="benchmark.read",
        authority_scope="benchmark",
        reason="all is said",
        outcome_positive=True,
        mode_version=VERSION,
        configuration_version=CONFIGURATION,
        policy_version=POLICY,
    )
    with _stub(target) as stub:
        session_id = _started(stub)
        _say(stub, session_id, "Proposal", proposal)
        for number in range(envelopes - 3):
            evaluation = EvaluationPayload(
                proposal_id="p1", recommendation="APPROVE", confidence=0.5, reason=f"reason number {number}"
            )
            _say(stub, session_id, "Evaluation", evaluation)
        _say(stub, session_id, "Commitment", commitment)
    return session_id


def open_sessions(target: str, count: int) -> list[str]:
    """That many sessions which have only started; gives their ids."""
    with _stub(target) as stub:
        return [_started(stub) for _ in range(count)]


@contextmanager
def _stub(target: str) -> Iterator[core_pb2_grpc.MACPRuntimeServiceStub]:
    with grpc.insecure_channel(target) as channel:
        yield core_pb2_grpc.MACPRuntimeServiceStub(channel)


def _started(stub: core_pb2_grpc.MACPRuntimeServiceStub) -> str:
    session_id = str(uuid.uuid4())
    start = core_pb2.SessionStartPayload(
        intent="benchmark",
        participants=[AGENT],
        ttl_ms=86_400_000,
        mode_version=VERSION,
        configuration_version=CONFIGURATION,
        policy_version=POLICY,
    )
    _say(stub, session_id, "SessionStart", start)
    return session_id


def _say(stub: core_pb2_grpc.MACPRuntimeServiceStub, session_id: str, message_type: str, payload: Message) -> None:
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
