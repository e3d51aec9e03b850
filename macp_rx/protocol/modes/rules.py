"""What the modes' rules have in common: who may say what."""

from __future__ import annotations

from macp_rx.protocol.binding import Binding
from macp_rx.protocol.commitment import check_authority
from macp_rx.protocol.refusals import forbidden, invalid

__all__ = ["authorize", "initiator_commits", "need_roster"]


def authorize(session: Binding, sender: str, message_type: str, *, initiator_only: str = "") -> None:
    """The rule of most modes: commitments by authority, one opening type by the initiator, the rest by participants.

    Args:
        session: what the session is bound to.
        sender: who speaks.
        message_type: what it says; an unknown type is a participant's to say, and is refused by the step.
        initiator_only: the type that only the initiator may say.
    """
    if message_type == "Commitment":
        check_authority(session, sender)
    elif message_type == initiator_only:
        if sender != session.initiator:
            raise forbidden(f"only the initiator says {message_type}")
    elif sender not in session.participants:
        raise forbidden(f"{sender!r} is no participant")


def initiator_commits(session: Binding, sender: str, message_type: str) -> None:
    """The rule of extension modes: the initiator commits, whatever the policy says, and participants say the rest.

    Without participants anybody may; only a mode that somebody registered allows that.
    """
    if message_type == "Commitment":
        if sender != session.initiator:
            raise forbidden("only the initiator commits in this mode")
    elif session.participants and sender not in session.participants:
        raise forbidden(f"{sender!r} is no participant")


def need_roster(session: Binding) -> None:
    """Raises INVALID_ENVELOPE for a session without participants."""
    if not session.participants:
        raise invalid("a session of this mode needs participants")
