"""states: a session's state after each accepted message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from macp.v1 import policy_pb2
from macp.v1.core_pb2 import SessionStartPayload
from macp.v1.envelope_pb2 import Envelope
from reactivex import Observable, abc

from macp_rx.errors import MacpRefusedError, MacpSessionError
from macp_rx.operators.lift import each
from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.messages import Accepted
from macp_rx.protocol.policy import BUILT_IN, DEFAULT, Policy, policy_from

__all__ = ["Fold", "Rules", "states"]

S = TypeVar("S")


class Rules(Protocol[S]):
    """A mode's rules: each module of `macp_rx.protocol.modes` has them, such as ``decision``."""

    def initial(self, session: Binding) -> S:
        """The state at the start."""
        ...

    def authorize(self, session: Binding, sender: str, message_type: str) -> None:
        """Raises MacpRefusedError unless ``sender`` may say this."""

    def step(self, session: Binding, state: S, envelope: Envelope, at: Instant) -> S:
        """The state after one more message."""
        ...


class Fold(Generic[S]):
    """One session, as its history makes it.

    Args:
        operator: for errors.
        mode: the rules of its mode.
        start: its SessionStart.
        policy: what it is judged under. It keeps the id of the session's own, which commitments name.

    Raises:
        MacpSessionError: these are not the rules, or not a policy, of the session's mode.
    """

    def __init__(self, operator: str, mode: Rules[S], start: Accepted, policy: Policy) -> None:
        rules_of: str = getattr(mode, "MODE", start.mode)  # mypy takes no module's constant for a protocol's property
        if rules_of != start.mode:
            raise MacpSessionError(
                f"{operator} was given the rules of {rules_of}, and the session is one of {start.mode}"
            )
        if policy.mode not in ("*", start.mode):
            raise MacpSessionError(
                f"policy {policy.policy_id!r} is for {policy.mode}, and the session is one of {start.mode}"
            )
        payload = _start_payload(operator, start)
        self.mode = mode
        self.bound: Binding = Binding(
            session_id=start.session_id,
            mode=start.mode,
            initiator=start.sender,
            participants=tuple(payload.participants),
            mode_version=payload.mode_version,
            configuration_version=payload.configuration_version,
            policy=replace(policy, policy_id=policy_id_of(payload)),
        )
        self.state: S = mode.initial(self.bound)

    def take(self, accepted: Accepted) -> None:
        """Takes one more message. Raises MacpRefusedError for what the rules refuse; the state stays as it was."""
        envelope = accepted.envelope
        self.mode.authorize(self.bound, envelope.sender, envelope.message_type)
        # when the runtime accepted it is not told: a state has the times that the senders wrote on their messages
        self.state = self.mode.step(self.bound, self.state, envelope, Instant(envelope.timestamp_unix_ms))


def policy_id_of(start: SessionStartPayload) -> str:
    """The id of the policy that a SessionStart binds its session to."""
    return start.policy_version or DEFAULT.policy_id


def _start_payload(operator: str, accepted: Accepted) -> SessionStartPayload:
    payload = accepted.payload
    if not isinstance(payload, SessionStartPayload):
        raise MacpSessionError(
            f"{operator} needs a session's history from its SessionStart on, and heard {accepted.message_type} "
            f"{accepted.message_id!r} (sequence {accepted.sequence}) first; subscribe to session.events, after_sequence=0"
        )
    return payload


def states(
    mode: Rules[S], *, policy: Policy | policy_pb2.PolicyDescriptor | None = None
) -> Callable[[Observable[Accepted]], Observable[S]]:
    """Emits the session's state after each accepted message, its SessionStart included.

    A scan over the mode's own rules, the same ones that the embedded runtime accepts by, so that it is what the runtime has.
    Times in a state are those that the senders wrote on their messages. What is delivered again changes nothing.

    Args:
        mode: a module of `macp_rx.protocol.modes`: ``decision``, ``proposal``, ``task``, ``handoff``, ``quorum``,
            ``multi_round``.
        policy: the policy that the session is bound to, as ``client.get_policy`` has it; may be left out if it is a built-in
            one, such as the default.

    Errors:
        MacpSessionError: the stream does not begin with the SessionStart; it is of another mode, or of a second session; the
            policy is not the session's, or, unlike the runtime, refuses what was accepted.

    Marble:
        accepted  -S-p-v-C|
        > mo.states(decision)
        states    -a-b-c-d|
        a: it.phase is decision.Phase.PROPOSAL
        b: it.phase is decision.Phase.EVALUATION
        c: it.phase is decision.Phase.VOTING and it.vote_totals == {"p1": 1}
        d: it.is_positive_outcome
    """
    if not callable(getattr(mode, "step", None)):
        raise MacpSessionError(f"states takes a module of macp_rx.protocol.modes, such as decision, not {mode!r}")
    given = None if policy is None else policy_from(policy)

    def operator(source: Observable[Accepted]) -> Observable[S]:
        def rule(observer: abc.ObserverBase[S]) -> Callable[[Accepted], None]:
            fold: Fold[S] | None = None
            sequence = 0

            def take(accepted: Accepted) -> None:
                nonlocal fold, sequence
                if fold is None:
                    fold = Fold("states", mode, accepted, _bound_to(accepted, given))
                elif accepted.session_id != fold.bound.session_id:
                    raise MacpSessionError(
                        f"states follows session {fold.bound.session_id}, and heard of {accepted.session_id}: "
                        "choose one with mo.in_session(…) before it"
                    )
                elif accepted.sequence <= sequence:
                    return
                else:
                    _apply(fold, accepted)
                sequence = accepted.sequence
                observer.on_next(fold.state)

            return take

        return each(source, rule)

    return operator


def _bound_to(start: Accepted, given: Policy | None) -> Policy:
    policy_id = policy_id_of(_start_payload("states", start))
    if given is None:
        policy = BUILT_IN.get(policy_id)
        if policy is None:
            raise MacpSessionError(
                f"the session is bound to policy {policy_id!r}, which is not built in: "
                "hand it to states(…, policy=), as client.get_policy has it"
            )
        return policy
    if given.policy_id != policy_id:
        raise MacpSessionError(
            f"the session is bound to policy {policy_id!r}, and states was given {given.policy_id!r}"
        )
    return given


def _apply(fold: Fold[S], accepted: Accepted) -> None:
    try:
        fold.take(accepted)
    except MacpRefusedError as refusal:
        raise MacpSessionError(
            f"{accepted.message_type} {accepted.message_id!r} (sequence {accepted.sequence}) was accepted, and the policy "
            f"{fold.bound.policy.policy_id!r} that states was given refuses it: so the session is bound to another one. {refusal}"
        ) from refusal
