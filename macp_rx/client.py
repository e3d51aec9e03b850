"""`MacpClient`: one connection to a runtime, and every RPC of MACP once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from google.protobuf.message import Message as Protobuf
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Ack, Envelope
from reactivex import abc
from reactivex.internal import noop

from macp_rx.clock import Clock, LoopClock, loop_clock
from macp_rx.errors import GRPC_STATUS, MacpAckError, MacpRefusedError, MacpSessionError
from macp_rx.protocol.messages import MACP_VERSION, Accepted
from macp_rx.protocol.validation import (
    validate_confidence,
    validate_progress_scope,
    validate_session_id,
    validate_signal_type,
)
from macp_rx.streams import live
from macp_rx.streams.all_sessions import Project, Where, all_events, each_session
from macp_rx.streams.call import Blocking, Reactive, call
from macp_rx.streams.delivery import BUFFER
from macp_rx.streams.duplex import MacpStream
from macp_rx.streams.ends import Ends
from macp_rx.streams.outcome import Outcome, outcome
from macp_rx.streams.pages import all_pages
from macp_rx.streams.reply import DEFAULT_TIMEOUT, Reply, ask
from macp_rx.streams.retry import RECONNECT, RetryPolicy
from macp_rx.streams.sending import SEND_RETRY, Outbox
from macp_rx.streams.session import OnGap, SessionStream, history, session_events
from macp_rx.streams.shared import Shared
from macp_rx.streams.source import rpc_stream_of, watch
from macp_rx.streams.stream import Stream
from macp_rx.transport import methods
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import Method, Receiver, Transport
from macp_rx.transport.loop import LoopLease
from macp_rx.transport.shared import SharedTransport, Subscription
from macp_rx.transport.telemetry import OFF, ConnectionTelemetry, Telemetry

if TYPE_CHECKING:
    from reactivex.scheduler.eventloop import AsyncIOScheduler

    from macp_rx.runtime import Runtime
    from macp_rx.transport.grpc import ChannelOptions, ResponseStream

__all__ = ["MacpClient", "RxClient"]

Req = TypeVar("Req", bound=Protobuf)
Res = TypeVar("Res", bound=Protobuf)
T = TypeVar("T")


class _Connection(SharedTransport):
    """What clients that share a connection share: the transport, the order of sends, and what learns of sessions' ends."""

    def __init__(
        self,
        transport: Transport,
        release: Callable[[], None],
        retry: RetryPolicy | None,
        telemetry: ConnectionTelemetry,
    ) -> None:
        super().__init__(transport, release, telemetry)
        self.outbox: Outbox = Outbox(transport, retry, telemetry)
        self._ends: dict[AuthConfig | None, Ends] = {}

    def ends(self, auth: AuthConfig | None) -> Ends:
        """What learns of the ends of sessions that this caller may read."""
        return self._ends.setdefault(auth, Ends(self.transport, auth))


class _Calls:
    """Every RPC, written once. Blocking on a `MacpClient`, reactive on its ``rx``."""

    def __init__(self, connection: _Connection, auth: AuthConfig | None, default_timeout: float | None) -> None:
        self._connection = connection
        self.auth = auth
        self.default_timeout = default_timeout

    @property
    def clock(self) -> Clock:
        """What everything of this client runs on; hand it to timed operators."""
        return self._connection.clock

    def _ask(self, rpc: Method[Req, Res], request: Req, timeout: float | None, unwrap: Callable[[Res], T]) -> Stream[T]:
        return ask(self._connection, rpc, request, unwrap, auth=self.auth, timeout=self._within(timeout)).of(self)

    def _within(self, timeout: float | None) -> float | None:
        return self.default_timeout if timeout is None else timeout

    def _send(self, envelope: Envelope, timeout: float | None) -> Stream[Ack]:
        request, outbox, auth = core_pb2.SendRequest(envelope=envelope), self._connection.outbox, self.auth
        within = self._within(timeout)

        def start(receiver: Receiver[Ack]) -> Callable[[], None]:
            return outbox.send(request, receiver, auth=auth, timeout=within)

        return Reply(self._connection, start).of(self)

    def _rpc(self, rpc: Method[Req, Res], request: Req, timeout: float | None) -> Stream[Res]:
        return self._ask(rpc, request, timeout, _as_it_is)

    def _watch(self, rpc: Method[Req, Res], request: Req, timeout: float | None) -> Stream[Res]:
        return watch(self._connection, rpc, request, auth=self.auth, timeout=timeout).of(self)

    # Handshake and discovery

    @call
    def initialize(self, *, timeout: float | None = None) -> Stream[core_pb2.InitializeResponse]:
        """Negotiates the protocol version and asks for the runtime's name, version and capabilities.

        Args:
            timeout: seconds; the client's default_timeout if None.

        Errors:
            MacpTransportError with code UNSUPPORTED_PROTOCOL_VERSION if the runtime does not speak 1.0.
        """
        request = core_pb2.InitializeRequest(
            supported_protocol_versions=[MACP_VERSION], client_info=core_pb2.ClientInfo(name="macp-rx")
        )
        return self._rpc(methods.INITIALIZE, request, timeout)

    @call
    def get_manifest(self, agent_id: str = "", *, timeout: float | None = None) -> Stream[core_pb2.GetManifestResponse]:
        """Who an agent is; the runtime itself for an empty id. Errors: AGENT_NOT_FOUND."""
        return self._rpc(methods.GET_MANIFEST, core_pb2.GetManifestRequest(agent_id=agent_id), timeout)

    @call
    def list_modes(self, *, timeout: float | None = None) -> Stream[core_pb2.ListModesResponse]:
        """The standards-track modes."""
        return self._rpc(methods.LIST_MODES, core_pb2.ListModesRequest(), timeout)

    @call
    def list_ext_modes(self, *, timeout: float | None = None) -> Stream[core_pb2.ListExtModesResponse]:
        """The extension modes."""
        return self._rpc(methods.LIST_EXT_MODES, core_pb2.ListExtModesRequest(), timeout)

    @call
    def list_roots(self, *, timeout: float | None = None) -> Stream[core_pb2.ListRootsResponse]:
        """The coordination roots."""
        return self._rpc(methods.LIST_ROOTS, core_pb2.ListRootsRequest(), timeout)

    # Messages

    @call
    def send(self, envelope: Envelope, *, timeout: float | None = None) -> Stream[Ack]:
        """Sends one envelope, and again under the same message id where the connection broke or a rate limit was hit.

        Messages of one caller to one session go out one after the other, in the order in which they were subscribed to.
        Subscribing again sends it again under the same message id, which the runtime answers with ``duplicate``.

        Args:
            envelope: what to send; see ``build_envelope``.
            timeout: seconds, all tries included; the client's default_timeout if None.

        Errors:
            MacpAckError: the runtime refused it; code, reasons and denials say why.
            MacpSessionError: at once, if it is no Envelope.
            MacpIdentityMismatchError: at once, if its sender is not who the credential speaks for.
        """
        if not isinstance(envelope, Envelope):
            raise MacpSessionError(f"send takes an Envelope (see build_envelope), not {type(envelope).__name__}")
        if self.auth is not None:
            self.auth.check_sender(envelope.sender)
        return self._send(envelope, timeout)

    @call
    def send_signal(
        self,
        *,
        signal_type: str,
        data: bytes = b"",
        confidence: float = 0.0,
        correlation_session_id: str = "",
        timeout: float | None = None,
    ) -> Stream[Ack]:
        """Sends an ambient Signal, which every authenticated watcher of signals sees: put no secrets there.

        Args:
            signal_type: what kind of signal; not blank.
            data: anything.
            confidence: in [0, 1].
            correlation_session_id: session it refers to, for people; the runtime checks nothing.
            timeout: seconds.
        """
        validate_signal_type(signal_type, data)
        validate_confidence(confidence)
        payload = core_pb2.SignalPayload(
            signal_type=signal_type, data=data, confidence=confidence, correlation_session_id=correlation_session_id
        )
        return self._ambient("Signal", payload, "", "", timeout)

    @call
    def send_progress(
        self,
        *,
        progress_token: str,
        progress: float,
        total: float,
        message: str = "",
        target_message_id: str = "",
        session_id: str = "",
        mode: str = "",
        timeout: float | None = None,
    ) -> Stream[Ack]:
        """Reports progress, ambient or scoped to a session; watchers of signals see it, session streams do not.

        Args:
            progress_token: which piece of work.
            progress: how much is done, in the unit of ``total``.
            total: how much there is.
            message: for people.
            target_message_id: message that asked for the work.
            session_id: with ``mode``, or neither.
            mode: with ``session_id``, or neither.
            timeout: seconds.
        """
        validate_progress_scope(session_id, mode)
        payload = core_pb2.ProgressPayload(
            progress_token=progress_token,
            progress=progress,
            total=total,
            message=message,
            target_message_id=target_message_id,
        )
        return self._ambient("Progress", payload, session_id, mode, timeout)

    def _ambient(
        self, message_type: str, payload: Protobuf, session_id: str, mode: str, timeout: float | None
    ) -> Stream[Ack]:
        envelope = Envelope(
            macp_version=MACP_VERSION,
            mode=mode,
            message_type=message_type,
            message_id=self.clock.new_id(),
            session_id=session_id,
            sender=self.auth.sender if self.auth else "",
            timestamp_unix_ms=self.clock.now_ms,
            payload=payload.SerializeToString(),
        )
        return self._send(envelope, timeout)

    def open_stream(self, session_id: str = "", after_sequence: int = 0) -> MacpStream:
        """Opens a StreamSession call in both directions.

        Args:
            session_id: subscribe to this session from the start; else the first frame sent binds the stream.
            after_sequence: replay what came after this position.

        Raises:
            MacpSessionError: no credential: the runtime would refuse the stream before its first frame.
        """
        if self.auth is None:
            raise MacpSessionError("a session stream needs a credential: MacpClient(…, auth=AuthConfig.for_…)")
        return MacpStream(self._connection, self.auth, session_id, after_sequence)

    def session_events(
        self,
        session_id: str,
        after_sequence: int = 0,
        *,
        wait: float = 0,
        on_gap: OnGap = "fail",
        retry: RetryPolicy = RECONNECT,
        scheduler: abc.SchedulerBase | None = None,
        buffer: int = BUFFER,
    ) -> SessionStream:
        """Replays what a session accepted, goes on live, and completes when the session ends. Cold: one RPC each.

        Nothing is lost and nothing comes twice, however often the connection breaks: the stream reopens behind its last
        sequence. It completes behind the commitment, or, when the session was cancelled or has expired, once the server has
        said all it holds. Its ``status`` tells of the connection.

            accepted           S-p-v-v-C
            after_sequence=0   S-p-v-v-(C|)
            after_sequence=2   ----v-v-(C|)

        Args:
            session_id: which session.
            after_sequence: start behind this position; 0 starts with the SessionStart.
            wait: seconds to wait for a session that has not been started yet; without, it is an error.
            on_gap: a server that compacts forgets a session's history when the session ends; for a reader that was behind
                this is an error, or with ``"continue"`` a gap that the ``status`` tells of.
            retry: how to reconnect.
            scheduler: deliver there, and not on the I/O thread, where a callback must not block.
            buffer: how many envelopes may wait for a consumer there; while it is full, the call waits.

        Errors:
            MacpTransportError: no connection came about, or came back, in time; NOT_FOUND for an unknown session.
            MacpStreamError: FORBIDDEN, for one who is neither initiator nor participant nor observer.
            MacpGapError: what was not read yet is forgotten; ``session.outcome`` still tells the outcome.
        """
        validate_session_id(session_id)
        events = session_events(
            self._connection,
            session_id,
            after_sequence,
            auth=self.auth,
            ends=self._connection.ends(self.auth),
            wait=wait,
            on_gap=on_gap,
            retry=retry,
        ).of(self)
        return events if scheduler is None else events.delivered_on(scheduler, buffer)

    def shared_events(self, session_id: str, *, wait: float = 0) -> Shared:
        """The same stream for any number of subscribers, who share one call; see `session_events` for the arguments."""
        validate_session_id(session_id)
        connection, auth = (
            self._connection,
            self.auth,
        )  # and not the client: what runs must not keep it from being collected

        def live(after: int) -> SessionStream:
            ends = connection.ends(auth)
            return session_events(connection, session_id, after, auth=auth, ends=ends, wait=wait, listed=False)

        def catch_up(after: int) -> SessionStream:
            return history(connection, session_id, after, auth=auth, listed=False)

        return Shared(connection, live, catch_up, f"events of {session_id}")

    def outcome(self, session_id: str, events: Stream[Accepted] | None = None) -> Stream[Outcome]:
        """How a session ends: one value, when it has ended.

        Args:
            session_id: which session.
            events: its stream, where there is one already.
        """

        def behind(after: int) -> Stream[Accepted]:
            return self.session_events(session_id, after, on_gap="continue")

        events = behind(0) if events is None else events
        within = self.default_timeout
        return outcome(self._connection, session_id, events, auth=self.auth, timeout=within, behind=behind).of(self)

    def history(self, session_id: str, after_sequence: int = 0) -> SessionStream:
        """What a session has accepted by now, and then completion. Arguments and errors as `session_events`."""
        validate_session_id(session_id)
        return history(self._connection, session_id, after_sequence, auth=self.auth).of(self)

    def all_events(
        self, *, mode: str = "", where: Where | None = None, retry: RetryPolicy = RECONNECT
    ) -> Stream[Accepted]:
        """Everything accepted in every open session that the caller may read, from each session's start, as they appear.

            session 1   S-p-v-C
            session 2   ----S-p-v-C
            all         S-p-vSCp-v-C-

        Each session is followed until it ends; then it is dropped. Within a session nothing is lost, repeated or reordered.

        Args:
            mode: only sessions of this mode.
            where: only sessions that it says yes to, by their metadata when they appear.
            retry: how to reconnect.

        Errors:
            MacpTransportError: the watch of sessions failed for good.
        """
        connection = self._connection
        ends = connection.ends(self.auth)
        return all_events(connection, auth=self.auth, ends=ends, mode=mode, where=where, retry=retry).of(self)

    def each_session(
        self,
        project: Project[T],
        *,
        mode: str = "",
        where: Where | None = None,
        retry: RetryPolicy = RECONNECT,
    ) -> Stream[T]:
        """A pipeline for every open session that the caller may read, as they appear, merged: a ``flat_map`` over sessions.

            session 1   S-p-v-C
            session 2   ----S-p-v-C
            outcomes    ------1---2-

        Args:
            project: makes of a session's metadata, as it was when the session appeared, and of its events an Observable, such as
                ``lambda metadata, events: events.pipe(mo.commitment())``. What it fails with ends that session's pipeline
                alone, and is logged.
            mode: only sessions of this mode.
            where: only sessions that it says yes to, by their metadata when they appear.
            retry: how to reconnect.

        Errors:
            MacpTransportError: the watch of sessions failed for good.
        """
        connection = self._connection
        ends = connection.ends(self.auth)
        return each_session(connection, project, auth=self.auth, ends=ends, mode=mode, where=where, retry=retry).of(
            self
        )

    # Live queries: the current set, then each new one

    def live_modes(self) -> Stream[Mapping[str, core_pb2.ModeDescriptor]]:
        """The modes by name, standards-track and extensions: now, and again whenever they change."""
        return live.modes(self._connection, self.auth).of(self)

    def live_roots(self) -> Stream[tuple[core_pb2.Root, ...]]:
        """The coordination roots: now, and again whenever they change."""
        return live.roots(self._connection, self.auth).of(self)

    def live_policies(self, mode: str = "") -> Stream[Mapping[str, policy_pb2.PolicyDescriptor]]:
        """The policies by id, those of a mode or all: now, and again whenever they change."""
        return live.policies(self._connection, self.auth, mode).of(self)

    def live_sessions(self) -> Stream[Mapping[str, core_pb2.SessionMetadata]]:
        """The sessions in the runtime's memory by id, ended ones too: now, and again whenever one begins, changes or ends."""
        return live.sessions(self._connection, self.auth).of(self)

    # Sessions

    @call
    def get_session(self, session_id: str, *, timeout: float | None = None) -> Stream[core_pb2.GetSessionResponse]:
        """A session's metadata. Errors: SESSION_NOT_FOUND, FORBIDDEN."""
        return self._rpc(methods.GET_SESSION, core_pb2.GetSessionRequest(session_id=session_id), timeout)

    @call
    def cancel_session(self, session_id: str, *, reason: str = "", timeout: float | None = None) -> Stream[Ack]:
        """Cancels a session; on one that has ended already it changes nothing and tells that state."""
        request = core_pb2.CancelSessionRequest(session_id=session_id, reason=reason)
        return self._ask(methods.CANCEL_SESSION, request, timeout, _acked("CancelSession"))

    @call
    def suspend_session(self, session_id: str, *, reason: str = "", timeout: float | None = None) -> Stream[Ack]:
        """Suspends an open session: its deadline stands still. Errors: SESSION_NOT_OPEN."""
        request = core_pb2.SuspendSessionRequest(session_id=session_id, reason=reason)
        return self._ask(methods.SUSPEND_SESSION, request, timeout, _acked("SuspendSession"))

    @call
    def resume_session(self, session_id: str, *, reason: str = "", timeout: float | None = None) -> Stream[Ack]:
        """Resumes a suspended session; its deadline moves by the pause. Errors: SESSION_NOT_OPEN."""
        request = core_pb2.ResumeSessionRequest(session_id=session_id, reason=reason)
        return self._ask(methods.RESUME_SESSION, request, timeout, _acked("ResumeSession"))

    @call
    def list_sessions_page(
        self, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> Stream[core_pb2.ListSessionsResponse]:
        """One page of the sessions in the runtime's memory, in byte order of their ids."""
        request = core_pb2.ListSessionsRequest(page_size=page_size, page_token=page_token)
        return self._rpc(methods.LIST_SESSIONS, request, timeout)

    def list_sessions(self, *, page_size: int = 0) -> Stream[core_pb2.SessionMetadata]:
        """Every session in the runtime's memory, page by page: the next page is asked for when this one was taken.

            pages      -(abc)--(de)
            sessions   -(abc)--(de|)

        Args:
            page_size: sessions per page; 0 leaves it to the runtime (100).
        """

        return all_pages(self._connection, self.auth, page_size, self.default_timeout).of(self)

    # Mode registry

    @call
    def register_ext_mode(
        self, descriptor: core_pb2.ModeDescriptor, *, timeout: float | None = None
    ) -> Stream[core_pb2.RegisterExtModeResponse]:
        """Adds an extension mode. Errors: MacpRefusedError with the runtime's reason; FORBIDDEN without the right."""
        request = core_pb2.RegisterExtModeRequest(mode_descriptor=descriptor)
        return self._ask(methods.REGISTER_EXT_MODE, request, timeout, _granted)

    @call
    def unregister_ext_mode(
        self, mode: str, *, timeout: float | None = None
    ) -> Stream[core_pb2.UnregisterExtModeResponse]:
        """Removes an extension mode. Errors: as `register_ext_mode`."""
        return self._ask(methods.UNREGISTER_EXT_MODE, core_pb2.UnregisterExtModeRequest(mode=mode), timeout, _granted)

    @call
    def promote_mode(
        self, mode: str, promoted_mode_name: str = "", *, timeout: float | None = None
    ) -> Stream[core_pb2.PromoteModeResponse]:
        """Makes an extension mode standards-track, under a new name or its own. Errors: as `register_ext_mode`."""
        request = core_pb2.PromoteModeRequest(mode=mode, promoted_mode_name=promoted_mode_name)
        return self._ask(methods.PROMOTE_MODE, request, timeout, _granted)

    # Policies

    @call
    def register_policy(
        self, descriptor: policy_pb2.PolicyDescriptor, *, timeout: float | None = None
    ) -> Stream[policy_pb2.RegisterPolicyResponse]:
        """Adds a governance policy. Errors: MacpRefusedError INVALID_POLICY_DEFINITION; FORBIDDEN without the right."""
        request = policy_pb2.RegisterPolicyRequest(policy_descriptor=descriptor)
        return self._ask(methods.REGISTER_POLICY, request, timeout, _granted)

    @call
    def unregister_policy(
        self, policy_id: str, *, timeout: float | None = None
    ) -> Stream[policy_pb2.UnregisterPolicyResponse]:
        """Removes a policy; sessions bound to it keep it. Errors: MacpRefusedError with the runtime's reason."""
        return self._ask(
            methods.UNREGISTER_POLICY, policy_pb2.UnregisterPolicyRequest(policy_id=policy_id), timeout, _granted
        )

    @call
    def get_policy(self, policy_id: str, *, timeout: float | None = None) -> Stream[policy_pb2.GetPolicyResponse]:
        """One policy. Errors: UNKNOWN_POLICY_VERSION."""
        return self._rpc(methods.GET_POLICY, policy_pb2.GetPolicyRequest(policy_id=policy_id), timeout)

    @call
    def list_policies(self, mode: str = "", *, timeout: float | None = None) -> Stream[policy_pb2.ListPoliciesResponse]:
        """The policies that may be bound in a mode, or all of them."""
        return self._rpc(methods.LIST_POLICIES, policy_pb2.ListPoliciesRequest(mode=mode), timeout)

    @call
    def what_if_replay(
        self, session_id: str, candidate: policy_pb2.PolicyDescriptor, *, timeout: float | None = None
    ) -> Stream[policy_pb2.WhatIfReplayResponse]:
        """Replays a session's accepted history under another policy, changing nothing. Errors: HISTORY_UNAVAILABLE."""
        request = policy_pb2.WhatIfReplayRequest(session_id=session_id, candidate=candidate)
        return self._rpc(methods.WHAT_IF_REPLAY, request, timeout)

    # Receipts

    @call
    def get_decision_receipt(
        self, session_id: str, *, timeout: float | None = None
    ) -> Stream[core_pb2.GetDecisionReceiptResponse]:
        """The receipt of a resolved session. Errors: RECEIPT_UNAVAILABLE."""
        return self._rpc(
            methods.GET_DECISION_RECEIPT, core_pb2.GetDecisionReceiptRequest(session_id=session_id), timeout
        )

    @call
    def get_receipt_keys(self, *, timeout: float | None = None) -> Stream[core_pb2.GetReceiptKeysResponse]:
        """The runtime's public keys for receipts, as a JSON Web Key Set."""
        return self._rpc(methods.GET_RECEIPT_KEYS, core_pb2.GetReceiptKeysRequest(), timeout)

    # Watches: each starts a call per subscription; `timeout` (seconds) ends it cleanly

    def watch_mode_registry(self, *, timeout: float | None = None) -> Stream[core_pb2.WatchModeRegistryResponse]:
        """One event at once, then one per change of the mode registry."""
        return self._watch(methods.WATCH_MODE_REGISTRY, core_pb2.WatchModeRegistryRequest(), timeout)

    def watch_roots(self, *, timeout: float | None = None) -> Stream[core_pb2.WatchRootsResponse]:
        """One event at once, then one per change of the coordination roots."""
        return self._watch(methods.WATCH_ROOTS, core_pb2.WatchRootsRequest(), timeout)

    def watch_signals(self, *, timeout: float | None = None) -> Stream[core_pb2.WatchSignalsResponse]:
        """Every Signal and Progress from now on."""
        return self._watch(methods.WATCH_SIGNALS, core_pb2.WatchSignalsRequest(), timeout)

    def watch_sessions(self, *, timeout: float | None = None) -> Stream[core_pb2.WatchSessionsResponse]:
        """One CREATED per session in memory, ended ones too, then every lifecycle event."""
        return self._watch(methods.WATCH_SESSIONS, core_pb2.WatchSessionsRequest(), timeout)

    def watch_policies(self, *, timeout: float | None = None) -> Stream[policy_pb2.WatchPoliciesResponse]:
        """All policies at once, then all of them again per change."""
        return self._watch(methods.WATCH_POLICIES, policy_pb2.WatchPoliciesRequest(), timeout)

    def rpc_stream(self, open_call: Callable[[], ResponseStream[T]]) -> Stream[T]:
        """Any gRPC stream of any stub on this client's loop: one call per subscription, paused by a slow reader, ended by close.

        Args:
            open_call: makes the grpc.aio call, such as ``lambda: stub.Watch(request)``; called on the loop, once per
                subscription, so that a stub made there belongs to the right loop.

        Raises:
            MacpSessionError: the client lives under virtual time, where there is no gRPC.

        Errors:
            MacpTransportError with status, trailers and cause, where the call ends other than with OK.
        """
        return rpc_stream_of(self._connection, open_call).of(self)


class RxClient(_Calls, Reactive):
    """``client.rx``: every call as a cold, awaitable Stream of one reply.

    Args:
        client: whose calls.
    """

    def __init__(self, client: MacpClient) -> None:
        super().__init__(client._connection, client.auth, client.default_timeout)
        self._client = client  # which is not to be collected meanwhile


class MacpClient(_Calls, Blocking):
    """A connection to a runtime. Calls block and return the reply; the same calls under ``rx`` are Observables.

    Connects on first use. Close it, or use it as a context manager, sync or async: then no thread, task or call is left. One
    that is collected unclosed ends its calls too.

    Args:
        target: ``host:port`` of the runtime.
        secure: TLS; False is plaintext, for development on loopback.
        auth: who is calling.
        root_certificates: PEM of the CA to trust instead of the system's.
        private_key: PEM of the client's key, for mutual TLS.
        certificate_chain: PEM of the client's certificate, for mutual TLS.
        default_timeout: seconds a unary call may take; None waits without limit. Never applies to a stream.
        scheduler: live on this running loop instead of the shared I/O thread.
        options: gRPC channel options, such as ``[("grpc.http2.bdp_probe", 0)]``.
        retry: how a send is tried again under its message id; None does not.
        telemetry: what sends and session streams report to, such as `macp_rx.opentelemetry.OpenTelemetry`.

    Raises:
        MacpSessionError: a target or certificates that can never work.
    """

    def __init__(
        self,
        *,
        target: str,
        secure: bool = True,
        auth: AuthConfig | None = None,
        root_certificates: bytes | None = None,
        private_key: bytes | None = None,
        certificate_chain: bytes | None = None,
        default_timeout: float | None = DEFAULT_TIMEOUT,
        scheduler: AsyncIOScheduler | LoopClock | None = None,
        options: ChannelOptions = (),
        retry: RetryPolicy | None = SEND_RETRY,
        telemetry: Telemetry = OFF,
    ) -> None:
        from macp_rx.transport.grpc import (  # an embedded runtime, and simulations, need no gRPC
            GrpcTransport,
            tls_credentials,
        )

        _check(telemetry)
        if not isinstance(target, str) or not target.strip() or target.startswith(("http://", "https://")):
            raise MacpSessionError(f"a target is 'host:port', such as '127.0.0.1:50051', not {target!r}")
        credentials = None
        if secure:
            credentials = tls_credentials(root_certificates, private_key, certificate_chain)
        elif root_certificates or private_key or certificate_chain:
            raise MacpSessionError("certificates were given, but secure=False would not use them")
        release = noop
        if scheduler is None:
            lease = LoopLease()
            clock, release = lease.clock, lease.release
        else:
            clock = loop_clock(scheduler)
        watching = telemetry.connection(target, clock)
        transport = GrpcTransport(target, clock=clock, credentials=credentials, options=options, trace=watching.trace)
        self._connect(_Connection(transport, release, retry, watching), auth, default_timeout, target)

    @classmethod
    def embedded(
        cls,
        *,
        agent: str,
        runtime: Runtime | None = None,
        default_timeout: float | None = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = SEND_RETRY,
        telemetry: Telemetry = OFF,
    ) -> Self:
        """A client of a runtime in this process: no server, no socket.

        Args:
            agent: who is calling.
            runtime: which runtime; without one the client makes its own and closes it with itself.
            default_timeout: seconds a unary call may take.
            retry: how a send is tried again under its message id; None does not.
            telemetry: what sends and session streams report to.
        """
        from macp_rx.runtime import Runtime  # a third of what the package is to import, and many need only a client

        _check(telemetry)
        release = noop
        if runtime is None:
            runtime = Runtime()
            release = runtime.close
        auth = AuthConfig.for_dev_agent(agent)
        transport = runtime.connect()
        return cls._over(transport, release, auth, default_timeout, retry, telemetry, "embedded")

    @classmethod
    def over(
        cls,
        transport: Transport,
        *,
        auth: AuthConfig | None = None,
        default_timeout: float | None = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = SEND_RETRY,
        telemetry: Telemetry = OFF,
        target: str = "a transport",
    ) -> Self:
        """A client over a transport of one's own: a runtime's ``connect()``, or one that is wrapped, for tests and simulations.

        Args:
            transport: what carries the calls; closed with the client.
            auth: who is calling.
            default_timeout: seconds a unary call may take.
            retry: how a send is tried again under its message id; None does not.
            telemetry: what sends and session streams report to.
            target: what the client calls the other end.
        """
        _check(telemetry)
        return cls._over(transport, noop, auth, default_timeout, retry, telemetry, target)

    @classmethod
    def _over(
        cls,
        transport: Transport,
        release: Callable[[], None],
        auth: AuthConfig | None,
        default_timeout: float | None,
        retry: RetryPolicy | None,
        telemetry: Telemetry,
        target: str,
    ) -> Self:
        client = cls.__new__(cls)
        watching = telemetry.connection(target, transport.clock)
        client._connect(_Connection(transport, release, retry, watching), auth, default_timeout, target)
        return client

    def _connect(
        self, connection: _Connection, auth: AuthConfig | None, default_timeout: float | None, target: str
    ) -> None:
        _Calls.__init__(self, connection, auth, default_timeout)
        self.target = target
        if connection.clock.runs_by_itself:  # virtual time has no thread to leave behind, and nobody holds a client
            connection.used_by(self)

    @property
    def rx(self) -> RxClient:
        """The same calls as Observables: ``await client.rx.get_session(id)``."""
        return RxClient(self)

    def acting_as(self, agent: str | AuthConfig) -> Self:
        """The same connection under another identity; closing either closes both.

        Args:
            agent: an agent's id, for a runtime with dev authentication, or a credential.
        """
        client = type(self).__new__(type(self))
        auth = AuthConfig.for_dev_agent(agent) if isinstance(agent, str) else agent
        client._connect(self._connection, auth, self.default_timeout, self.target)
        return client

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """What is subscribed to through this connection now, oldest first: who, to what, since when.

        A subscription lives until it is disposed or ends, whether its handle was kept or not.
        """
        return self._connection.subscriptions

    def close(self) -> None:
        """Cancels every call and closes the connection. Any number of times, from any thread.

        Nothing is left on return, except when called on the client's own loop, where it cannot wait: use ``aclose`` there.
        """
        self._connection.close()

    async def aclose(self) -> None:
        """The same without blocking the running loop; nothing is left afterwards."""
        await self._connection.aclose()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the client."""
        self.close()

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the client."""
        await self.aclose()

    def __repr__(self) -> str:
        return f"MacpClient({self.target!r}, {self.auth.sender if self.auth else 'nobody'!r})"


def _check(telemetry: object) -> None:
    if not isinstance(telemetry, Telemetry) or isinstance(telemetry, type):
        raise MacpSessionError(f"telemetry is an object such as OpenTelemetry(), not {telemetry!r}")


class _Acknowledging(Protocol):
    @property
    def ack(self) -> Ack: ...


class _Granting(Protocol):
    @property
    def ok(self) -> bool: ...
    @property
    def error(self) -> str: ...


Granting = TypeVar("Granting", bound=_Granting)


def _acked(what: str) -> Callable[[_Acknowledging], Ack]:
    """Takes the Ack out of an answer; one that is not ok is a MacpAckError."""

    def unwrap(answer: _Acknowledging) -> Ack:
        ack = answer.ack
        if not ack.ok:
            raise MacpAckError(ack, what)
        return ack

    return unwrap


def _granted(answer: Granting) -> Granting:
    """Passes an answer that says ok; another is a MacpRefusedError with the runtime's reason."""
    if not answer.ok:
        code, _, reason = answer.error.partition(": ")
        known = code in GRPC_STATUS
        raise MacpRefusedError(code if known else "INVALID_REQUEST", reason if known else answer.error)
    return answer


def _as_it_is(answer: T) -> T:
    return answer
