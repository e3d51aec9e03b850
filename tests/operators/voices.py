"""Who says what in the operators' specs."""

from __future__ import annotations

from macp_rx.protocol.modes import decision
from macp_rx.testing import said

LEGEND = {
    "p": said("chair", decision.propose("p1", "canary")),
    "q": said("chair", decision.propose("p2", "big bang")),
    "v": said("alice", decision.vote("p1", "APPROVE")),
    "w": said("bob", decision.vote("p1", "REJECT")),
    "x": said("carol", decision.vote("p1", "ABSTAIN")),
    "y": said("carol", decision.vote("p1", "APPROVE")),
    "z": said("alice", decision.vote("p2", "REJECT")),
    "e": said("bob", decision.evaluate("p1", "REVIEW", confidence=0.5)),
}
