"""The author of a scenario: says what a session needs, and between that, with a chance, what it should refuse."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

from google.protobuf.message import Message
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Envelope

from tests.differential.hostile import odd_credential, odd_page_token, odd_session_id, scrambled, spoiled
from tests.differential.policies import random_policy
from tests.differential.steps import (
    PAYLOADS,
    Call,
    Close,
    Frame,
    Metadata,
    Open,
    Pause,
    Scenario,
    Step,
    bearer,
    page_token,
    payload_class,
)

__all__ = ["FUTURE", "OVERDUE", "Script"]

OVERDUE = 1
"""A start stamped 1970: accepted as open, over at the next touch. Expiry without waiting."""

FUTURE = 4_102_444_800_000
"""The year 2100."""

TIMESTAMPS = [0, 0, 0, 0, 1_700_000_000_000, 1_700_000_000_123, 1, -1, FUTURE, 2**63 - 1, -(2**63)]
NAMES = ["alice", "bob", "carol", "dave", "Erin", "frank-2"]
IDS = ["p1", "p2", "p3"]
"""Ids of proposals, tasks, handoffs and requests: few, so that messages meet."""

TYPES = ["SessionStart", "Commitment", "Signal", "Progress", "SessionCancel", "SessionSuspend", "SessionResume"]
FOREIGN = [
    "TtlExpired",
    "vote",
    "VOTE",
    "Vote ",
    "Proposal",
    "Approve",
    "TaskRequest",
    "Contribute",
    "Unknown",
    "\u0056ote",
]

FIELDS: dict[str, list[Any]] = {
    "recommendation": ["APPROVE", "REVIEW", "BLOCK", "REJECT", "Approve", "approve", ""],
    "severity": ["low", "medium", "high", "critical", "critical", "CRITICAL", ""],
    "vote": ["APPROVE", "APPROVE", "REJECT", "ABSTAIN", "approve", ""],
    "confidence": [0.0, 0.2, 0.5, 0.79, 0.8, 1.0],
    "progress": [0.0, 0.5, 1.0, 2.0],
    "total": [0.0, 1.0],
    "option": ["canary", "all at once", "nothing", "Blau", "gelb ✓"],
    "status": ["", "working", "blocked"],
    "value": ["yes", "yes", "no", "ja ✓"],
    "required_approvals": [1, 1, 2, 2, 3, 0, 99],
    "terminal": [False, False, True],
    "retryable": [True, False],
    "implicit": [False],
    "tags": [[], ["a"], ["b", "a"]],
    "deadline_unix_ms": [0, OVERDUE, FUTURE],
    "signal_type": ["hint", "hint", "", " "],
}
"""What is plausible in a field; text and bytes that mean nothing are made up."""

POSITIVE = [
    "decision.selected",
    "decision.approved",
    "proposal.accepted",
    "task.completed",
    "handoff.accepted",
    "quorum.approved",
]
NEGATIVE = [
    "decision.rejected",
    "decision.declined",
    "proposal.rejected",
    "task.failed",
    "handoff.declined",
    "quorum.rejected",
]
FREE = [
    "unaccepted",
    "REJECTED",
    "decision.undecided",
    "x",
    "selected.",
    "multi_round.converged",
    "unfailed",
    "approved",
]


class Script:
    """One scenario in the making.

    Args:
        seed: what it is made from.
        mode: the mode of its session.
        own_mode: whether the mode is an extension that this scenario registers.
    """

    def __init__(self, seed: str, mode: str, *, own_mode: bool = False) -> None:
        self.random = Random(seed)
        self.seed = seed
        self.tag = seed.replace(":", "-")
        self.mode = f"ext.{self.tag}.v1" if own_mode else mode
        self.agents = [
            f"agent://{self.tag}/{name}" for name in self.random.sample(NAMES, self.random.choice([2, 3, 3, 4, 5]))
        ]
        self.initiator = self.agents[0]
        self.outsider = f"agent://{self.tag}/mallory"
        self.participants = self.agents[:] if self.chance(0.8) else self.agents[1:]
        self.session_id = self.valid_session_id()
        self.ttl_ms = self.random.choice([600_000, 600_000, 86_400_000])
        self.configuration_version = self.random.choice(["c1", "config.default", "ü"])
        self.policy_id = ""
        self.short_suspensions = False
        self.message_types: Sequence[str] = ()
        self.steps: list[Step] = []
        self._message_ids: list[str] = []
        self._readers: dict[str, str] = {}
        self._names: set[str] = {self.mode} if own_mode else set()
        self._streams: list[tuple[int, str]] = []
        self._opened = 0
        self._made = 0

    # Chance

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.random.random() < probability

    def anyone(self) -> str:
        """An agent, seldom an outsider."""
        return self.outsider if self.chance(0.07) else self.random.choice(self.agents)

    def participant(self) -> str:
        """Somebody on the roster; the initiator if there is none."""
        return self.random.choice(self.participants or [self.initiator])

    def token(self) -> str:
        """A string that nobody else has."""
        return f"{self.random.getrandbits(128):032x}"

    def valid_session_id(self) -> str:
        """A session id in one of the forms that are allowed."""
        made = uuid.UUID(int=self.random.getrandbits(128), version=4)
        seven = str(made)[:14] + "7" + str(made)[15:]
        forms = [str(made), seven, made.hex, self.token()[:22], f"{self.token()}_-{'a' * 94}", f"----{self.token()}"]
        return self.random.choices(forms, [0.6, 0.1, 0.1, 0.08, 0.06, 0.06])[0]

    # Messages

    def filled(self, message_type: str, *, mode: str | None = None, **fields: Any) -> Message:
        """A plausible payload: what is not given is chosen from `FIELDS`, the agents, and a few ids."""
        cls = payload_class(mode or self.mode, message_type)
        assert cls is not None, message_type
        payload = cls()
        for field in cls.DESCRIPTOR.fields:
            value = fields[field.name] if field.name in fields else self._plausible(field.name)
            if value is None or field.message_type is not None:
                continue
            if field.is_repeated:
                getattr(payload, field.name).extend(value)
            else:
                setattr(payload, field.name, value)
        return payload

    def _plausible(self, name: str) -> Any:
        if name in FIELDS:
            return self.random.choice(FIELDS[name])
        if name in ("assignee", "accepted_by", "declined_by"):
            return ""
        if name in ("requested_assignee", "target_participant"):
            return self.participant()
        if name in ("supporting_data", "details", "input", "partial_output", "output", "context", "data"):
            return self.random.choice([b"", b"{}", b"\x00\xff"])
        if name.endswith("_id"):
            return self.random.choice(IDS)
        return self.random.choice(["", name, f"{name} ✓"])

    def commitment(self, *, positive: bool, **fields: Any) -> core_pb2.CommitmentPayload:
        """A commitment that should pass, unless ``fields`` say otherwise."""
        actions = FREE if self.chance(0.15) else POSITIVE if positive else NEGATIVE
        payload = core_pb2.CommitmentPayload(
            commitment_id=self.random.choice(["c1", "c2"]),
            action=self.random.choice(actions),
            authority_scope="team",
            reason="agreed",
            mode_version="1.0.0",
            configuration_version=self.configuration_version,
            policy_version=self.policy_id if self.chance(0.1) else "",
            outcome_positive=positive,
        )
        if self.chance(0.1):
            payload.supersedes.session_id = self.random.choice([self.valid_session_id(), "x", "", " "])
            digest = f"sha256:{self.random.getrandbits(256):064x}"
            odd = [digest.upper(), digest + "\n", digest[:-1], "sha256:", "", digest.replace("sha256", "sha512")]
            payload.supersedes.commitment_hash = self.random.choice([digest, digest, digest, *odd])
        for name, value in fields.items():
            setattr(payload, name, value)
        return payload

    def envelope(self, sender: str, message_type: str, payload: Message | bytes, **fields: Any) -> Envelope:
        """An envelope for this scenario's session, with an id of its own."""
        self._made += 1
        values: dict[str, Any] = {
            "macp_version": "1.0",
            "mode": self.mode,
            "message_type": message_type,
            "message_id": f"m{self._made}",
            "session_id": self.session_id,
            "sender": sender,
            "timestamp_unix_ms": self.random.choice(TIMESTAMPS),
            "payload": payload if isinstance(payload, bytes) else payload.SerializeToString(deterministic=True),
        }
        return Envelope(**{**values, **fields})

    def say(self, sender: str, message_type: str, payload: Message | bytes | None = None, **fields: Any) -> None:
        """Sends what should be right; before it, with a chance, something that is wrong, and after it the same again."""
        payload = self.filled(message_type, **fields) if payload is None else payload
        while self.chance(0.16):
            self.say_wrong(sender, message_type, payload)
        while self.chance(0.25):
            self.interlude()
        if self.chance(0.04):
            return
        envelope = self.envelope(sender, message_type, payload)
        self.send(envelope)
        self._message_ids.append(envelope.message_id)
        if self.chance(0.05):
            self._repeat(envelope)

    def say_wrong(self, sender: str, message_type: str, payload: Message | bytes) -> None:
        """Sends a message with something wrong in it."""
        names = [*self.agents, self.outsider, *IDS]
        choice = self.random.random()
        if choice < 0.4 and isinstance(payload, Message):
            self.send(self.envelope(sender, message_type, spoiled(self.random, payload, names)))
        elif choice < 0.55:
            raw = payload if isinstance(payload, bytes) else payload.SerializeToString(deterministic=True)
            self.send(self.envelope(sender, message_type, scrambled(self.random, raw)))
        elif choice < 0.7:
            self.send(self.envelope(self.anyone(), message_type, payload))
        elif choice < 0.97:
            envelope, metadata = self._spoiled_envelope(self.envelope(sender, message_type, payload))
            self.send(envelope, metadata)
        else:
            self._send_raw(self.envelope(sender, message_type, payload))

    def _spoiled_envelope(self, envelope: Envelope) -> tuple[Envelope, Metadata]:
        caller = envelope.sender
        pick = self.random.choice
        match self.random.randrange(9):
            case 0:
                envelope.macp_version = pick(["", "1", "1.0 ", "1.1", "2.0", "v1.0", "1.00"])
            case 1:
                envelope.message_type = pick(["", " ", *TYPES, *FOREIGN])
            case 2:
                envelope.message_id = pick(
                    ["", " ", "implicit-accept:", "implicit-accept:p1", "Implicit-Accept:p1", "é"]
                )
            case 3:
                modes = [*PAYLOADS, "", " ", "\u3000", "macp.mode.x.v1", self.mode.upper(), self.mode + " "]
                envelope.mode = pick(modes)
            case 4:
                envelope.session_id = pick(["", " ", self.token(), self.session_id.upper(), self.session_id + "a"])
            case 5:
                envelope.sender = pick(["", " ", self.outsider, caller.upper(), caller + " ", *self.agents])
            case 6:
                return envelope, odd_credential(self.random, caller, self.outsider)
            case 7 if self._message_ids:
                envelope.message_id = pick(self._message_ids)
            case _:
                size = pick([1_048_576, 1_048_577, 1_100_000]) if self.chance(0.04) else pick([1, 3, 300])
                envelope.payload = self.random.randbytes(1) * size
        return envelope, bearer(caller)

    def _repeat(self, envelope: Envelope) -> None:
        """The same message id once more: from the same sender or another, with the same content or another."""
        again = Envelope()
        again.CopyFrom(envelope)
        if self.chance(0.4):
            again.sender = self.anyone()
        if self.chance(0.3):
            again.payload = b"\xff"
        if self.chance(0.2):
            again.message_type = self.random.choice(["Commitment", "SessionStart", "Unknown"])
        if self.chance(0.1):
            again.mode = self.random.choice(list(PAYLOADS))
        self.send(again)

    def send(self, envelope: Envelope, metadata: Metadata | None = None) -> None:
        """By Send, or in one of six cases on a stream of its sender's.

        Not an offer that may be accepted implicitly: when a stream says so is open, at the deadline or with the next message.
        """
        if envelope.message_type == "SessionStart":
            self._readers.setdefault(envelope.session_id, envelope.sender)
        if metadata is None:
            metadata = bearer(envelope.sender)
        timed = envelope.message_type == "HandoffOffer" and self.policy_id
        if not timed and self.chance(1 / 6) and len(metadata) == 1 and metadata[0][1].startswith("Bearer agent:"):
            self.frame(metadata[0][1].removeprefix("Bearer "), core_pb2.StreamSessionRequest(envelope=envelope))
        else:
            self.call("Send", core_pb2.SendRequest(envelope=envelope), metadata)
        self._observe_offer(envelope)

    def _send_raw(self, envelope: Envelope) -> None:
        """The whole request scrambled, not only the payload."""
        raw = scrambled(self.random, core_pb2.SendRequest(envelope=envelope).SerializeToString(deterministic=True))
        self.steps.append(Call("Send", bearer(envelope.sender), raw))
        self._observe_offer(envelope)

    def _observe_offer(self, envelope: Envelope) -> None:
        """Lets an implicit accept come due, and be seen, before anything else happens (only where a policy may set one)."""
        if envelope.message_type == "HandoffOffer" and self.policy_id:
            self.steps.append(Pause(0.03))
            context = self.envelope(self.initiator, "HandoffContext", self.filled("HandoffContext"))
            self.call("Send", core_pb2.SendRequest(envelope=context), self.initiator)

    def call(self, method: str, request: Message, who: str | Metadata) -> None:
        """A unary RPC."""
        metadata = bearer(who) if isinstance(who, str) else who
        self.steps.append(Call(method, metadata, request.SerializeToString(deterministic=True)))

    # Streams

    def frame(self, caller: str, request: core_pb2.StreamSessionRequest | bytes) -> int:
        """Writes a frame on a stream of the caller's; mostly one that is open."""
        mine = [stream for stream, owner in self._streams if owner == caller]
        stream = self.random.choice(mine) if mine and self.chance(0.75) else self._open(caller)
        raw = request if isinstance(request, bytes) else request.SerializeToString(deterministic=True)
        self.steps.append(Frame(stream, raw))
        return stream

    def _open(self, caller: str) -> int:
        if len(self._streams) >= 3:
            oldest, _owner = self._streams.pop(0)
            self.steps.append(Close(oldest))
        self._opened += 1
        self._streams.append((self._opened, caller))
        self.steps.append(Open(self._opened, bearer(caller)))
        return self._opened

    def subscribe(self, caller: str) -> None:
        """A subscription, mostly to this session from its start."""
        after = self.random.choice([0, 0, 0, 1, 2, 3, 50, 2**64 - 1])
        session_id = self.session_id if self.chance(0.92) else self.random.choice([self.token(), "x", " "])
        self.frame(caller, core_pb2.StreamSessionRequest(subscribe_session_id=session_id, after_sequence=after))

    def _odd_frame(self) -> None:
        caller = self.anyone()
        envelope = self.envelope(caller, "Unknown", b"")
        ambient = self.envelope(caller, "Signal", b"", session_id="", mode="")
        frames = [
            core_pb2.StreamSessionRequest(),
            core_pb2.StreamSessionRequest(after_sequence=1),
            core_pb2.StreamSessionRequest(envelope=Envelope()),
            core_pb2.StreamSessionRequest(envelope=envelope, subscribe_session_id=self.session_id),
            core_pb2.StreamSessionRequest(envelope=ambient),
            core_pb2.StreamSessionRequest(envelope=self.envelope(caller, "Progress", b"")),
            core_pb2.StreamSessionRequest(envelope=self.envelope(caller, "Commitment", b"", session_id=self.token())),
        ]
        frame: core_pb2.StreamSessionRequest | bytes = self.random.choice(frames)
        if self.chance(0.1):
            frame = scrambled(self.random, frame.SerializeToString(deterministic=True))
        self.frame(caller, frame)

    # What happens between messages

    def interlude(self) -> None:
        """Something beside the session's own course."""
        deeds = {
            self._read: 22,
            self._list_sessions: 8,
            self._signal: 12,
            self._suspend: 8,
            self._control_as_anyone: 3,
            self._cancel: 0.8,
            self._what_if: 10,
            self._receipt: 6,
            self._watch: 14,
            self._odd_frame: 8,
            self._policies: 10,
            self._modes: 6,
            self._public: 4,
            self._scrambled_call: 3,
            self._wander: 14,
        }
        self.random.choices(list(deeds), list(deeds.values()))[0]()

    def _read(self) -> None:
        session_id = self.session_id if self.chance(0.93) else self.random.choice(["", "x", self.token()])
        who = odd_credential(self.random, self.initiator, self.outsider) if self.chance(0.1) else bearer(self.anyone())
        self.call("GetSession", core_pb2.GetSessionRequest(session_id=session_id), who)

    def _watch(self) -> None:
        self.subscribe(self.anyone())

    def _list_sessions(self) -> None:
        near = page_token(self.session_id[:-1])
        size = self.random.choice([0, 1, 1, 2, 3, 1000, 1001, 2**31 - 1, -1, -(2**31)])
        token = near if self.chance(0.7) else odd_page_token(self.random, self.session_id)
        who = () if self.chance(0.03) else self.anyone()
        self.call("ListSessions", core_pb2.ListSessionsRequest(page_size=size, page_token=token), who)

    def _signal(self) -> None:
        caller = self.anyone()
        message_type = self.random.choice(["Signal", "Signal", "Progress"])
        payload = self.filled(message_type, mode="").SerializeToString(deterministic=True)
        if self.chance(0.25):
            payload = self.random.choice([b"", scrambled(self.random, payload)])
        places = [("", ""), ("", ""), ("", " "), (self.session_id, self.mode), (self.session_id, ""), ("", self.mode)]
        session_id, mode = self.random.choice([*places, (self.token(), "bogus")])
        envelope = self.envelope(caller, message_type, payload, session_id=session_id, mode=mode)
        if self.chance(0.1):
            envelope.sender = ""
        self.call("Send", core_pb2.SendRequest(envelope=envelope), caller)

    def _suspend(self) -> None:
        for _ in range(self.random.choice([1, 1, 2])):
            self._control("Suspend", self.initiator)
            for _ in range(self.random.choice([0, 0, 1, 2])):
                self._wander()
            self._control("Resume", self.initiator)

    def _control_as_anyone(self) -> None:
        self._control(self.random.choice(["Cancel", "Suspend", "Resume"]), self.anyone())
        self._control("Resume", self.initiator)

    def _cancel(self) -> None:
        self._control("Cancel", self.initiator)

    def _control(self, verb: str, caller: str) -> None:
        request = getattr(core_pb2, f"{verb}SessionRequest")
        session_id = self.session_id if self.chance(0.95) else self.random.choice(["", self.token()])
        who = () if self.chance(0.02) else caller
        reason = self.random.choice(["", "because", "weil ✓"])
        self.call(f"{verb}Session", request(session_id=session_id, reason=reason), who)
        if verb == "Suspend" and self.short_suspensions:
            self.steps.append(Pause(0.03))

    def _what_if(self) -> None:
        candidate = self.policy(
            self.random.choice(["", " ", "policy.default", "policy.std.majority", f"what-if-{self.tag}"])
        )
        request = policy_pb2.WhatIfReplayRequest(session_id=self.session_id, candidate=candidate)
        if self.chance(0.05):
            request.ClearField("candidate")
        self.call("WhatIfReplay", request, self.anyone())

    def _receipt(self) -> None:
        request = core_pb2.GetDecisionReceiptRequest(session_id=self.session_id)
        self.call("GetDecisionReceipt", request, self.anyone())

    def policy(self, policy_id: str, mode: str | None = None) -> policy_pb2.PolicyDescriptor:
        """A random policy, for this scenario's mode unless told otherwise."""
        return random_policy(self.random, policy_id, mode or self.mode, [*self.agents, self.outsider])

    def register(self, policy: policy_pb2.PolicyDescriptor) -> None:
        """Registers a policy."""
        self._names.add(policy.policy_id)
        self.call("RegisterPolicy", policy_pb2.RegisterPolicyRequest(policy_descriptor=policy), self.anyone())

    def _policies(self) -> None:
        own = [*(name for name in sorted(self._names) if name != self.mode), f"none-{self.tag}"]
        reserved = ["policy.default", "policy.std.majority", "policy.std.nope", "", " ", "\u3000"]
        name = self.random.choice(own) if self.chance(0.7) else self.random.choice(reserved)
        caller = self.anyone()
        match self.random.randrange(6):
            case 0:
                self.register(self.policy(f"{self.tag}-policy-{self.random.randrange(3)}"))
            case 1:
                refused = self.policy(self.random.choice([*reserved, "policy.std.supermajority"]))
                self.call("RegisterPolicy", policy_pb2.RegisterPolicyRequest(policy_descriptor=refused), caller)
            case 2:
                self.call("UnregisterPolicy", policy_pb2.UnregisterPolicyRequest(policy_id=name), caller)
            case 3:
                self.call("GetPolicy", policy_pb2.GetPolicyRequest(policy_id=name), caller)
            case 4:
                mode = self.random.choice(["", "*", self.mode, *PAYLOADS])
                self.call("ListPolicies", policy_pb2.ListPoliciesRequest(mode=mode), caller)
            case _:
                method = self.random.choice(["RegisterPolicy", "UnregisterPolicy", "GetPolicy", "ListPolicies"])
                self.steps.append(Call(method, self.random.choice([(), bearer(caller)]), b""))

    def descriptor(self, name: str) -> core_pb2.ModeDescriptor:
        """A mode that can be registered."""
        return core_pb2.ModeDescriptor(
            mode=name,
            mode_version="1.0.0",
            title=self.random.choice(["", "Own"]),
            description="of one scenario",
            determinism_class=self.random.choice(["", "structural-only"]),
            participant_model="peer",
            message_types=[*self.random.choice([[], ["SessionStart"]]), "Ping", "Pong", "Commitment"],
            terminal_message_types=["Commitment"],
            schema_uris={"protobuf": "x"} if self.chance(0.5) else {},
        )

    def register_mode(self, name: str) -> None:
        """Registers an extension mode, perhaps after a try that is wrong."""
        self._names.add(name)
        if self.chance(0.4):
            wrong = self.descriptor(name)
            match self.random.randrange(7):
                case 0:
                    wrong.mode = self.random.choice(["", "macp.mode.own.v1", "macp.mode.task.v1", "ext.multi_round.v1"])
                case 1:
                    del wrong.message_types[:]
                case 2:
                    wrong.mode_version = self.random.choice(["", " ", "\u3000"])
                case 3:
                    del wrong.terminal_message_types[:]
                case 4:
                    wrong.terminal_message_types.append(self.random.choice(["Ping", "Commitment", ""]))
                case 5:
                    wrong.message_types.remove("Commitment")
                case _:
                    wrong.message_types.append(self.random.choice(["", " ", "Ping", "SessionStart"]))
            self.call("RegisterExtMode", core_pb2.RegisterExtModeRequest(mode_descriptor=wrong), self.anyone())
        request = core_pb2.RegisterExtModeRequest(mode_descriptor=self.descriptor(name))
        self.call("RegisterExtMode", request, self.anyone())

    def promote_mode(self) -> None:
        """Makes the mode standards-track, perhaps under another name."""
        name = self.random.choice(["", f"std.{self.tag}"])
        self._names.add(f"std.{self.tag}")
        request = core_pb2.PromoteModeRequest(mode=self.mode, promoted_mode_name=name)
        self.call("PromoteMode", request, self.initiator)
        self.mode = name or self.mode

    def remove_mode(self) -> None:
        """Takes the mode away."""
        self.call("UnregisterExtMode", core_pb2.UnregisterExtModeRequest(mode=self.mode), self.initiator)

    def _modes(self) -> None:
        spare = f"ext.{self.tag}.spare"
        caller = self.anyone()
        names = [spare, spare, "", " ", "macp.mode.task.v1", f"ext.{self.tag}.none"]
        name = self.random.choice(names)
        match self.random.randrange(7):
            case 0:
                self.register_mode(spare)
            case 1:
                request = core_pb2.UnregisterExtModeRequest(mode=self.random.choice([*names, "ext.multi_round.v1"]))
                self.call("UnregisterExtMode", request, caller)
            case 2 | 3:
                promoted = [f"std.{self.tag}.spare", "", " ", "macp.mode.own.v1", "ext.multi_round.v1", spare]
                request = core_pb2.PromoteModeRequest(mode=name, promoted_mode_name=self.random.choice(promoted))
                self._names.add(promoted[0])
                self.call("PromoteMode", request, caller)
            case 4:
                self.call("ListModes", core_pb2.ListModesRequest(), caller)
            case 5:
                self.call("ListExtModes", core_pb2.ListExtModesRequest(), caller)
            case _:
                method = self.random.choice(["RegisterExtMode", "UnregisterExtMode", "PromoteMode"])
                self.steps.append(Call(method, self.random.choice([(), bearer(caller)]), b""))

    def _public(self) -> None:
        versions = self.random.choice([["1.0"], ["0.9", "1.0"], [], ["2.0"], ["1.0 "], [""]])
        requests: list[tuple[str, Message]] = [
            ("Initialize", core_pb2.InitializeRequest(supported_protocol_versions=versions)),
            ("GetManifest", core_pb2.GetManifestRequest(agent_id=self.random.choice(["", "nobody", " "]))),
            ("ListRoots", core_pb2.ListRootsRequest()),
            ("GetReceiptKeys", core_pb2.GetReceiptKeysRequest()),
            ("Send", core_pb2.SendRequest()),
        ]
        method, request = self.random.choice(requests)
        self.call(method, request, self.random.choice(["", self.initiator]))

    def _scrambled_call(self) -> None:
        requests: list[tuple[str, Message]] = [
            ("GetSession", core_pb2.GetSessionRequest(session_id=self.session_id)),
            ("GetPolicy", policy_pb2.GetPolicyRequest(policy_id=self.policy_id)),
            ("GetManifest", core_pb2.GetManifestRequest()),
            ("GetDecisionReceipt", core_pb2.GetDecisionReceiptRequest(session_id=self.session_id)),
            ("ListModes", core_pb2.ListModesRequest()),
            ("Initialize", core_pb2.InitializeRequest(supported_protocol_versions=["1.0"])),
        ]
        method, request = self.random.choice(requests)
        raw = scrambled(self.random, request.SerializeToString(deterministic=True))
        self.steps.append(Call(method, bearer(self.initiator), raw))

    def _wander(self) -> None:
        """A message of the mode from anyone, whatever the session has come to."""
        message_type = self.random.choice(self.message_types)
        sender = self.anyone()
        if message_type == "Commitment":
            payload: Message = self.commitment(positive=self.chance(0.5))
        elif payload_class(self.mode, message_type) is None:
            self.send(self.envelope(sender, message_type, self.random.randbytes(self.random.randrange(9))))
            return
        else:
            payload = self.filled(message_type)
        self.send(self.envelope(sender, message_type, payload))

    # Beginning and end

    def start_payload(self, **fields: Any) -> core_pb2.SessionStartPayload:
        """The start of this scenario's session."""
        values: dict[str, Any] = {
            "intent": self.random.choice(["", "pick one"]),
            "participants": self.participants,
            "mode_version": "1.0.0",
            "configuration_version": self.configuration_version,
            "policy_version": self.policy_id,
            "ttl_ms": self.ttl_ms,
            "context_id": self.random.choice(["", "context"]),
            "max_suspend_ms": 1 if self.short_suspensions else self.random.choice([0, 0, 60_000_000]),
        }
        payload = core_pb2.SessionStartPayload(**{**values, **fields})
        if self.chance(0.2):
            payload.roots.add(uri="file:///x", name="x")
            payload.extensions["com.example.a"] = b"1"
            payload.extensions["com.example.b"] = b""
        return payload

    def start(self) -> None:
        """Opens the session; before that, with a chance, what should not open one."""
        if self.chance(0.55):
            self.policy_id = f"{self.tag}-policy"
            self.register(self.policy(self.policy_id))
        elif self.chance(0.15):
            self.policy_id = self.random.choice(
                ["policy.default", "policy.std.majority", "policy.std.supermajority", "policy.std.unanimous"]
            )
        self.short_suspensions = self.chance(0.03)
        payload = self.start_payload()
        while self.chance(0.3):
            self._start_wrong(payload)
        while self.chance(0.1):
            self.interlude()
        timestamp = self.random.choices([0, 1_700_000_000_000, FUTURE, -1], [0.8, 0.03, 0.14, 0.03])[0]
        envelope = self.envelope(self.initiator, "SessionStart", payload, timestamp_unix_ms=timestamp)
        self.send(envelope)
        self._message_ids.append(envelope.message_id)
        if self.policy_id:  # in case the policy could not be bound
            plain = self.start_payload(policy_version="")
            self.send(self.envelope(self.initiator, "SessionStart", plain, timestamp_unix_ms=timestamp))
        if self.chance(0.05):
            self._repeat(envelope)
        if self.chance(0.5):
            self.subscribe(self.participant())

    def _start_wrong(self, payload: core_pb2.SessionStartPayload) -> None:
        timestamp = self.random.choice([0, 0, 0, OVERDUE, FUTURE, 2**63 - 1, -(2**63)])
        sender = self.initiator
        session_id = self.session_id
        content: Message | bytes = payload
        match self.random.randrange(6):
            case 0 | 1:
                session_id = odd_session_id(self.random, self.token) if self.chance(0.7) else self.valid_session_id()
            case 2 | 3:
                content = spoiled(self.random, payload, [*self.agents, "policy.default"])
            case 4:
                content = scrambled(self.random, payload.SerializeToString(deterministic=True))
            case _:
                envelope = self.envelope(sender, "SessionStart", payload, timestamp_unix_ms=0)
                self.send(*self._spoiled_envelope(envelope))
                return
        if session_id == self.session_id and timestamp == OVERDUE and self.chance(0.8):
            timestamp = 0
        self.send(self.envelope(sender, "SessionStart", content, session_id=session_id, timestamp_unix_ms=timestamp))

    def commit(self, committers: Iterable[str] = ()) -> None:
        """Tries to commit, either way, until it should have worked."""
        for committer in [*committers, self.initiator, *self.random.sample(self.agents, 2), self.initiator]:
            self.say(committer, "Commitment", self.commitment(positive=self.chance(0.5)))

    def finish(self) -> Scenario:
        """Closes what is open and looks at everything that may have come of it."""
        for stream, _owner in self._streams:
            self.steps.append(Close(stream))
        self._streams.clear()
        for session_id, reader in self._readers.items():
            self.call("GetSession", core_pb2.GetSessionRequest(session_id=session_id), reader)
            self.call("GetDecisionReceipt", core_pb2.GetDecisionReceiptRequest(session_id=session_id), reader)
            if session_id and reader.startswith("agent:"):
                stream = self._open(reader)
                history = core_pb2.StreamSessionRequest(subscribe_session_id=session_id)
                self.steps += [Frame(stream, history.SerializeToString(deterministic=True)), Close(stream)]
                self._streams.clear()
        self._what_if()
        request = core_pb2.ListSessionsRequest(page_size=1, page_token=page_token(self.session_id[:-1]))
        self.call("ListSessions", request, self.initiator)
        return Scenario(
            seed=self.seed,
            steps=tuple(self.steps),
            session_ids=frozenset(self._readers),
            agents=frozenset([*self.agents, self.outsider]),
            names=frozenset(self._names),
        )
