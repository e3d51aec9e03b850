"""The session stream and the watches under virtual time, as marbles: the embedded runtime, no socket, no waiting."""

from __future__ import annotations

import subprocess
import sys

import pytest
from macp.modes.decision.v1.decision_pb2 import ProposalPayload, VotePayload
from macp.v1.core_pb2 import WatchSessionsResponse
from macp.v1.envelope_pb2 import SessionState
from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, DecisionSession, MacpClient, MacpStreamError, Runtime, build_envelope, serialize_message
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.modes import decision
from macp_rx.testing import Marbles
from tests.runtime.conversation import OK, Conversation
from tests.streams.wire import Wire


@pytest.fixture
def session(macp_runtime: Runtime, marbles: Marbles) -> DecisionSession:
    session = DecisionSession(MacpClient.embedded(agent="chair", runtime=macp_runtime))
    session.start(intent="marbles", participants=["chair", "alice"], ttl_ms=60_000)
    return session


def say(marbles: Marbles, text: str, session: DecisionSession) -> None:
    """Lets the chair speak as marbles say: p proposes, v votes, C commits, X cancels."""
    chair = session.rx
    verbs = {
        "p": lambda: chair.propose("p1", "one").subscribe(),
        "v": lambda: chair.vote("p1", "APPROVE").subscribe(),
        "C": lambda: chair.commit(action="decision.approved", authority_scope="test", reason="because").subscribe(),
        "X": lambda: chair.cancel().subscribe(),
    }
    marbles.act(text, verbs)


def kinds(events: Observable[Accepted]) -> Observable[str]:
    letters = {"SessionStart": "S", "Proposal": "p", "Vote": "v", "Commitment": "C"}
    return events.pipe(ops.map(lambda accepted: letters[accepted.message_type]))


def test_replay_then_live_then_completion_with_the_commitment(marbles: Marbles, session: DecisionSession) -> None:
    say(marbles, "-p-v-C", session)
    marbles.expect(kinds(session.events)).to_be("S p-v-(C |)")
    marbles.expect(kinds(session.events), "----^").to_be("----(S p v)(C |)")


def test_after_a_sequence(marbles: Marbles, session: DecisionSession) -> None:
    say(marbles, "-p-v-C", session)
    events = session._client.session_events(session.session_id, after_sequence=2)
    marbles.expect(kinds(events), "----^").to_be("----v(C |)")


def test_history_is_finite(marbles: Marbles, session: DecisionSession) -> None:
    say(marbles, "-p-v-", session)
    history = session._client.history(session.session_id)
    marbles.expect(kinds(history), "--^").to_be("--(S p |)")


def test_a_reader_that_falls_behind_has_everything_once(macp_runtime: Runtime) -> None:
    with MacpClient.embedded(agent="chair", runtime=macp_runtime) as client:
        session = DecisionSession(client)
        session.start(intent="a slow reader", participants=["chair"], ttl_ms=60_000)
        events = client.session_events(session.session_id)
        told: list[str] = []
        events.status.subscribe(lambda status: told.append(status.connection.value))
        reading = iter(events)
        sent = [next(reading).envelope.message_id]
        # 256 wait at the reader, 256 more at the runtime, and the next one ends the call; others are accepted meanwhile
        sent += [session.propose(f"p{number}", "one of many").message_id for number in range(768)]
        sent += [session.commit(action="decision.approved", authority_scope="test", reason="because").message_id]
        assert sent == [sent[0], *(accepted.envelope.message_id for accepted in reading)]
        assert told[:4] == ["connected", "caught up", "lost", "reconnecting"]


def test_who_shares_a_call_and_comes_late_has_it_all(marbles: Marbles, session: DecisionSession) -> None:
    say(marbles, "-p-v-C", session)
    marbles.expect(kinds(session.events), "^").to_be("S p-v-(C |)")
    marbles.expect(kinds(session.events), "--^").to_be("--(S p)v-(C |)")
    marbles.expect(kinds(session.events), "^--!").to_be("S p-")


def test_all_events_follow_every_session_as_it_appears(marbles: Marbles, session: DecisionSession) -> None:
    other = DecisionSession(session._client)
    start = {"s": lambda: other.rx.start(intent="another", participants=["chair"], ttl_ms=60_000).subscribe()}
    marbles.act("---s", start)
    say(marbles, "-p---v-C", session)
    marbles.expect(kinds(session._client.all_events()), "^---------!").to_be("S p-S-v-C--")


def test_both_directions_are_one_stream(marbles: Marbles, session: DecisionSession) -> None:
    """What is said on it comes back when it was accepted, like what others say; completion half-closes it."""
    stream = session.open_stream()
    proposal = decision.propose("p1", "one")
    envelope = build_envelope(
        mode=session.mode,
        message_type=proposal.message_type,
        session_id=session.session_id,
        payload=serialize_message(proposal.payload),
        message_id="m1",
    )
    marbles.act("-p---|", {"p": lambda: stream.on_next(envelope), "|": stream.on_completed})
    say(marbles, "---v", session)
    letters = {"SessionStart": "S", "Proposal": "p", "Vote": "v"}
    marbles.expect(stream.pipe(ops.map(lambda one: letters[one.message_type]))).to_be("S p-v-|")


def test_a_list_in_pages_is_one_stream(marbles: Marbles, session: DecisionSession) -> None:
    for _ in range(4):
        DecisionSession(session._client).start(intent="many", participants=["chair"], ttl_ms=60_000)
    listed = session._client.list_sessions(page_size=2).pipe(ops.map(lambda _metadata: "s"))
    marbles.expect(listed).to_be("(s s s s s |)")


def test_a_live_query_tells_each_set_that_differs(marbles: Marbles, session: DecisionSession) -> None:
    say(marbles, "--p-X", session)  # a message changes nothing in the set
    states = session._client.live_sessions().pipe(
        ops.map(lambda found: SessionState.Name(found[session.session_id].state).removeprefix("SESSION_STATE_"))
    )
    marbles.expect(states, "^------!").to_be("OPEN---CANCELLED--")


def test_the_outcome_is_one_value(marbles: Marbles, session: DecisionSession) -> None:
    say(marbles, "-p-C", session)
    marbles.expect(session.outcome.pipe(ops.map(lambda outcome: outcome.state))).to_be("---(RESOLVED |)")


def test_leaving_closes_the_call(marbles: Marbles, session: DecisionSession, macp_runtime: Runtime) -> None:
    marbles.expect(kinds(session.events), "^-!").to_be("S")
    marbles.check(lambda: None if macp_runtime.open_calls == 0 else "the call is still open")


def test_an_outsider_is_refused_in_the_stream(marbles: Marbles, session: DecisionSession) -> None:
    events = session.acting_as("mallory").events
    codes = events.pipe(ops.map(lambda _: "item"), ops.catch(lambda error, _: coded(error)))
    marbles.expect(codes).to_be("(FORBIDDEN |)")


def coded(error: Exception) -> Observable[str]:
    from reactivex import of

    return of(error.code if isinstance(error, MacpStreamError) else repr(error))


def test_a_watch_ends_cleanly_at_its_timeout(marbles: Marbles, session: DecisionSession) -> None:
    roots = session._client.watch_roots(timeout=0.005).pipe(ops.map(lambda _: "r"))
    marbles.expect(roots).to_be("r----|")


def test_the_watch_of_sessions_tells_their_lives(marbles: Marbles, session: DecisionSession) -> None:
    say(marbles, "-p-X", session)
    watch = session._client.watch_sessions(timeout=0.006)
    marbles.expect(watch.pipe(ops.map(told))).to_be("CREATED--CANCELLED--|")


def test_a_session_expires_at_its_deadline(marbles: Marbles, session: DecisionSession) -> None:
    watch = session._client.watch_sessions(timeout=120)
    marbles.expect(watch.pipe(ops.map(told))).to_be("CREATED 60s EXPIRED 59998ms |")


def told(response: WatchSessionsResponse) -> str:
    event = response.event
    return type(event).EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")


def test_a_deadline_in_a_pipeline_is_counted_on_the_clients_clock(marbles: Marbles, session: DecisionSession) -> None:
    say(marbles, "-p", session)
    votes = session.events.pipe(mo.of_type(VotePayload), mo.within(30, otherwise="nobody voted"))
    marbles.expect(votes).to_be("30s (x |)", {"x": "nobody voted"})
    proposals = session.events.pipe(
        mo.of_type(ProposalPayload), mo.within(30), ops.map(lambda p: p.sender), ops.take(1)
    )
    marbles.expect(proposals).to_be("-(chair |)")


RUN = """
import hashlib
from macp.modes.decision.v1.decision_pb2 import VotePayload
from reactivex import operators as ops
from macp_rx import DecisionSession, MacpClient, Runtime, agents, operators as mo
from macp_rx.clock import VirtualClock

def chair(events):
    return events.pipe(
        mo.of_type(VotePayload), mo.majority(electorate=20), ops.take(1), mo.commit_if_decided(action="rollout.approved"),
    )

runtime = Runtime(clock=VirtualClock(seed=11))
names = [f"agent-{number}" for number in range(20)]
with MacpClient.embedded(agent="chair", runtime=runtime) as client:
    session = DecisionSession(client)
    session.start(intent="determinism", participants=["chair", *names], ttl_ms=60_000)
    session.join(chair)
    for name in names:
        session.acting_as(name).join(agents.voter(lambda proposal: "APPROVE"))
    session.propose("p1", "canary")
    outcome = session.outcome.run()
    said = b"".join(accepted.envelope.SerializeToString(deterministic=True) for accepted in client.history(session.session_id))
print(outcome.state, hashlib.sha256(said).hexdigest())
"""


def test_a_run_is_a_function_of_its_seed_byte_by_byte() -> None:
    """Client, transport, runtime and 21 agents, in processes with different hash seeds."""
    printed = {
        subprocess.run(
            [sys.executable, "-c", RUN], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "999")
    }
    assert len(printed) == 1
    assert printed.pop().startswith("RESOLVED")


def test_a_clients_ids_come_from_its_clock() -> None:
    def ids() -> list[str]:
        with MacpClient.embedded(agent="chair", runtime=Runtime(clock=VirtualClock(seed=5))) as client:
            session = DecisionSession(client)
            session.start(intent="ids", participants=["chair"], ttl_ms=60_000)
            session.propose("p1", "one")
            return [accepted.message_id for accepted in client.history(session.session_id)]

    assert ids() == ids()


def test_what_a_subscriber_raises_at_the_end_is_not_lost(
    wire: Wire, talk: Conversation, virtual_time: VirtualClock
) -> None:
    """Its stream is over, so nobody is left to be told but whoever runs the clock."""

    def end() -> None:
        raise ValueError("at the end")

    wire.client().session_events(talk.session_id).subscribe(on_completed=end)
    talk.say("chair", decision.propose("p1", "one"))
    assert talk.commit() == OK
    with pytest.raises(ValueError, match="at the end"):
        virtual_time.advance_by(1)
