"""A session that says many large envelopes as fast as they are taken, which no real server does: for slow consumers.

It speaks just enough of the protocol: StreamSession replays, answers what it does not understand inline, and ends when the
client half-closes (`protocol.md` 6). Run as a process: prints its ``host:port`` and runs until its input ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Envelope, MACPError, SessionState

__all__ = ["ENVELOPES", "SESSION", "message_id", "running_talker"]

SESSION = "00000000-0000-4000-8000-000000000000"
ENVELOPES = 60_000
SIZE = 1024
PAYLOAD = bytes(SIZE)


def message_id(sequence: int) -> str:
    """The id of the envelope at a sequence: with it a reader checks that nothing is missing or twice, and keeps nothing."""
    return f"message-{sequence}"


@contextmanager
def running_talker() -> Iterator[str]:
    """The talker in a process of its own; gives its ``host:port``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.talker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def _talk(requests: Iterator[core_pb2.StreamSessionRequest], _context: grpc.ServicerContext) -> Iterator[bytes]:
    for sequence in range(next(requests).after_sequence + 1, ENVELOPES + 1):
        envelope = Envelope(
            macp_version="1.0",
            mode="macp.mode.decision.v1",
            message_type="Evaluation" if sequence < ENVELOPES else "Commitment",
            message_id=message_id(sequence),
            session_id=SESSION,
            sender="talker",
            payload=PAYLOAD,
        )
        yield core_pb2.StreamSessionResponse(envelope=envelope).SerializeToString()
    for request in requests:
        error = MACPError(code="INVALID_ENVELOPE", message_id=request.envelope.message_id)
        yield core_pb2.StreamSessionResponse(error=error).SerializeToString()


def _session(_request: bytes, _context: grpc.ServicerContext) -> bytes:
    open_session = core_pb2.SessionMetadata(session_id=SESSION, state=SessionState.SESSION_STATE_OPEN)
    return core_pb2.GetSessionResponse(metadata=open_session).SerializeToString()


def _serve() -> None:
    handlers = {
        "StreamSession": grpc.stream_stream_rpc_method_handler(
            _talk, request_deserializer=core_pb2.StreamSessionRequest.FromString
        ),
        "GetSession": grpc.unary_unary_rpc_method_handler(_session),
    }
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("macp.v1.MACPRuntimeService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(0)


if __name__ == "__main__":
    _serve()
