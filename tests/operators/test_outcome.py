from __future__ import annotations

from macp_rx import DecisionSession, MacpClient, Runtime
from macp_rx import operators as mo
from macp_rx.testing import Marbles, Where
from tests.operators.voices import LEGEND


def test_what_it_was_committed_to(marbles: Marbles) -> None:
    source = marbles.hot("-p-v-C-p-", LEGEND)
    resolved = Where(
        lambda outcome: (
            (outcome.state, outcome.commitment.action, outcome.positive, outcome.reason)
            == ("RESOLVED", "rollout.approved", True, "because")
        )
    )
    marbles.expect(source.pipe(mo.outcome())).to_be("-----(R |)", {"R": resolved})
    marbles.expect_subscriptions(source).to_be("^----!")


def test_a_history_without_a_commitment_does_not_tell_how_it_ended(marbles: Marbles) -> None:
    unresolved = Where(
        lambda outcome: (outcome.state, outcome.commitment, outcome.positive) == ("UNRESOLVED", None, False)
    )
    marbles.expect(marbles.hot("-p-v-|", LEGEND).pipe(mo.outcome())).to_be("-----(U |)", {"U": unresolved})


def test_of_a_resolved_session_it_tells_what_the_session_tells(macp_runtime: Runtime) -> None:
    with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client:
        session = DecisionSession(client)
        session.start(intent="outcome", participants=["chair"], ttl_ms=60_000)
        session.propose("p1", "canary")
        session.commit(action="rollout.declined", authority_scope="session", reason="later")
        assert client.history(session.session_id).pipe(mo.outcome()).run() == session.outcome.run()
