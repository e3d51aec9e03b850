"""What a watch costs: who never reads shares what it has not read with everybody else."""

from __future__ import annotations

import pytest
from macp.v1 import core_pb2, policy_pb2
from macp.v1.envelope_pb2 import Envelope

from macp_rx import Runtime
from macp_rx.clock import VirtualClock
from macp_rx.protocol.policy import build_decision_policy
from macp_rx.runtime import dev_identity
from tests.protocol.plays import NOTES
from tests.runtime.test_kernel import START

SIGNAL = Envelope(macp_version="1.0", message_type="Signal", message_id="s1", sender="chair")


@pytest.mark.parametrize(
    ("watch", "rpc", "asked"),
    [
        ("WatchSignals", "Send", core_pb2.SendRequest(envelope=SIGNAL)),
        ("WatchSessions", "Send", core_pb2.SendRequest(envelope=START)),
        ("WatchModeRegistry", "RegisterExtMode", core_pb2.RegisterExtModeRequest(mode_descriptor=NOTES)),
        (
            "WatchPolicies",
            "RegisterPolicy",
            policy_pb2.RegisterPolicyRequest(policy_descriptor=build_decision_policy("policy.x")),
        ),
    ],
)
def test_one_response_is_made_for_all_who_watch(
    watch: str, rpc: str, asked: core_pb2.SendRequest | policy_pb2.RegisterPolicyRequest
) -> None:
    """A copy for each made 40 silent watchers of 256 signals of 10 kB 112 MB; one for all makes them 3 MB."""
    chair = dev_identity("chair")
    with Runtime(clock=VirtualClock()) as runtime:
        feeds = [runtime.watch(watch, chair) for _ in range(3)]
        for feed in feeds:
            while feed.take() is not None:  # what was true before
                pass
        runtime.unary(rpc, chair, asked)
        first, *others = [feed.take() for feed in feeds]
    assert first is not None
    assert all(other is first for other in others)
