"""One coordination: its verbs, what was accepted in it, how it ended, and `join`, which lets an agent take part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from macp.v1 import core_pb2
from macp.v1.envelope_pb2 import Ack, Envelope
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.disposable import Disposable

from macp_rx.client import MacpClient
from macp_rx.errors import MacpAckError, MacpSessionError
from macp_rx.protocol.messages import DECISION, MACP_VERSION, Accepted, Message
from macp_rx.protocol.modes import decision
from macp_rx.protocol.validation import validate_session_id, validate_session_start
from macp_rx.streams.call import Blocking, Reactive, call
from macp_rx.streams.duplex import MacpStream
from macp_rx.streams.outcome import Outcome
from macp_rx.streams.stream import Stream, stream
from macp_rx.transport.auth import AuthConfig

__all__ = ["Agent", "DecisionSession", "Outcome", "RxDecisionSession"]

_log = logging.getLogger("macp_rx.session")

Agent = Callable[[Observable[Accepted]], Observable[Message]]
"""What was accepted in, what to say out."""

MODE_VERSION: Final = "1.0.0"
CONFIGURATION_VERSION: Final = "config.default"
POLICY_VERSION: Final = "policy.default"

START_WAIT: Final = 30.0
"""Seconds that ``session.events`` waits for the session to be started: agents may join before."""


@dataclass(frozen=True, slots=True)
class _Address:
    """What every message of a session carries; a Commitment must repeat the versions that the session is bound to."""

    session_id: str
    mode_version: str
    configuration_version: str
    policy_version: str


class _Verbs:
    """What is the same in every mode. Blocking on a session, reactive on its ``rx``."""

    mode: ClassVar[str]

    def __init__(self, client: MacpClient, address: _Address) -> None:
        self._client = client
        self._address = address
        self._shared = client.shared_events(address.session_id, wait=START_WAIT)

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self._address.session_id

    @call
    def start(
        self,
        *,
        intent: str,
        participants: Sequence[str],
        ttl_ms: int,
        context_id: str = "",
        extensions: Mapping[str, bytes] | None = None,
        roots: Sequence[core_pb2.Root] = (),
        max_suspend_ms: int = 0,
    ) -> Stream[Ack]:
        """Opens the session; its sender becomes the initiator.

        Args:
            intent: what the session is about.
            participants: who may act; the initiator is not one by itself.
            ttl_ms: milliseconds until it expires, 1 to 86,400,000.
            context_id: what it belongs to; stored, not interpreted.
            extensions: anything else; the runtime shows the keys, not the values.
            roots: coordination roots; stored, not interpreted.
            max_suspend_ms: how long it may be suspended in all; 0 is the runtime's 7 days.

        Raises:
            MacpSessionError: at once, for what the protocol would refuse.
        """
        if isinstance(participants, str):  # protobuf would take its letters
            raise MacpSessionError(f"participants is a collection of names, not one name ({participants!r})")
        payload = core_pb2.SessionStartPayload(
            intent=intent,
            participants=participants,
            mode_version=self._address.mode_version,
            configuration_version=self._address.configuration_version,
            policy_version=self._address.policy_version,
            ttl_ms=ttl_ms,
            roots=roots,
            context_id=context_id,
            extensions=dict(extensions or {}),
            max_suspend_ms=max_suspend_ms,
        )
        validate_session_start(self.mode, payload)
        return self._say(Message(self.mode, payload))

    @call
    def send(self, message: Message) -> Stream[Ack]:
        """Says one message. Subscribing again says it again under the same id: the runtime answers ``duplicate``.

        Args:
            message: a value from the mode's constructors, such as ``decision.vote("p1", "APPROVE")``.

        Errors:
            MacpAckError: the runtime refused it.
        """
        return self._say(message)

    @call
    def commit(
        self,
        *,
        action: str,
        authority_scope: str,
        reason: str,
        commitment_id: str = "",
        outcome_positive: bool | None = None,
        supersedes: core_pb2.CommitmentRef | None = None,
    ) -> Stream[Ack]:
        """Commits, which resolves the session.

        Args:
            action: what is committed to, such as ``decision.approved``.
            authority_scope: what the commitment binds.
            reason: why.
            commitment_id: a new one by default.
            outcome_positive: the sign; by default what the action's suffix says, else positive.
            supersedes: a commitment of another session that this one replaces.

        Errors:
            MacpAckError: FORBIDDEN without the authority; POLICY_DENIED with the policy's reasons.
        """
        return self._say(
            decision.commit(
                action=action,
                authority_scope=authority_scope,
                reason=reason,
                commitment_id=commitment_id,
                outcome_positive=outcome_positive,
                supersedes=supersedes,
            )
        )

    @call
    def cancel(self, *, reason: str = "") -> Stream[Ack]:
        """Cancels the session; on one that has ended it changes nothing."""
        return self._client.rx.cancel_session(self.session_id, reason=reason)

    @call
    def suspend(self, *, reason: str = "") -> Stream[Ack]:
        """Suspends the session: nothing is accepted, and its deadline stands still."""
        return self._client.rx.suspend_session(self.session_id, reason=reason)

    @call
    def resume(self, *, reason: str = "") -> Stream[Ack]:
        """Resumes the suspended session; its deadline moves by the pause."""
        return self._client.rx.resume_session(self.session_id, reason=reason)

    @call
    def metadata(self) -> Stream[core_pb2.SessionMetadata]:
        """The session's state, versions, deadline and participants, as the runtime has them now."""

        def metadata(response: core_pb2.GetSessionResponse) -> core_pb2.SessionMetadata:
            return response.metadata

        return self._client.rx.get_session(self.session_id).pipe(ops.map(metadata))

    @property
    def events(self) -> Stream[Accepted]:
        """Everything accepted in the session, from its start, live; completes when the session ends.

        All who subscribe to it share one call, and none waits for another. A session that has not been started yet is
        waited for, 30 seconds. For a call of its own, use ``client.session_events``.
        """
        return self._shared.stream().of(self._client)

    @property
    def outcome(self) -> Stream[Outcome]:
        """How the session ends: one value, when it has ended. True even where its history is forgotten."""
        return self._client.outcome(self.session_id, self.events)

    def open_stream(self, *, replay: bool = True) -> MacpStream:
        """Opens both directions of the session, subscribed from the start, so that "open, propose, read" receives.

        Args:
            replay: first what was accepted already. False gives exactly what is accepted after this call returns; it
                blocks until the runtime has said where that is, since the protocol has no "from now on".
        """
        return self._client.open_stream(self.session_id, 0 if replay else self._accepted_so_far())

    def _accepted_so_far(self) -> int:
        return self._client.history(self.session_id).pipe(ops.count()).run()

    def join(self, agent: Agent, *, on_error: Callable[[Exception], None] | None = None) -> abc.DisposableBase:
        """Lets an agent take part: it hears what is accepted, and what it says is sent, in order.

        A refused message is reported, and the agent goes on: for a function of the accepted history it was never said. An
        exception of the agent, or a connection that is lost, ends this agent alone. It also ends with the session.

        Args:
            agent: a function from what was accepted to what to say.
            on_error: hears of refusals and of the end by an error; logged by default.

        Returns:
            Dispose it, and the agent leaves.

        Raises:
            MacpSessionError: what the agent returned is no Observable.
        """
        report = on_error or self._report

        def send(message: Message) -> Observable[Ack]:
            return self._say(message).pipe(ops.catch(refused))

        def refused(error: Exception, _source: Observable[Ack]) -> Observable[Ack]:
            if not isinstance(error, MacpAckError):
                raise error
            report(error)
            return Observable(_completed)

        messages = agent(self.events)
        if not isinstance(messages, Observable):
            raise MacpSessionError(f"an agent returns an Observable of Messages, not {type(messages).__name__}")
        said = stream(messages, self._client.clock)
        from macp_rx import operators as mo  # here: who only reads and sends imports no operators

        return said.pipe(mo.send_to(send)).subscribe(on_error=report)

    def _report(self, error: Exception) -> None:
        who = self._client.auth.sender if self._client.auth else "an agent"
        late = isinstance(error, MacpAckError) and error.code == "SESSION_NOT_OPEN"  # others ended it meanwhile
        _log.log(logging.INFO if late else logging.ERROR, "%s in %s: %s", who, self.session_id, error)

    def _bound(self, commitment: core_pb2.CommitmentPayload) -> core_pb2.CommitmentPayload:
        """The commitment with what was left blank filled in."""
        bound = core_pb2.CommitmentPayload()
        bound.CopyFrom(commitment)
        bound.commitment_id = bound.commitment_id or self._client.clock.new_id()
        bound.mode_version = bound.mode_version or self._address.mode_version
        bound.configuration_version = bound.configuration_version or self._address.configuration_version
        bound.policy_version = bound.policy_version or self._address.policy_version
        return bound

    def _say(self, message: Message) -> Stream[Ack]:
        """The one place where versions, ids and time are filled in."""
        if not isinstance(message, Message):
            raise MacpSessionError(f"what is said is a Message, such as decision.vote(…), not {type(message).__name__}")
        if message.mode not in ("", self.mode):
            raise MacpSessionError(
                f"a {message.message_type} of {message.mode} cannot be said in a session of {self.mode}"
            )
        payload = message.payload
        if isinstance(payload, core_pb2.CommitmentPayload):
            payload = self._bound(payload)
        clock = self._client.clock
        envelope = Envelope(
            macp_version=MACP_VERSION,
            mode=self.mode,
            message_type=message.message_type,
            message_id=clock.new_id(),
            session_id=self.session_id,
            sender=self._client.auth.sender if self._client.auth else "",
            timestamp_unix_ms=clock.now_ms,
            payload=payload.SerializeToString(),
        )
        return self._client.rx.send(envelope)


def _completed(observer: abc.ObserverBase[Ack], scheduler: abc.SchedulerBase | None = None) -> abc.DisposableBase:
    observer.on_completed()
    return Disposable()


class _DecisionVerbs(_Verbs):
    mode = DECISION

    @call
    def propose(
        self, proposal_id: str, option: str, *, rationale: str = "", supporting_data: bytes = b""
    ) -> Stream[Ack]:
        """Puts an option up for decision.

        Args:
            proposal_id: its id, unique in the session.
            option: what is proposed.
            rationale: why.
            supporting_data: anything.
        """
        return self._say(decision.propose(proposal_id, option, rationale=rationale, supporting_data=supporting_data))

    @call
    def evaluate(self, proposal_id: str, recommendation: str, *, confidence: float, reason: str = "") -> Stream[Ack]:
        """Evaluates a proposal, before the first vote.

        Args:
            proposal_id: which proposal.
            recommendation: APPROVE, REVIEW, BLOCK or REJECT.
            confidence: in [0, 1].
            reason: why.
        """
        return self._say(decision.evaluate(proposal_id, recommendation, confidence=confidence, reason=reason))

    @call
    def raise_objection(self, proposal_id: str, *, reason: str, severity: str = "medium") -> Stream[Ack]:
        """Objects to a proposal, before the first vote.

        Args:
            proposal_id: which proposal.
            reason: why.
            severity: low, medium, high or critical; a policy may make critical ones a veto.
        """
        return self._say(decision.raise_objection(proposal_id, reason=reason, severity=severity))

    @call
    def vote(self, proposal_id: str, vote: str, *, reason: str = "") -> Stream[Ack]:
        """Votes on a proposal, once and for all.

        Args:
            proposal_id: which proposal.
            vote: APPROVE, REJECT or ABSTAIN.
            reason: why.
        """
        return self._say(decision.vote(proposal_id, vote, reason=reason))


class RxDecisionSession(_DecisionVerbs, Reactive):
    """``session.rx``: every verb as a cold, awaitable Stream of its Ack."""


class DecisionSession(_DecisionVerbs, Blocking):
    """A session in decision mode: proposals, evaluations, objections, votes, one commitment (RFC-MACP-0007).

    Verbs block and return the Ack; the same verbs under ``rx`` are Observables. What is true of the session comes only
    from what the runtime accepted: ``events``, ``outcome``, ``metadata``.

    Args:
        client: the connection, and who is speaking.
        session_id: an existing session's id, or one to start under; a new UUIDv4 by default.
        mode_version: version of the mode that messages are bound to.
        configuration_version: version of the configuration.
        policy_version: id of the governance policy.

    Raises:
        MacpSessionError: the protocol refuses this session id; the text says which forms are allowed.
    """

    def __init__(
        self,
        client: MacpClient,
        session_id: str | None = None,
        *,
        mode_version: str = MODE_VERSION,
        configuration_version: str = CONFIGURATION_VERSION,
        policy_version: str = POLICY_VERSION,
    ) -> None:
        session_id = client.clock.new_id() if session_id is None else session_id
        validate_session_id(session_id)
        super().__init__(client, _Address(session_id, mode_version, configuration_version, policy_version))

    @property
    def rx(self) -> RxDecisionSession:
        """The same verbs as Observables: ``await session.rx.vote("p1", "APPROVE")``."""
        return RxDecisionSession(self._client, self._address)

    def acting_as(self, agent: str | AuthConfig) -> Self:
        """The same session, spoken in by somebody else.

        Args:
            agent: an agent's id, for a runtime with dev authentication, or a credential.
        """
        other = type(self).__new__(type(self))
        _Verbs.__init__(other, self._client.acting_as(agent), self._address)
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r})"
