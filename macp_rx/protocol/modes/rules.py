"""What the modes' rules have in common: refusals, decoding, and lists that share structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from macp.v1.envelope_pb2 import Envelope

from macp_rx.errors import MacpRefusedError
from macp_rx.protocol.binding import Binding
from macp_rx.protocol.commitment import check_authority
from macp_rx.protocol.wire import parse

__all__ = ["Link", "authorize", "decoded", "forbidden", "initiator_commits", "invalid", "need_roster"]

M = TypeVar("M", bound=Protobuf)
T = TypeVar("T")


def invalid(message: str) -> MacpRefusedError:
    """A refusal with INVALID_ENVELOPE, the protocol's code for whatever breaks a mode's rule."""
    return MacpRefusedError("INVALID_ENVELOPE", message)


def forbidden(message: str) -> MacpRefusedError:
    """A refusal with FORBIDDEN."""
    return MacpRefusedError("FORBIDDEN", message)


def decoded(envelope: Envelope, cls: type[M]) -> M:
    """The payload; empty bytes are a message with every field at its default. Raises INVALID_ENVELOPE."""
    try:
        return parse(cls, envelope.payload)
    except DecodeError:
        raise invalid(f"the payload is no {cls.__name__}") from None


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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Link(Generic[T]):
    """A list that grows at its end and shares the rest, so that a step costs the same at the 5,000th message.

    Compared and shown as the tuple of its items: what a dataclass does by itself would recurse once per item.

    Attributes:
        item: the newest.
        earlier: the others.
    """

    item: T
    earlier: Link[T] | None

    def __iter__(self) -> Iterator[T]:
        """From the oldest to the newest."""
        items: list[T] = []
        link: Link[T] | None = self
        while link is not None:
            items.append(link.item)
            link = link.earlier
        return reversed(items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Link):
            return NotImplemented
        return self is other or tuple(self) == tuple(cast("Link[object]", other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Link{tuple(self)!r}"
