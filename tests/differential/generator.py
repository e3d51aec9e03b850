"""Random sessions: each mode's usual course, written down once, with everything that `Script` throws in between."""

from __future__ import annotations

import json
from collections.abc import Callable

from macp.v1 import policy_pb2

from tests.differential.policies import odd_text
from tests.differential.script import Script
from tests.differential.steps import Scenario

__all__ = ["MODES", "generate"]


def generate(seed: str) -> Scenario:
    """The scenario of a seed, ``mode:number``. The same seed gives the same bytes, in every process."""
    mode = seed.partition(":")[0]
    name, course = MODES[mode]
    script = Script(seed, name, own_mode=mode == "passthrough")
    course(script)
    return script.finish()


def decision(script: Script) -> None:
    """Proposals, evaluations and objections, votes, a commitment."""
    script.message_types = ["Proposal", "Evaluation", "Objection", "Vote", "Commitment"]
    random = script.random
    script.start()
    proposals = random.sample(["p1", "p2", "p3"], random.choice([1, 1, 2, 3]))
    for proposal_id in proposals:
        script.say(script.participant(), "Proposal", proposal_id=proposal_id, option="canary")
    for _ in range(random.choice([0, 1, 2, 4])):
        script.say(
            script.participant(), random.choice(["Evaluation", "Objection"]), proposal_id=random.choice(proposals)
        )
    tendency = random.choice([0.1, 0.5, 0.9, 1])
    for voter in random.sample(script.participants, len(script.participants)):
        if script.chance(0.85):
            vote = "APPROVE" if script.chance(tendency) else random.choice(["REJECT", "REJECT", "ABSTAIN"])
            script.say(voter, "Vote", proposal_id=random.choice(proposals), vote=vote)
    script.commit()


def proposal(script: Script) -> None:
    """Proposals and counter-proposals, until all accept one or somebody rejects it for good."""
    script.message_types = ["Proposal", "CounterProposal", "Accept", "Reject", "Withdraw", "Commitment"]
    random = script.random
    script.start()
    script.say(script.participant(), "Proposal", proposal_id="p1")
    for proposal_id in ["p2", "p3"]:
        if script.chance(0.4):
            counter = {"proposal_id": proposal_id, "supersedes_proposal_id": "p1"}
            script.say(script.participant(), "CounterProposal", **counter)
    for _ in range(random.choice([0, 0, 1, 2])):
        script.say(script.participant(), random.choice(["Accept", "Reject", "Withdraw"]), terminal=False)
    if script.chance(0.3):
        script.commit()
    chosen = random.choice(["p1", "p1", "p2"])
    for party in random.sample(script.participants, len(script.participants)):
        if script.chance(0.92):
            script.say(party, "Accept", proposal_id=chosen)
    if script.chance(0.35):
        script.say(script.participant(), "Reject", proposal_id=chosen, terminal=True)
    script.commit()


def task(script: Script) -> None:
    """A request, who takes it, updates, a report."""
    script.message_types = [
        "TaskRequest",
        "TaskAccept",
        "TaskReject",
        "TaskUpdate",
        "TaskComplete",
        "TaskFail",
        "Commitment",
    ]
    random = script.random
    script.start()
    others = [agent for agent in script.participants if agent != script.initiator] or [script.initiator]
    assignee = random.choice(others)
    named = assignee if script.chance(0.5) else random.choice(["", "", script.initiator])
    script.say(script.initiator, "TaskRequest", task_id="p1", requested_assignee=named)
    if script.chance(0.3):
        script.say(random.choice(others), "TaskReject", task_id="p1")
    script.say(assignee, "TaskAccept", task_id="p1", assignee=random.choice(["", assignee]))
    if script.chance(0.25):
        script.say(assignee, "TaskReject", task_id="p1")
        script.say(random.choice(others), "TaskAccept", task_id="p1")
    for _ in range(random.choice([0, 1, 2])):
        script.say(assignee, "TaskUpdate", task_id="p1")
    report = random.choice(["TaskComplete", "TaskComplete", "TaskFail"])
    for reporter in [assignee, random.choice(others)]:
        script.say(reporter, report, task_id="p1")
    script.commit()


def handoff(script: Script) -> None:
    """Offers, what goes with them, an answer."""
    script.message_types = ["HandoffOffer", "HandoffContext", "HandoffAccept", "HandoffDecline", "Commitment"]
    random = script.random
    if script.chance(0.9):
        script.participants = script.agents[:]
    script.start()
    others = [agent for agent in script.participants if agent != script.initiator] or [script.initiator]
    for handoff_id in ["p1", "p2", "p3"][: random.choice([1, 2, 3])]:
        target = random.choice(others)
        script.say(script.initiator, "HandoffOffer", handoff_id=handoff_id, target_participant=target)
        if script.chance(0.5):
            script.say(script.initiator, "HandoffContext", handoff_id=handoff_id)
        answer = random.choice(["HandoffAccept", "HandoffDecline"])
        by = {"accepted_by": random.choice(["", target])} if answer == "HandoffAccept" else {}
        if script.chance(0.85):
            script.say(target, answer, handoff_id=handoff_id, **by)
    script.commit()


def quorum(script: Script) -> None:
    """A request for approvals, and ballots."""
    script.message_types = ["ApprovalRequest", "Approve", "Reject", "Abstain", "Commitment"]
    random = script.random
    script.start()
    required = random.randint(1, max(1, len(script.participants)))
    script.say(script.initiator, "ApprovalRequest", request_id="p1", required_approvals=required)
    tendency = random.choice([0.1, 0.5, 0.9])
    for voter in random.sample(script.participants, len(script.participants)):
        if script.chance(0.15):
            script.commit()
        if script.chance(0.9):
            ballot = "Approve" if script.chance(tendency) else random.choice(["Reject", "Abstain"])
            script.say(voter, ballot, request_id="p1")
    script.commit()


def multi_round(script: Script) -> None:
    """Contributions in protobuf and in JSON, until all say the same."""
    script.message_types = ["Contribute", "Contribute", "Commitment"]
    random = script.random
    script.start()

    def contribute(sender: str, value: str) -> None:
        payload = script.filled("Contribute", value=value)
        script.say(sender, "Contribute", payload)
        if script.chance(0.3):
            texts = [
                json.dumps({"value": value}),
                json.dumps({"value": value, "more": [1]}, ensure_ascii=False),
                json.dumps({"value": ""}),
                json.dumps({"value": 1}),
                json.dumps({"value": None}),
                json.dumps([value]),
                json.dumps([value, value]),
                json.dumps([[value]]),
                json.dumps(value),
                ' {"value": "' + value + '"} ',
                '{"value":"a","value":"b"}',
                '{"value":"\\ud83d\\ude00"}',
                '{"value":"\\ud83d"}',
                '{"value":"a","n":NaN}',
                '{"value":"a","n":1e999}',
                '{"value":"a","n":"\\ud800"}',
                '{"value":"a","n":"\t"}',
                '{"value":"a","n":' + "[" * 200 + "]" * 200 + "}",
                '{"val\\u0075e":"a"}',
                '\x0c{"value":"a"}',
                '{"value":"a",}',
                '{"value":"a"}x',
                "\ufeff" + '{"value":"a"}',
                "{",
                "\n\x07{value}",  # both a canonical protobuf and not JSON
                '\n {"value": "the tag is a blank too"}',  # 0x0a 0x20: protobuf, and JSON behind white space
            ]
            raw = random.choice(texts).encode()
            if script.chance(0.1):
                raw = b'{"value":"\xff"}'
            script.send(script.envelope(sender, "Contribute", raw))

    for _ in range(random.choice([0, 1, 2])):
        contribute(script.participant(), random.choice(["a", "b", "", "ü"]))
    for sender in random.sample(script.participants, len(script.participants)):
        contribute(sender, random.choice(["yes"] * 9 + ["no"]))
    for sender in script.participants:
        if script.chance(0.6):
            contribute(sender, "yes")
    script.commit()


def passthrough(script: Script) -> None:
    """An extension mode of its own: registered, perhaps promoted, perhaps removed under the running session."""
    script.message_types = ["Ping", "Pong", "Commitment", "Nope"]
    random = script.random
    script.register_mode(script.mode)
    if script.chance(0.15):
        script.configuration_version = ""
    if script.chance(0.25):
        script.promote_mode()
    if script.chance(0.2):
        script.participants = []
    script.start()
    for _ in range(random.choice([1, 3, 6])):
        sender = script.participant()
        script.say(sender, random.choice(["Ping", "Pong"]), random.randbytes(random.randrange(20)))
    if script.chance(0.1):
        script.remove_mode()
    script.commit()


def policies(script: Script) -> None:
    """Policies of every mode, right and wrong, each read back; one of them bound, to a session that comes to votes."""
    script.message_types = ["Proposal", "Evaluation", "Objection", "Vote", "Commitment"]
    random = script.random
    standard = [name for name, _course in MODES.values() if name]
    for number in range(10):
        policy = script.policy(f"{script.tag}-{number}", random.choice([*standard, "*", "ext.none", ""]))
        if script.chance(0.3):
            policy.rules = odd_text(random)
        script.register(policy)
        script.call("GetPolicy", policy_pb2.GetPolicyRequest(policy_id=policy.policy_id), script.initiator)
    script.call("ListPolicies", policy_pb2.ListPoliciesRequest(mode=random.choice(["", *standard])), script.initiator)
    decision(script)


Course = Callable[[Script], None]

MODES: dict[str, tuple[str, Course]] = {
    "decision": ("macp.mode.decision.v1", decision),
    "proposal": ("macp.mode.proposal.v1", proposal),
    "task": ("macp.mode.task.v1", task),
    "handoff": ("macp.mode.handoff.v1", handoff),
    "quorum": ("macp.mode.quorum.v1", quorum),
    "multi_round": ("ext.multi_round.v1", multi_round),
    "passthrough": ("", passthrough),
    "policies": ("macp.mode.decision.v1", policies),
}
"""Word of a seed -> the mode's name on the wire, and its course."""
