"""The gRPC transport: its threads, its connections, its credentials, its errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import psutil
import pytest
from reactivex.scheduler import NewThreadScheduler

from macp_rx import (
    AuthConfig,
    DecisionSession,
    MacpClient,
    MacpClosedError,
    MacpSessionError,
    MacpTimeoutError,
    MacpTransportError,
    rpc_stream,
)
from macp_rx.clock import VirtualClock
from macp_rx.transport.loop import LoopLease
from tests.conftest import RealServer, Recorder, dial, os_threads, wait_until

pytestmark = pytest.mark.server


def test_two_clients_share_one_thread_and_the_last_one_ends_it(real_server: RealServer, no_thread_left: None) -> None:
    first, second = dial(real_server.target), dial(real_server.target)
    first.initialize()
    second.initialize()
    assert [thread.name for thread in threading.enumerate()].count("macp_rx-io") == 1
    first.close()
    second.initialize()
    second.close()


def test_a_thousand_streams_on_one_client_and_unary_calls_beside_them(
    real_server: RealServer, no_thread_left: None
) -> None:
    before = os_threads()
    with dial(real_server.target) as client:
        session = DecisionSession(client)
        session.start(intent="a thousand", participants=["chair"], ttl_ms=60_000)
        heard = [Recorder() for _ in range(1000)]
        for recorder in heard:
            client.session_events(session.session_id).subscribe(recorder)  # a call each; session.events shares one
        for recorder in heard:
            recorder.wait_for(1)
        session.propose("p1", "one")  # the server allows 128 streams on a connection; past that this would hang
        for recorder in heard:
            recorder.wait_for(2)
        assert os_threads() - before <= 3 + _grpc_core_threads()
    # grpc's own event engine keeps a pool of native threads for the process, whatever the number of streams
    assert os_threads() - before <= _grpc_core_threads()


def _grpc_core_threads() -> int:
    """Native threads that one idle grpc.aio channel brings: not per stream, and not ours to end."""
    return 8


def test_a_token_provider_is_asked_per_call(real_server: RealServer) -> None:
    asked = 0

    def token() -> str:
        nonlocal asked
        asked += 1
        return "chair"

    async def async_token() -> str:
        await asyncio.sleep(0)  # the token takes a turn of the loop to come
        return token()

    for provider in (token, async_token):
        asked = 0
        auth = AuthConfig.for_bearer(provider, sender_hint="chair")
        with MacpClient(target=real_server.target, secure=False, auth=auth) as client:
            session = DecisionSession(client)
            session.start(intent="token", participants=["chair"], ttl_ms=60_000)
            list(client.history(session.session_id))
        assert asked == 2


def test_a_provider_that_fails_fails_the_call_with_its_own_error(real_server: RealServer) -> None:
    def broken() -> str:
        raise ConnectionError("the identity provider is down")

    with MacpClient(target=real_server.target, secure=False, auth=AuthConfig.for_bearer(broken)) as client:
        with pytest.raises(MacpTransportError, match="identity provider") as failed:
            client.initialize()
        assert isinstance(failed.value.__cause__, ConnectionError)
        with pytest.raises(MacpTransportError, match="identity provider"):
            list(client.watch_roots())
    with (
        MacpClient(target=real_server.target, secure=False, auth=AuthConfig.for_bearer(lambda: "")) as client,
        pytest.raises(MacpTransportError, match="no token"),
    ):
        client.initialize()


def test_a_provider_that_hangs_is_bounded_by_the_calls_timeout(real_server: RealServer) -> None:
    async def hanging() -> str:
        await asyncio.Event().wait()
        return ""

    with MacpClient(target=real_server.target, secure=False, auth=AuthConfig.for_bearer(hanging)) as client:
        heard = Recorder()
        client.rx.initialize(timeout=0.05).subscribe(heard)
        heard.wait_for_end()
        assert isinstance(heard.error, MacpTimeoutError)
        assert "the token provider gave no token within 0.05 s" in str(heard.error)


@pytest.mark.parametrize("token", ["zoë", "two\nlines"])
@pytest.mark.parametrize("provided", [False, True])
def test_a_token_that_no_header_carries_is_an_error_of_our_tree(
    real_server: RealServer, token: str, provided: bool
) -> None:
    auth = AuthConfig.for_bearer((lambda: token) if provided else token)
    with MacpClient(target=real_server.target, secure=False, auth=auth) as client:
        with pytest.raises(MacpTransportError, match="printable ASCII"):
            client.initialize()
        with pytest.raises(MacpTransportError, match="printable ASCII"):
            list(client.watch_roots())


def test_a_provider_that_returns_bytes_is_told_so(real_server: RealServer) -> None:
    bytes_provider: Any = lambda: b"chair"  # noqa: E731
    auth = AuthConfig.for_bearer(bytes_provider)
    with (
        MacpClient(target=real_server.target, secure=False, auth=auth) as client,
        pytest.raises(MacpTransportError, match="no token but bytes"),
    ):
        client.initialize()


def test_a_token_is_never_shown() -> None:
    auth = AuthConfig.for_bearer("s3cret", sender_hint="chair")
    assert "s3cret" not in repr(auth)


@pytest.mark.parametrize("token", ["", "  ", "s3cret\n", None, b"s3cret"])
def test_what_is_no_token_is_refused_at_once_and_not_shown(token: Any) -> None:
    with pytest.raises(MacpSessionError, match="token") as refused:
        AuthConfig.for_bearer(token)
    assert "s3cret" not in str(refused.value)


def test_no_credential_is_refused_by_the_runtime(real_server: RealServer) -> None:
    with MacpClient(target=real_server.target, secure=False) as client:
        with pytest.raises(MacpTransportError, match="UNAUTHENTICATED"):
            client.get_session("x")
        with pytest.raises(MacpSessionError, match="credential"):
            client.open_stream()


def test_tls_is_the_default_and_plaintext_does_not_answer_it(real_server: RealServer) -> None:
    with MacpClient(target=real_server.target, auth=AuthConfig.for_dev_agent("chair")) as client:
        with pytest.raises(MacpTransportError) as failed:
            client.initialize(timeout=5)
        assert failed.value.status == "UNAVAILABLE"
    with pytest.raises(MacpSessionError, match="secure=False"):
        MacpClient(target=real_server.target, secure=False, root_certificates=b"pem")


def test_an_unreachable_runtime_is_unavailable_with_its_cause() -> None:
    with dial("127.0.0.1:1") as client:
        with pytest.raises(MacpTransportError) as failed:
            client.initialize()
        assert failed.value.status == "UNAVAILABLE"
        assert failed.value.__cause__ is not None


def test_any_stream_of_any_stub_is_an_observable(real_server: RealServer, no_thread_left: None) -> None:
    import grpc.aio
    from macp.v1 import core_pb2, core_pb2_grpc

    lease = LoopLease()
    channels: list[grpc.aio.Channel] = []

    def open_call() -> grpc.aio.UnaryStreamCall[core_pb2.WatchRootsRequest, core_pb2.WatchRootsResponse]:
        channels.append(grpc.aio.insecure_channel(real_server.target))
        stub: core_pb2_grpc.MACPRuntimeServiceAsyncStub = core_pb2_grpc.MACPRuntimeServiceStub(channels[-1])  # type: ignore[assignment]
        return stub.WatchRoots(core_pb2.WatchRootsRequest())

    try:
        roots = rpc_stream(open_call, scheduler=lease.clock)
        assert channels == []  # cold
        assert next(iter(roots)).change.observed_at_unix_ms > 0
        assert next(iter(roots)).change.observed_at_unix_ms > 0
        assert len(channels) == 2
    finally:
        for channel in channels:
            asyncio.run_coroutine_threadsafe(channel.close(), lease.clock.loop).result(5)
        channels.clear()
        lease.release()


class Endless:
    """A call that answers once and never ends."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    async def __aiter__(self) -> AsyncIterator[int]:
        yield 1
        await asyncio.get_running_loop().create_future()

    def cancel(self) -> bool:
        self.cancelled.set()
        return True


def test_a_stream_of_grpc_ends_with_its_loop_and_whoever_waits_is_told(no_thread_left: None) -> None:
    call = Endless()
    with dial("127.0.0.1:1") as client:
        numbers = iter(rpc_stream(lambda: call, scheduler=client.clock))
        assert next(numbers) == 1
    with pytest.raises(MacpClosedError):
        next(numbers)
    assert call.cancelled.is_set()


@pytest.mark.parametrize("made", ["gRPC", "embedded"])
def test_a_stream_of_grpc_may_belong_to_a_client(made: str, no_thread_left: None) -> None:
    """Another client keeps the I/O thread alive meanwhile."""
    call, heard = Endless(), Recorder()
    with dial("127.0.0.1:1"):
        client = dial("127.0.0.1:1") if made == "gRPC" else MacpClient.embedded(agent="chair")
        numbers = client.rpc_stream(lambda: call)
        waiting = iter(numbers)
        assert next(waiting) == 1
        numbers.subscribe(heard)
        heard.wait_for(1)
        assert [running.what for running in client.subscriptions] == ["a gRPC stream"] * 2
        client.close()
        assert call.cancelled.wait(5)
        with pytest.raises(MacpClosedError):
            next(waiting)
        assert (heard.error, heard.completed, client.subscriptions) == (None, False, ())
        numbers.subscribe(heard)
        heard.wait_for_end()
        assert isinstance(heard.error, MacpClosedError)


def test_a_stream_of_grpc_needs_a_loop() -> None:
    unopened: Any = None
    with pytest.raises(MacpSessionError, match=r"needs an asyncio loop, .* not a VirtualClock"):
        rpc_stream(unopened, scheduler=VirtualClock())
    threads: Any = NewThreadScheduler()
    with pytest.raises(MacpSessionError, match="not a NewThreadScheduler"):
        MacpClient(target="127.0.0.1:1", secure=False, scheduler=threads)


def test_a_call_that_the_server_cancels_is_an_error_and_our_own_cancel_is_silence(no_thread_left: None) -> None:
    """grpc.aio raises CancelledError for both; neither runtime cancels a call, so a server of grpc's own does."""

    def cancel(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.CANCELLED, "the server has its reasons")
        return b""

    handlers = {
        "Initialize": grpc.unary_unary_rpc_method_handler(cancel),
        "WatchRoots": grpc.unary_stream_rpc_method_handler(cancel),  # type: ignore[arg-type]
    }
    pool = ThreadPoolExecutor(2)
    server = grpc.server(pool)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("macp.v1.MACPRuntimeService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with dial(f"127.0.0.1:{port}") as client:
            with pytest.raises(MacpTransportError, match="CANCELLED"):
                client.initialize()
            with pytest.raises(MacpTransportError, match="CANCELLED"):
                list(client.watch_roots())
    finally:
        server.stop(0).wait()
        pool.shutdown()


def test_why_the_server_has_ended_a_call_is_told_though_something_was_still_being_written(
    real_server: RealServer,
) -> None:
    """grpc.aio's own write puts INTERNAL in its place: of 200 such calls 92 did not say NOT_FOUND."""
    with dial(real_server.target) as client:
        for _ in range(30):
            with pytest.raises(
                MacpTransportError
            ) as failed:  # a session stream says two things, and the first is refused
                client.session_events(client.clock.new_id()).run()
            assert failed.value.code == "SESSION_NOT_FOUND"


def test_an_idle_streaming_connection_is_closed(real_server: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("macp_rx.transport.grpc.IDLE_SECONDS", 0.05)
    port = int(real_server.target.rpartition(":")[2])

    def connections() -> int:
        return sum(1 for one in psutil.Process().net_connections("tcp") if one.raddr and one.raddr.port == port)

    with dial(real_server.target) as client:
        client.initialize()
        unary_only = connections()
        heard = Recorder()
        watching = client.watch_roots().subscribe(heard)
        heard.wait_for(1)
        assert connections() == unary_only + 1
        watching.dispose()
        wait_until(client.clock, lambda: connections() == unary_only)


def test_pages_of_sessions_are_asked_for_only_as_they_are_read(real_server: RealServer) -> None:
    with dial(real_server.target) as client:
        for _ in range(600):
            DecisionSession(client).start(intent="pages", participants=["chair"], ttl_ms=60_000)
        asked = 0
        transport = client._connection.transport
        unary = transport.unary

        def counting(*arguments: Any, **keywords: Any) -> Any:
            nonlocal asked
            asked += 1
            return unary(*arguments, **keywords)

        transport.unary = counting  # type: ignore[method-assign]
        sessions = iter(client.list_sessions(page_size=50))
        next(sessions)
        for _ in range(20):
            client.list_modes()
        assert asked - 20 <= 8  # 256 unread sessions are enough; the server holds at least 600
        assert sum(1 for _ in sessions) >= 599
