"""One coordination: its verbs, what was accepted in it, how it ended, and `join`, which lets an agent take part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, ParamSpec, Self, TypeVar, cast

from macp.modes.decision.v1.decision_pb2 import VotePayload
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Ack, Envelope
from reactivex import Observable, abc
from reactivex import operators as ops
from reactivex.internal import noop

from macp_rx.client import MacpClient
from macp_rx.errors import MacpAckError, MacpError, MacpSessionError
from macp_rx.protocol.commitment import commit
from macp_rx.protocol.messages import MACP_VERSION, Accepted, Message
from macp_rx.protocol.modes import decision, handoff, multi_round, proposal, quorum, task
from macp_rx.protocol.policy import BUILT_IN
from macp_rx.protocol.start import CONFIGURATION_VERSION, MODE_VERSION, POLICY_VERSION, SessionStart
from macp_rx.protocol.validation import validate_required_field, validate_session_id
from macp_rx.streams.call import Blocking, Reactive, call
from macp_rx.streams.duplex import MacpStream
from macp_rx.streams.outcome import Outcome
from macp_rx.streams.session import SessionStream
from macp_rx.streams.shared import Shared
from macp_rx.streams.stream import Stream
from macp_rx.transport.auth import AuthConfig
from macp_rx.transport.base import subscribed_by

if TYPE_CHECKING:  # who only reads and sends imports no operators
    from macp_rx.memory import Memory
    from macp_rx.operators.states import Rules
    from macp_rx.operators.tally import Tally

__all__ = [
    "Address",
    "Agent",
    "DecisionSession",
    "ExtensionSession",
    "HandoffSession",
    "MultiRoundSession",
    "Outcome",
    "ProposalSession",
    "QuorumSession",
    "RxDecisionSession",
    "RxExtensionSession",
    "RxHandoffSession",
    "RxMultiRoundSession",
    "RxProposalSession",
    "RxQuorumSession",
    "RxSession",
    "RxTaskSession",
    "Session",
    "SessionVerbs",
    "TaskSession",
    "verb",
]

_log = logging.getLogger("macp_rx.session")

P = ParamSpec("P")
S = TypeVar("S")
V = TypeVar("V", bound="SessionVerbs")

Agent = Callable[[Observable[Accepted]], Observable[Message]]
"""What was accepted in, what to say out."""

START_WAIT: Final = 30.0
"""Seconds that ``session.events`` waits for the session to be started: agents may join before."""


@dataclass(frozen=True, slots=True)
class Address:
    """What every message of a session carries; a Commitment must repeat the versions that the session is bound to.

    Attributes:
        mode: the session's mode.
        session_id: its id.
        mode_version: version of the mode.
        configuration_version: version of the configuration.
        policy_version: id of the governance policy.
    """

    mode: str
    session_id: str
    mode_version: str = MODE_VERSION
    configuration_version: str = CONFIGURATION_VERSION
    policy_version: str = POLICY_VERSION


def verb(make: Callable[P, Message[Any]]) -> call[SessionVerbs, P, Ack]:
    """A verb of a session: says what a message constructor makes, with its parameters and its text.

    Args:
        make: the constructor, such as ``decision.vote``.
    """

    def say(session: SessionVerbs, /, *args: P.args, **kwargs: P.kwargs) -> Stream[Ack]:
        return session.saying(make(*args, **kwargs))

    update_wrapper(say, make)
    # not by __wrapped__, of which help() would take the first parameter off for the session's
    parameters = [Parameter("session", Parameter.POSITIONAL_ONLY), *signature(make).parameters.values()]
    del vars(say)["__wrapped__"]
    vars(say)["__signature__"] = Signature(parameters, return_annotation="Stream[Ack]")
    return call(say)


class SessionVerbs:
    """What is the same in every mode: blocking on a `Session`, reactive on its ``rx``."""

    def __init__(self, client: MacpClient, address: Address, shared: Shared | None = None) -> None:
        self._client = client
        self._address = address
        self._shared = shared or client.shared_events(address.session_id, wait=START_WAIT)

    def in_form(self, form: Callable[[MacpClient, Address, Shared], V]) -> V:
        """The same session as an instance of another class; both share one live call."""
        return form(self._client, self._address, self._shared)

    @property
    def client(self) -> MacpClient:
        """The connection, and who is speaking."""
        return self._client

    @property
    def address(self) -> Address:
        """The session's mode, id and versions."""
        return self._address

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self._address.session_id

    @property
    def mode(self) -> str:
        """The session's mode."""
        return self._address.mode

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
        """Opens the session; its sender becomes the initiator. As one value: `SessionStart` and `Session.open`.

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
        address = self._address
        start = SessionStart(
            mode=address.mode,
            intent=intent,
            participants=participants,
            ttl_ms=ttl_ms,
            mode_version=address.mode_version,
            configuration_version=address.configuration_version,
            policy_version=address.policy_version,
            context_id=context_id,
            extensions=extensions or {},
            roots=roots,
            max_suspend_ms=max_suspend_ms,
        )
        return self.saying(start.message)

    @call
    def send(self, message: Message[Any]) -> Stream[Ack]:
        """Says one message. Subscribing again says it again under the same id: the runtime answers ``duplicate``.

        Args:
            message: a value from the mode's constructors, such as ``decision.vote("p1", "APPROVE")``.

        Errors:
            MacpAckError: the runtime refused it.
        """
        return self.saying(message)

    commit: Final = verb(commit)

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
    def events(self) -> SessionStream:
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

    def join(
        self, agent: Agent, *, memory: Memory | None = None, on_error: Callable[[Exception], None] | None = None
    ) -> abc.DisposableBase:
        """Lets an agent take part: it hears what is accepted, and what it says is sent, in order.

        A refused message is reported, and the agent goes on: for a function of the accepted history it was never said. An
        exception of the agent, or a connection that is lost, ends this agent alone. So does the session's end, once the agent has
        heard of it, even if it had more to say.

        An agent that is a function of the history may be started again, wherever it was killed: it hears the history, what it
        said is not sent again, and what it had not said yet goes out (`macp_rx.taking_part`). With a ``memory`` that is true of
        one, too, that has timers, calls `agents.remembered` functions, or was refused something. A credential without a sender
        names nobody: its agent is another one each time.

        Args:
            agent: a function from what was accepted to what to say. It hears the history first, then what is ``live``.
            memory: what it remembers beyond the history. One agent of a name in a session.
            on_error: hears of refusals and of the end by an error; logged by default.

        Returns:
            Dispose it, and the agent leaves.

        Raises:
            MacpSessionError: what the agent returned is no Observable.
        """
        report = on_error or self.log_error
        with subscribed_by(agent):
            return self.spoken(agent, self.events, report, memory=memory).subscribe(on_error=report)

    def spoken(
        self,
        agent: Agent,
        events: SessionStream,
        on_refusal: Callable[[Exception], None],
        *,
        memory: Memory | None = None,
        on_end: Callable[[], None] = noop,
    ) -> Stream[Ack]:
        """What an agent says about these events, sent in order: the Acks. What `join` subscribes to.

        Args:
            agent: a function from what was accepted to what to say.
            events: what it hears, from the session's start.
            on_refusal: hears of each message that the runtime refused.
            memory: what the agent remembers beyond the history.
            on_end: called when the session has ended, and all that was said before was answered.

        Errors:
            What the agent raised, or what a send failed with.

        Raises:
            MacpSessionError: what the agent returned is no Observable.
        """
        from macp_rx.taking_part import TakingPart

        def taking_part() -> TakingPart:
            return TakingPart(
                agent,
                events,
                session_id=self.session_id,
                name=self._sender,
                send=self.saying,
                report=on_refusal,
                memory=memory,
                on_end=on_end,
            )

        ready = [taking_part()]  # now, so that what is no agent is told now

        def subscribe(
            observer: abc.ObserverBase[Ack], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            return (ready.pop() if ready else taking_part()).subscribe(observer, scheduler or events.clock)

        return events.derived(Observable(subscribe), can_wait=True)

    def log_error(self, error: Exception) -> None:
        """Logs what became of an agent, as `join` does by default: a refused message is a warning, for the agent goes on.

        An exception that is not ours is an agent's own, and comes with where it was raised.
        """
        level = logging.ERROR
        if isinstance(error, MacpAckError):  # and that others have ended the session meanwhile is no trouble at all
            level = logging.INFO if error.code == "SESSION_NOT_OPEN" else logging.WARNING
        where = None if isinstance(error, MacpError) else error
        _log.log(level, "%s in %s: %s", self._sender or "an agent", self.session_id, error, exc_info=where)

    @property
    def _sender(self) -> str:
        return self._client.auth.sender if self._client.auth else ""

    def _bound(self, commitment: core_pb2.CommitmentPayload, commitment_id: str) -> core_pb2.CommitmentPayload:
        """The commitment with what was left blank filled in."""
        bound = core_pb2.CommitmentPayload()
        bound.CopyFrom(commitment)
        bound.commitment_id = bound.commitment_id or commitment_id or self._client.clock.new_id()
        bound.mode_version = bound.mode_version or self._address.mode_version
        bound.configuration_version = bound.configuration_version or self._address.configuration_version
        bound.policy_version = bound.policy_version or self._address.policy_version
        return bound

    def saying(self, message: Message[Any], message_id: str = "") -> Stream[Ack]:
        """A message as it is sent, reactive in every form.

        Args:
            message: what to say.
            message_id: its id; a new one by default. A Commitment without an id of its own has it, too.
        """
        return self._client.rx.send(self.envelope(message, message_id))

    def envelope(self, message: Message[Any], message_id: str = "") -> Envelope:
        """A message as it goes out; the one place where versions, ids and time are filled in. Arguments as `saying`.

        Raises:
            MacpSessionError: it is no message, or one of another mode.
        """
        if not isinstance(message, Message):
            raise MacpSessionError(f"what is said is a Message, such as decision.vote(…), not {type(message).__name__}")
        if message.mode not in ("", self.mode):
            raise MacpSessionError(
                f"a {message.message_type} of {message.mode} cannot be said in a session of {self.mode}"
            )
        payload: bytes
        if isinstance(message.payload, core_pb2.CommitmentPayload):
            payload = self._bound(message.payload, message_id).SerializeToString()
        else:
            payload = message.payload_bytes
        clock = self._client.clock
        return Envelope(
            macp_version=MACP_VERSION,
            mode=self.mode,
            message_type=message.message_type,
            message_id=message_id or clock.new_id(),
            session_id=self.session_id,
            sender=self._sender,
            timestamp_unix_ms=clock.now_ms,
            payload=payload,
        )


class RxSession(SessionVerbs, Reactive):
    """``session.rx``: every verb as a cold, awaitable Stream of its Ack."""


class Session(SessionVerbs, Blocking):
    """A session of any mode; the subclasses know their mode's verbs. Verbs block and return the Ack.

    The same verbs under ``rx`` are Observables: ``await session.rx.commit(…)``. What is true of the session comes only from
    what the runtime accepted: ``events``, ``outcome``, ``metadata``, and ``states`` where the mode is known.

    A mode of your own is three classes, from the constructors of its messages::

        class AuctionVerbs(SessionVerbs):
            bid: Final = verb(auction.bid)

        class RxAuctionSession(AuctionVerbs, RxSession): ...

        class AuctionSession(AuctionVerbs, Session):
            MODE: ClassVar[str] = "ext.auction.v1"

            @property
            def rx(self) -> RxAuctionSession:
                return self.in_form(RxAuctionSession)

    Args:
        client: the connection, and who is speaking.
        session_id: an existing session's id, or one to start under; a new UUIDv4 by default.
        mode_version: version of the mode that messages are bound to.
        configuration_version: version of the configuration.
        policy_version: id of the governance policy.

    Raises:
        MacpSessionError: the protocol refuses this session id; the text says which forms are allowed.
    """

    MODE: ClassVar[str] = ""

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
        self._at(client, Address(self.MODE, session_id, mode_version, configuration_version, policy_version))

    def _at(self, client: MacpClient, address: Address) -> None:
        if not address.mode:
            raise MacpSessionError(
                "Session has no mode of its own: DecisionSession(…), or ExtensionSession(client, mode)"
            )
        validate_session_id(address.session_id)
        SessionVerbs.__init__(self, client, address)

    @property
    def rx(self) -> RxSession:
        """The same verbs as Observables, awaitable."""
        return self.in_form(RxSession)

    @classmethod
    def open(cls, client: MacpClient, start: SessionStart, session_id: str | None = None) -> Self:
        """Opens the session that a value describes: ``Session.open(client, start)`` is of the class of its mode.

        Args:
            client: the connection, and who becomes the initiator.
            start: what it is opened with.
            session_id: its id; a new UUIDv4 by default.

        Raises:
            MacpSessionError: the value describes a session of another mode than this class's.
            MacpAckError: the runtime refused it.
        """
        versions = (start.mode_version, start.configuration_version, start.policy_version)
        session_id = client.clock.new_id() if session_id is None else session_id
        session = cls.at(client, Address(start.mode, session_id, *versions))
        session.send(start.message)
        return session

    @classmethod
    def of(cls, client: MacpClient, metadata: core_pb2.SessionMetadata) -> Self:
        """The session that a runtime tells of, as ``client.list_sessions`` and ``client.get_session`` do."""
        versions = (metadata.mode_version, metadata.configuration_version, metadata.policy_version or POLICY_VERSION)
        return cls.at(client, Address(metadata.mode, metadata.session_id, *versions))

    @classmethod
    def at(cls, client: MacpClient, address: Address) -> Self:
        """The session of an address, of the class of its mode."""
        if cls.MODE not in ("", address.mode):
            raise MacpSessionError(f"{cls.__name__} is of {cls.MODE}, and the session of {address.mode}")
        form = cls if cls is not Session else _BY_MODE.get(address.mode, ExtensionSession)
        session = cast("Self", object.__new__(form))
        session._at(client, address)
        return session

    def acting_as(self, agent: str | AuthConfig) -> Self:
        """The same session, spoken in by somebody else.

        Args:
            agent: an agent's id, for a runtime with dev authentication, or a credential.
        """
        other = object.__new__(type(self))
        other._at(self._client.acting_as(agent), self._address)
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r})"


class ModeVerbs(SessionVerbs, Generic[S]):
    """What a session can do whose mode's rules are known: follow its state."""

    _rules: Rules[S]

    @property
    def states(self) -> Stream[S]:
        """The session's state after each accepted message, as the runtime has it; completes when the session ends.

        Errors:
            MacpTransportError: UNKNOWN_POLICY_VERSION, where the runtime has forgotten the session's policy.
            MacpSessionError: the session is bound to another policy than this object was made with.
        """
        return self._states(self.events)

    @call
    def state(self) -> Stream[S]:
        """The session's state now: one question, by its history."""
        return self._states(self._client.history(self.session_id)).pipe(ops.last())

    def _states(self, events: Stream[Accepted]) -> Stream[S]:
        from macp_rx import operators as mo

        def under(answer: policy_pb2.GetPolicyResponse) -> Stream[S]:
            return events.pipe(mo.states(self._rules, policy=answer.policy_descriptor))

        policy_id = self._address.policy_version or POLICY_VERSION  # as the runtime binds a session that names none
        if policy_id in BUILT_IN:
            return events.pipe(mo.states(self._rules))
        return self._client.rx.get_policy(policy_id).pipe(ops.flat_map(under))


class _DecisionVerbs(ModeVerbs[decision.State]):
    _rules = decision

    propose: Final = verb(decision.propose)
    evaluate: Final = verb(decision.evaluate)
    raise_objection: Final = verb(decision.raise_objection)
    vote: Final = verb(decision.vote)

    @property
    def tally(self) -> Stream[Tally]:
        """The votes on every proposal, after each vote that counts."""
        from macp_rx import operators as mo

        return self.events.pipe(mo.of_type(VotePayload), mo.tally())


class RxDecisionSession(_DecisionVerbs, RxSession):
    """``session.rx`` of a decision."""


class DecisionSession(_DecisionVerbs, Session):
    """A session in decision mode: proposals, evaluations, objections, votes, one commitment (RFC-MACP-0007). See `Session`."""

    MODE: ClassVar[str] = decision.MODE

    @property
    def rx(self) -> RxDecisionSession:
        """The same verbs as Observables, awaitable."""
        return self.in_form(RxDecisionSession)


class _ProposalVerbs(ModeVerbs[proposal.State]):
    _rules = proposal

    propose: Final = verb(proposal.propose)
    counter_propose: Final = verb(proposal.counter_propose)
    accept: Final = verb(proposal.accept)
    reject: Final = verb(proposal.reject)
    withdraw: Final = verb(proposal.withdraw)


class RxProposalSession(_ProposalVerbs, RxSession):
    """``session.rx`` of a negotiation."""


class ProposalSession(_ProposalVerbs, Session):
    """A session in proposal mode: offers and counter-offers, until all accept the same one (RFC-MACP-0008). See `Session`."""

    MODE: ClassVar[str] = proposal.MODE

    @property
    def rx(self) -> RxProposalSession:
        """The same verbs as Observables, awaitable."""
        return self.in_form(RxProposalSession)


class _TaskVerbs(ModeVerbs[task.State]):
    _rules = task

    request_task: Final = verb(task.request_task)
    accept_task: Final = verb(task.accept_task)
    reject_task: Final = verb(task.reject_task)
    update_task: Final = verb(task.update_task)
    complete_task: Final = verb(task.complete_task)
    fail_task: Final = verb(task.fail_task)


class RxTaskSession(_TaskVerbs, RxSession):
    """``session.rx`` of a task."""


class TaskSession(_TaskVerbs, Session):
    """A session in task mode: one task, who takes it on, how far it is, its report (RFC-MACP-0009). See `Session`."""

    MODE: ClassVar[str] = task.MODE

    @property
    def rx(self) -> RxTaskSession:
        """The same verbs as Observables, awaitable."""
        return self.in_form(RxTaskSession)


class _HandoffVerbs(ModeVerbs[handoff.State]):
    _rules = handoff

    offer: Final = verb(handoff.offer)
    add_context: Final = verb(handoff.add_context)
    accept_handoff: Final = verb(handoff.accept_handoff)
    decline: Final = verb(handoff.decline)


class RxHandoffSession(_HandoffVerbs, RxSession):
    """``session.rx`` of a handoff."""


class HandoffSession(_HandoffVerbs, Session):
    """A session in handoff mode: an offer, its context, accepted or declined (RFC-MACP-0010). See `Session`."""

    MODE: ClassVar[str] = handoff.MODE

    @property
    def rx(self) -> RxHandoffSession:
        """The same verbs as Observables, awaitable."""
        return self.in_form(RxHandoffSession)


class _QuorumVerbs(ModeVerbs[quorum.State]):
    _rules = quorum

    request_approval: Final = verb(quorum.request_approval)
    approve: Final = verb(quorum.approve)
    reject: Final = verb(quorum.reject)
    abstain: Final = verb(quorum.abstain)


class RxQuorumSession(_QuorumVerbs, RxSession):
    """``session.rx`` of an approval."""


class QuorumSession(_QuorumVerbs, Session):
    """A session in quorum mode: a request, and enough approvals or not (RFC-MACP-0011). See `Session`."""

    MODE: ClassVar[str] = quorum.MODE

    @property
    def rx(self) -> RxQuorumSession:
        """The same verbs as Observables, awaitable."""
        return self.in_form(RxQuorumSession)


class _MultiRoundVerbs(ModeVerbs[multi_round.State]):
    _rules = multi_round

    contribute: Final = verb(multi_round.contribute)


class RxMultiRoundSession(_MultiRoundVerbs, RxSession):
    """``session.rx`` of a convergence."""


class MultiRoundSession(_MultiRoundVerbs, Session):
    """A session of ``ext.multi_round.v1``: everybody contributes until all say the same. See `Session`."""

    MODE: ClassVar[str] = multi_round.MODE

    @property
    def rx(self) -> RxMultiRoundSession:
        """The same verbs as Observables, awaitable."""
        return self.in_form(RxMultiRoundSession)


class _ExtensionVerbs(SessionVerbs):
    @call
    def say(self, message_type: str, payload: bytes = b"") -> Stream[Ack]:
        """Says a message of the mode. Messages with a protobuf payload go by ``send``.

        Args:
            message_type: one that the mode's descriptor declares.
            payload: its bytes; the runtime does not read them.
        """
        validate_required_field("message_type", message_type)
        return self.saying(Message(self.mode, payload, message_type))


class RxExtensionSession(_ExtensionVerbs, RxSession):
    """``session.rx`` of an extension mode."""


class ExtensionSession(_ExtensionVerbs, Session):
    """A session of a mode that somebody registered (`protocol.md` 4.8), by its name. See `Session`, also for classes of its own.

    Args:
        client: the connection, and who is speaking.
        mode: the mode's identifier, such as ``ext.auction.v1``.
        session_id: an existing session's id, or one to start under; a new UUIDv4 by default.
        mode_version: version of the mode, as its descriptor says.
        configuration_version: version of the configuration.
        policy_version: id of the governance policy.
    """

    @property
    def rx(self) -> RxExtensionSession:
        """The same verbs as Observables, awaitable."""
        return self.in_form(RxExtensionSession)

    def __init__(
        self,
        client: MacpClient,
        mode: str,
        session_id: str | None = None,
        *,
        mode_version: str = MODE_VERSION,
        configuration_version: str = CONFIGURATION_VERSION,
        policy_version: str = POLICY_VERSION,
    ) -> None:
        session_id = client.clock.new_id() if session_id is None else session_id
        self._at(client, Address(mode, session_id, mode_version, configuration_version, policy_version))


_BY_MODE: Final[Mapping[str, type[Session]]] = {
    form.MODE: form
    for form in (DecisionSession, ProposalSession, TaskSession, HandoffSession, QuorumSession, MultiRoundSession)
}
