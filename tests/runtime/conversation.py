"""A session that is spoken to envelope by envelope, so that each answer can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message as Protobuf
from macp.v1 import policy_pb2
from macp.v1.core_pb2 import CommitmentPayload, ParticipantActivity, SessionMetadata, SessionStartPayload
from macp.v1.envelope_pb2 import Envelope, SessionState

from macp_rx import MacpClient, MacpRefusedError, MacpTransportError, Message
from macp_rx.protocol.messages import message_type_of

__all__ = ["OK", "Conversation", "answer", "register"]

OK = "ok"


def answer(call: Callable[..., object], *args: object, **keywords: object) -> str:
    """What became of a call: ``ok``, ``duplicate``, the code of a refusal, or the status and code of a call that failed."""
    try:
        reply = call(*args, **keywords)
    except MacpRefusedError as refused:
        return refused.code
    except MacpTransportError as failed:
        return f"{failed.status} {failed.code}"
    return "duplicate" if getattr(reply, "duplicate", False) else OK


def register(client: MacpClient, build: Callable[..., policy_pb2.PolicyDescriptor], **rules: Any) -> str:
    """Registers a policy under an id of its own; returns the id."""
    policy_id = f"policy.test.{client.clock.new_id()}"
    client.register_policy(build(policy_id, **rules))
    return policy_id


class Conversation:
    """One session of a runtime, and everybody who may speak in it. Starts it, unless told not to.

    Args:
        client: a connection; everybody speaks over it.
        mode: the session's.
        participants: likewise.
        initiator: who starts it.
        policy: the policy's id.
        start: whether to start it.
        changes: other fields of its SessionStart.
    """

    def __init__(
        self,
        client: MacpClient,
        mode: str,
        participants: Sequence[str] = ("chair", "alice", "bob"),
        *,
        initiator: str = "chair",
        policy: str = "",
        start: bool = True,
        **changes: Any,
    ) -> None:
        self.client = client
        self.mode = mode
        self.initiator = initiator
        self.session_id = client.clock.new_id()
        self.opening = SessionStartPayload(
            intent="test",
            participants=participants,
            mode_version="1.0.0",
            configuration_version="c1",
            policy_version=policy,
            ttl_ms=60_000,
        )
        for name, value in changes.items():
            setattr(self.opening, name, value)
        if start:
            assert self.start() == OK

    def start(self, **envelope: Any) -> str:
        """Sends the SessionStart. Arguments: fields of its envelope."""
        return self.say(self.initiator, self.opening, **{"message_id": "start", **envelope})

    def say(self, sender: str, payload: Message | Protobuf | bytes, message_type: str = "", **envelope: Any) -> str:
        """Sends a message, and tells what became of it.

        Args:
            sender: who says it.
            payload: what; raw bytes for what no constructor makes.
            message_type: by default what the payload's class says.
            envelope: other fields of the envelope.
        """
        said = self.envelope(sender, payload, message_type, **envelope)
        return answer(self.client.acting_as(sender).send, said)

    def envelope(
        self, sender: str, payload: Message | Protobuf | bytes, message_type: str = "", **changes: Any
    ) -> Envelope:
        """The envelope that `say` sends."""
        if isinstance(payload, Message):
            payload = payload.payload
        if not isinstance(payload, bytes):
            message_type = message_type or message_type_of(payload)
            payload = payload.SerializeToString()
        fields = {
            "macp_version": "1.0",
            "mode": self.mode,
            "message_type": message_type,
            "message_id": self.client.clock.new_id(),
            "session_id": self.session_id,
            "sender": sender,
            "payload": payload,
        }
        return Envelope(**{**fields, **changes})

    def commitment(self, action: str = "settled", positive: bool = True, **changes: Any) -> CommitmentPayload:
        """A commitment that fits the session."""
        fields = {
            "commitment_id": "c1",
            "action": action,
            "authority_scope": "test",
            "reason": "because",
            "mode_version": self.opening.mode_version,
            "configuration_version": self.opening.configuration_version,
            "outcome_positive": positive,
        }
        return CommitmentPayload(**{**fields, **changes})

    def commit(
        self,
        sender: str = "chair",
        action: str = "settled",
        positive: bool = True,
        *,
        message_id: str = "",
        **changes: Any,
    ) -> str:
        """Sends a commitment, and tells what became of it. Arguments: as `commitment`."""
        return self.say(
            sender, self.commitment(action, positive, **changes), message_id=message_id or self.client.clock.new_id()
        )

    def history(self) -> list[Envelope]:
        """What was accepted."""
        reader = self.client.acting_as(self.initiator)
        return [accepted.envelope for accepted in reader.history(self.session_id)]

    def kinds(self) -> list[str]:
        """The types of what was accepted."""
        return [envelope.message_type for envelope in self.history()]

    def metadata(self) -> SessionMetadata:
        """What GetSession tells."""
        return self.client.acting_as(self.initiator).get_session(self.session_id).metadata

    def state(self) -> str:
        """The state that GetSession tells, such as ``OPEN``."""
        return SessionState.Name(self.metadata().state).removeprefix("SESSION_STATE_")

    def listed(self) -> str:
        """The state that ListSessions tells, which makes no session expire."""
        listed = self.client.acting_as(self.initiator).list_sessions()
        (found,) = (session for session in listed if session.session_id == self.session_id)
        return SessionState.Name(found.state).removeprefix("SESSION_STATE_")

    def activity(self, sender: str) -> ParticipantActivity | None:
        """What GetSession tells of what a sender did; None if nothing."""
        found = (one for one in self.metadata().participant_activity if one.participant_id == sender)
        return next(found, None)
