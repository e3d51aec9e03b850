"""Random sessions under random policies, in which somebody tries again and again to commit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from macp.v1.policy_pb2 import PolicyDescriptor, WhatIfEntryOutcome
from reactivex import from_iterable
from reactivex import operators as ops

from macp_rx import Accepted, MacpClient, MacpRefusedError, Message
from macp_rx import operators as mo
from macp_rx.errors import Denial
from macp_rx.protocol.messages import DECISION, HANDOFF, PROPOSAL, QUORUM, TASK
from macp_rx.protocol.modes import decision, handoff, proposal, quorum, task
from macp_rx.protocol.policy import policy_from
from tests.differential.policies import random_rules
from tests.runtime.conversation import OK, Conversation

__all__ = ["COURSES", "Agreement", "compare"]

PEOPLE = ("chair", "alice", "bob", "carol")
Said = tuple[str, Message]


def decide(random: Random) -> Iterator[Said]:
    """Two proposals, evaluations and objections, votes on both."""
    for proposal_id in ("p1", "p2"):
        yield random.choice(PEOPLE), decision.propose(proposal_id, "one")
    for _ in range(random.randint(0, 3)):
        recommendation, confidence = random.choice(("APPROVE", "REVIEW", "BLOCK")), random.choice((0.4, 0.9))
        yield random.choice(PEOPLE), decision.evaluate("p1", recommendation, confidence=confidence)
    for _ in range(random.choice((0, 0, 1, 3))):
        severity = random.choice(("critical", "critical", "high"))
        yield random.choice(PEOPLE), decision.raise_objection("p2", reason="no", severity=severity)
    approval = random.choice((0.2, 0.5, 0.9))
    for voter in random.sample(PEOPLE, len(PEOPLE)):
        vote = "APPROVE" if random.random() < approval else random.choice(("REJECT", "ABSTAIN"))
        yield voter, decision.vote(random.choice(("p1", "p1", "p2")), vote)


def negotiate(random: Random) -> Iterator[Said]:
    """Proposals and counter-proposals, accepted, rejected, withdrawn."""
    yield "alice", proposal.propose("p1", "one")
    for proposal_id in ("p2", "p3"):
        if random.random() < 0.4:
            yield random.choice(PEOPLE), proposal.counter_propose(proposal_id, "p1", "another")
    chosen = random.choice(("p1", "p1", "p2"))
    for party in random.sample(PEOPLE, len(PEOPLE)):
        if random.random() < 0.15:
            yield party, proposal.reject(chosen, reason="no", terminal=random.random() < 0.5)
        if random.random() < 0.9:
            yield party, proposal.accept(chosen)
    if random.random() < 0.2:
        yield "alice", proposal.withdraw("p1")


def work(random: Random) -> Iterator[Said]:
    """A task that is rejected, taken, given back, reported on."""
    assignee = random.choice(PEOPLE[1:])
    yield (
        "chair",
        task.request_task("t1", "work", instructions="do it", requested_assignee=random.choice(("", assignee))),
    )
    if random.random() < 0.4:
        yield assignee, task.reject_task("t1")
    for worker in random.sample(PEOPLE[1:], 3):
        yield worker, task.accept_task("t1")
        if random.random() < 0.2:
            yield worker, task.reject_task("t1")
        elif random.random() < 0.4:
            yield worker, task.complete_task("t1", output=random.choice((b"", b"done")))
        elif random.random() < 0.3:
            yield worker, task.fail_task("t1")


def hand_over(random: Random) -> Iterator[Said]:
    """Offers, accepted or declined."""
    for number, target in enumerate(random.sample(PEOPLE[1:], 3)):
        yield "chair", handoff.offer(f"h{number}", target, scope="all")
        if random.random() < 0.7:
            answer = random.choice((handoff.accept_handoff, handoff.decline))
            yield target, answer(f"h{number}")


def approve(random: Random) -> Iterator[Said]:
    """A request and its ballots."""
    yield "chair", quorum.request_approval("r1", "deploy", required_approvals=random.randint(1, 4))
    approval = random.choice((0.2, 0.5, 0.9))
    for voter in random.sample(PEOPLE, len(PEOPLE)):
        ballot = quorum.approve if random.random() < approval else random.choice((quorum.reject, quorum.abstain))
        yield voter, ballot("r1")


COURSES: dict[str, Callable[[Random], Iterator[Said]]] = {
    DECISION: decide,
    PROPOSAL: negotiate,
    TASK: work,
    HANDOFF: hand_over,
    QUORUM: approve,
}
"""Mode -> a session's usual course; what is refused in it is no harm."""


@dataclass
class Agreement:
    """What was compared.

    Attributes:
        commitments: what became of the commitments that were tried: ``ok``, or a code.
        replayed: what WhatIfReplay said of those that were accepted, under another policy.
    """

    commitments: Counter[str] = field(default_factory=Counter[str])
    replayed: Counter[str] = field(default_factory=Counter[str])


def compare(client: MacpClient, seed: str, agreement: Agreement) -> None:
    """Plays one session; fails where the runtime does with a commitment, or says of one, what `mo.under_policy` does not.

    Args:
        client: a connection as ``chair``, who may register policies.
        seed: ``mode#number``.
        agreement: where it is counted.
    """
    mode = seed.partition("#")[0]
    random = Random(seed)
    policy = _policy(random, f"policy.test.{client.clock.new_id()}", mode)
    client.register_policy(policy)
    talk = Conversation(client, mode, PEOPLE, policy=policy.policy_id)
    resolved = False
    for sender, message in COURSES[mode](random):
        talk.say(sender, message)
        resolved = random.random() < 0.2 and _try(talk, policy, random.random() < 0.6, agreement)
        if resolved:
            break
    if resolved or any(_try(talk, policy, positive, agreement) for positive in (True, False)):
        for _ in range(3):
            _replay(talk, _candidate(random, policy), agreement)


def _policy(random: Random, policy_id: str, mode: str) -> PolicyDescriptor:
    rules = random_rules(random, mode, PEOPLE)
    if mode == HANDOFF:
        rules.pop("acceptance", None)  # real time decides about implicit accepts
    version = random.choice((1, 2, 3))
    return PolicyDescriptor(policy_id=policy_id, mode=mode, rules=json.dumps(rules), schema_version=version)


def _candidate(random: Random, policy: PolicyDescriptor) -> PolicyDescriptor:
    """Another policy, under which the same may commit: who may is another question."""
    candidate = _policy(random, "policy.candidate", policy.mode)
    rules, authority = json.loads(candidate.rules), json.loads(policy.rules).get("commitment", {})
    commitment = rules.setdefault("commitment", {})
    for key in ("authority", "designated_roles"):
        commitment.pop(key, None)
        if key in authority:
            commitment[key] = authority[key]
    candidate.rules = json.dumps(rules)
    return candidate


def _committer(policy: PolicyDescriptor) -> str:
    rules = policy_from(policy).rules.commitment
    return rules.designated_roles[0] if rules.authority == "designated_role" else "chair"


def _try(talk: Conversation, policy: PolicyDescriptor, positive: bool, agreement: Agreement) -> bool:
    """Tries to commit, and compares; whether it was accepted."""
    permitted = _permitted(_history(talk), policy)
    expected, because = _of(permitted, positive=positive)
    committer = talk.client.acting_as(_committer(policy))
    try:
        committer.send(talk.envelope(_committer(policy), talk.commitment(positive=positive)))
        became, denials = OK, ()
    except MacpRefusedError as refused:
        became, denials = refused.code, refused.denials
    assert (became == OK) == expected, f"{became} {denials}, and {permitted}"
    assert _codes(denials) == _codes(because)
    assert became in (OK, "POLICY_DENIED", "INVALID_ENVELOPE")
    assert (became == "POLICY_DENIED") == bool(because)
    agreement.commitments[became] += 1
    return became == OK


def _replay(talk: Conversation, candidate: PolicyDescriptor, agreement: Agreement) -> None:
    """Compares with what the runtime says of the commitment under another policy."""
    history = _history(talk)
    reply = talk.client.what_if_replay(talk.session_id, candidate)
    (entry,) = (entry for entry in reply.entries if entry.message_type == "Commitment")
    commitment = history[entry.history_index]
    permitted = _permitted(history[: entry.history_index], candidate)
    expected, because = _of(permitted, positive=commitment.payload.outcome_positive)  # type: ignore[attr-defined]
    outcome = entry.candidate
    assert (outcome.kind == WhatIfEntryOutcome.KIND_APPLIED) == expected, f"{outcome}, and {permitted}"
    assert _codes(MacpRefusedError("POLICY_DENIED", details=outcome.details).denials) == _codes(because)
    agreement.replayed[OK if expected else outcome.error_code] += 1
    last = _permitted(history, candidate)
    if expected:
        assert not last.positive
        assert not last.negative


def _history(talk: Conversation) -> list[Accepted]:
    return talk.client.history(talk.session_id).pipe(ops.to_list()).run()


def _permitted(history: Sequence[Accepted], policy: PolicyDescriptor) -> mo.Permitted:
    return from_iterable(history).pipe(mo.under_policy(policy, PEOPLE)).run()


def _of(permitted: mo.Permitted, *, positive: bool) -> tuple[bool, tuple[Denial, ...]]:
    if positive:
        return permitted.positive, permitted.denials.positive
    return permitted.negative, permitted.denials.negative


def _codes(denials: Sequence[Denial]) -> list[tuple[str, tuple[str, ...]]]:
    return [(denial.code, denial.participants) for denial in denials]
