"""under_policy: which commitments a policy permits now."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from macp.v1 import policy_pb2
from macp.v1.core_pb2 import CommitmentPayload
from macp.v1.envelope_pb2 import Envelope
from reactivex import Observable, abc

from macp_rx.errors import Denial, MacpRefusedError, MacpSessionError
from macp_rx.operators.lift import each
from macp_rx.operators.roster import roster
from macp_rx.operators.states import Fold
from macp_rx.protocol.binding import Binding, Instant
from macp_rx.protocol.messages import Accepted
from macp_rx.protocol.modes import MODES
from macp_rx.protocol.policy import Policy, policy_from

__all__ = ["Denials", "Permitted", "under_policy"]


class Denials(NamedTuple):
    """Why a policy denies a commitment of each sign.

    Attributes:
        positive: why a positive one.
        negative: why a negative one.
    """

    positive: tuple[Denial, ...] = ()
    negative: tuple[Denial, ...] = ()


NO_DENIALS: Final = Denials()


@dataclass(frozen=True, slots=True)
class Permitted:
    """Which commitments would be accepted now, of somebody who may commit.

    Attributes:
        positive: a positive one would be.
        negative: a negative one would be.
        denials: why the policy denies one. A sign that is neither permitted nor denied is not the policy's to permit: nothing
            was proposed yet, say, or the session has been committed to.
    """

    positive: bool
    negative: bool
    denials: Denials = NO_DENIALS


def under_policy(
    policy: Policy | policy_pb2.PolicyDescriptor, participants: Collection[str]
) -> Callable[[Observable[Accepted]], Observable[Permitted]]:
    """Emits which commitments the runtime would accept now, if the session were bound to this policy; again when that changes.

    Not the question that ``majority`` and its like answer: a policy pools the votes of all proposals, a majority of 0.5 passes a
    tie, under the algorithm ``none`` the sign is free, and what it permits now it may deny after the next vote
    (`protocol.md` 4.2, 5.6). With another policy than the session's own it tells what WhatIfReplay tells: what that policy would
    have refused counts as not said.

    Args:
        policy: the policy, as ``client.get_policy`` or a builder has it.
        participants: the session's participants.

    Errors:
        MacpSessionError: the stream does not begin with the SessionStart, the session has other participants, is of another
            mode than the policy, or of a mode that is not built in.

    Marble:
        accepted   -S-p-v-w-C|
        > mo.under_policy(BUILT_IN["policy.std.majority"], ["chair", "alice", "bob", "carol"])
        permitted  -a-b-c-d-e|
        a: not it.positive and not it.negative and it.denials == ((), ())
        b: [denial.code for denial in it.denials.positive] == ["quorum_not_met", "no_votes"]
        c: it.positive and not it.negative and it.denials.negative[0].code == "decline_over_approval"
        d: it.positive and not it.negative
        e: not it.positive and not it.negative
    """
    bound_to = policy_from(policy)
    expected = roster("participants", participants)

    def operator(source: Observable[Accepted]) -> Observable[Permitted]:
        def rule(observer: abc.ObserverBase[Permitted]) -> Callable[[Accepted], None]:
            session: _Session | None = None
            last: Permitted | None = None

            def take(accepted: Accepted) -> None:
                nonlocal session, last
                if session is None:
                    session = _Session(accepted, bound_to, expected)
                else:
                    session.take(accepted)
                permitted = session.permitted()
                if permitted != last:
                    last = permitted
                    observer.on_next(permitted)

            return take

        return each(source, rule)

    return operator


class _Session:
    """A session's history, judged by a policy that may not be its own."""

    def __init__(self, start: Accepted, policy: Policy, participants: tuple[str, ...]) -> None:
        registered = MODES.get(start.mode)
        if registered is None:
            raise MacpSessionError(f"under_policy knows the modes that are built in, and {start.mode!r} is none")
        self._fold: Fold[Any] = Fold("under_policy", registered.mode, start, policy)
        bound = self._fold.bound
        if set(bound.participants) != set(participants):
            raise MacpSessionError(
                f"the session's participants are {', '.join(bound.participants)}, and under_policy was given "
                f"{', '.join(participants)}"
            )
        self._sequence = start.sequence
        self._ended = False
        self._positive, self._negative = _commitment(bound, positive=True), _commitment(bound, positive=False)

    def take(self, accepted: Accepted) -> None:
        if self._ended or accepted.sequence <= self._sequence:
            return
        self._sequence = accepted.sequence
        try:
            self._fold.take(accepted)
        except MacpRefusedError:  # under this policy it would not have been said
            return
        self._ended = accepted.message_type == "Commitment"

    def permitted(self) -> Permitted:
        if self._ended:
            return Permitted(False, False)
        positive, because = self._judged(self._positive)
        negative, because_not = self._judged(self._negative)
        return Permitted(positive, negative, Denials(because, because_not))

    def _judged(self, commitment: Envelope) -> tuple[bool, tuple[Denial, ...]]:
        """What becomes of a commitment: the mode itself is asked, so that there is one place which knows."""
        fold = self._fold
        try:
            fold.mode.step(fold.bound, fold.state, commitment, Instant(0))
        except MacpRefusedError as refusal:
            return False, refusal.denials
        return True, ()


def _commitment(bound: Binding, *, positive: bool) -> Envelope:
    payload = CommitmentPayload(
        commitment_id="if",
        action="settled",
        authority_scope="session",
        reason="would it be accepted?",
        mode_version=bound.mode_version,
        configuration_version=bound.configuration_version,
        outcome_positive=positive,
    )
    return Envelope(mode=bound.mode, message_type="Commitment", payload=payload.SerializeToString())
