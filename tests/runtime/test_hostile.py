"""Bytes that nobody should send, to every RPC on the port: an answer or a status of the protocol, and the runtime serves on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from macp.v1 import core_pb2

from macp_rx import Runtime
from macp_rx.errors import GRPC_STATUS
from tests.differential.generator import MODES, generate
from tests.differential.hostile import scrambled
from tests.differential.steps import METHODS, Call, Close, Frame, Metadata, Open, Step, request_class, response_class

AGENT: Metadata = (("authorization", "Bearer agent"),)
PATIENCE = 10
"""Seconds for an answer; one that takes longer is none."""

SILENCE = 0.2
"""Seconds after which a watch that says nothing has taken the request."""

NO_REQUEST = [
    b"\xff\xff",
    b"\x0a\x05abc",
    b"\x00\x01",
    b"\x0f",
    b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x13",
]
"""No protobuf message of any kind: a cut varint, a cut string, field 0, wire type 7, a length beyond 64 bits, an open group."""

Failure = grpc.RpcError | None
M = TypeVar("M", bound=Message)


class Port:
    """A client that sends bytes as they are."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)])

    def close(self) -> None:
        self._channel.close()

    def ask(self, method: str, request: bytes, metadata: Metadata = AGENT, *, silence: float = SILENCE) -> Failure:
        """One RPC with one request. Returns how it failed; None if it did not, or if a watch has said nothing for so long."""
        if METHODS[method].client_streaming:
            return self.talk([request], metadata)
        path, decode = f"/macp.v1.MACPRuntimeService/{method}", response_class(method).FromString
        if METHODS[method].server_streaming:
            watch = self._channel.unary_stream(path, response_deserializer=decode)
            call = watch(request, timeout=silence, metadata=metadata)
            failed = _failure(lambda: next(call))
            call.cancel()
            return None if failed and failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED else failed
        unary = self._channel.unary_unary(path, response_deserializer=decode)
        return _failure(lambda: unary(request, timeout=PATIENCE, metadata=metadata))

    def talk(self, frames: list[bytes], metadata: Metadata = AGENT) -> Failure:
        """A StreamSession call: the frames, half-close, then everything that is said."""
        stream = self._channel.stream_stream(
            "/macp.v1.MACPRuntimeService/StreamSession",
            response_deserializer=core_pb2.StreamSessionResponse.FromString,
        )
        return _failure(lambda: list(stream(iter(frames), timeout=PATIENCE, metadata=metadata)))

    def play(self, steps: list[Step]) -> Iterator[Failure]:
        """A scenario's steps; what is said on a stream is sent when it is closed."""
        streams: dict[int, tuple[Metadata, list[bytes]]] = {}
        for step in steps:
            match step:
                case Call(method, metadata, request):
                    yield self.ask(method, request, metadata)
                case Open(stream, metadata):
                    streams[stream] = metadata, []
                case Frame(stream, request):
                    streams[stream][1].append(request)
                case Close(stream):
                    metadata, frames = streams.pop(stream)
                    yield self.talk(frames, metadata)


def _failure(work: Callable[[], object]) -> Failure:
    try:
        work()
    except grpc.RpcError as error:
        return error
    return None


def check(failed: Failure) -> None:
    """A failure is one of the protocol's, and not the runtime's own."""
    if failed is None:
        return
    code = dict(failed.trailing_metadata() or ()).get("macp-error-code")
    assert GRPC_STATUS.get(str(code)) == failed.code().name, f"{failed.code()} with {code}: {failed.details()}"
    assert failed.code() not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL), failed.details()


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    with Runtime() as runtime, runtime.serve() as server:
        port = Port(server.target)
        yield port
        alive = port.ask("GetManifest", b"")
        port.close()
        assert alive is None
        assert not runtime.open_calls


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_request_are_the_clients_fault(port: Port, method: str) -> None:
    for request in NO_REQUEST:
        failed = port.ask(method, request, silence=PATIENCE)
        assert failed is not None, request
        check(failed)
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", METHODS)
def test_any_bytes_are_answered(port: Port, method: str) -> None:
    @settings(max_examples=15)
    @given(st.binary(max_size=200))
    def any_bytes(request: bytes) -> None:
        check(port.ask(method, request))

    any_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_a_request_that_is_nearly_right_is_answered(port: Port, method: str) -> None:
    """Of every RPC, the watches among them: with a value in each of its fields, and then scrambled."""
    right = _filled(request_class(method)()).SerializeToString()

    @settings(max_examples=15)
    @given(st.randoms(use_true_random=False))
    def nearly_right(random: Random) -> None:
        check(port.ask(method, scrambled(random, right)))

    nearly_right()


def _filled(message: M) -> M:
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            value.append("x") if field.message_type is None else _filled(value.add())
        elif field.message_type is not None:
            _filled(value).SetInParent()
        else:
            setattr(message, field.name, b"x" if isinstance(value, bytes) else type(value)("1"))
    return message


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=100), max_size=6))
def test_any_frames_on_a_stream_are_answered(port: Port, frames: list[bytes]) -> None:
    check(port.talk(frames))


@settings(max_examples=60)
@given(st.sampled_from(list(MODES)), st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_a_session_whose_frames_are_nearly_right_is_answered(port: Port, mode: str, seed: int, random: Random) -> None:
    steps = [_nearly(random, step) if random.random() < 0.3 else step for step in generate(f"{mode}:{seed}").steps]
    for failed in port.play(steps):
        check(failed)
    check(port.ask("GetManifest", b""))


def _nearly(random: Random, step: Step) -> Step:
    match step:
        case Call(method, metadata, request):
            return Call(method, metadata, scrambled(random, request))
        case Frame(stream, request):
            return Frame(stream, scrambled(random, request))
    return step
