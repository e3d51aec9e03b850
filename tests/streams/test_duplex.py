"""MacpStream: both directions of one call."""

from __future__ import annotations

import threading

import pytest
from macp.modes.decision.v1.decision_pb2 import VotePayload
from macp.v1.envelope_pb2 import Envelope

from macp_rx import (
    DecisionSession,
    MacpClient,
    MacpClosedError,
    MacpError,
    MacpIdentityMismatchError,
    MacpSessionError,
    MacpStreamError,
    MacpTimeoutError,
    MacpTransportError,
    build_envelope,
    new_session_id,
    serialize_message,
)
from tests.conftest import Recorder


@pytest.fixture
def session(session: DecisionSession) -> DecisionSession:
    """One in which there is something to vote on."""
    session.propose("p1", "one")
    return session


def vote(session: DecisionSession, value: str = "APPROVE", sender: str = "chair", proposal: str = "p1") -> Envelope:
    return build_envelope(
        mode="macp.mode.decision.v1",
        message_type="Vote",
        session_id=session.session_id,
        sender=sender,
        payload=serialize_message(VotePayload(proposal_id=proposal, vote=value)),
    )


def test_a_sender_hears_its_own_echo(client: MacpClient, session: DecisionSession) -> None:
    with client.open_stream() as stream:
        sent = vote(session)
        stream.send(sent)
        assert stream.read(timeout=5) == sent


def test_a_refusal_reaches_the_reader_with_code_and_message_id_and_the_stream_lives_on(
    client: MacpClient, session: DecisionSession
) -> None:
    with client.open_stream() as stream:
        wrong = vote(session, "approve")
        stream.send(wrong)
        with pytest.raises(MacpStreamError) as refusal:
            stream.read(timeout=5)
        assert (refusal.value.code, refusal.value.message_id) == ("INVALID_ENVELOPE", wrong.message_id)
        stream.send(vote(session))
        accepted = stream.read(timeout=5)
        assert accepted is not None
        assert accepted.message_type == "Vote"


def test_a_read_that_times_out_leaves_the_stream_usable(client: MacpClient, session: DecisionSession) -> None:
    with session.open_stream(replay=False) as stream:
        with pytest.raises(MacpTimeoutError, match=r"nothing came within 0\.05 s"):
            stream.read(timeout=0.05)
        session.vote("p1", "APPROVE")
        assert stream.read(timeout=5) is not None


def test_a_negative_timeout_is_refused(client: MacpClient, session: DecisionSession) -> None:
    with session.open_stream() as stream, pytest.raises(MacpSessionError, match="seconds >= 0"):
        stream.read(timeout=-1)


def test_close_half_closes_and_the_reader_comes_to_the_end(client: MacpClient, session: DecisionSession) -> None:
    stream = session.open_stream()
    stream.close()
    assert [envelope.message_type for envelope in stream.responses(timeout=5)] == ["SessionStart", "Proposal"]
    assert stream.read() is None
    assert stream.read() is None


def test_nothing_can_be_sent_after_the_end(client: MacpClient, session: DecisionSession) -> None:
    stream = session.open_stream()
    stream.close()
    with pytest.raises(MacpClosedError):
        stream.send(vote(session))
    ended = client.open_stream(new_session_id())  # an unknown session: the server ends the call
    with pytest.raises(MacpTransportError, match="SESSION_NOT_FOUND"):
        ended.read(timeout=5)
    with pytest.raises(MacpClosedError, match="ended"):
        ended.send(vote(session))


def test_a_failed_call_is_told_again_and_again(client: MacpClient, session: DecisionSession) -> None:
    stream = client.open_stream(new_session_id())
    for _ in range(2):
        with pytest.raises(MacpTransportError, match="SESSION_NOT_FOUND"):
            stream.read(timeout=5)


def test_bad_input_is_refused_at_once(client: MacpClient, session: DecisionSession) -> None:
    with client.open_stream() as stream:
        with pytest.raises(MacpSessionError, match="takes an Envelope"):
            stream.send("Vote")  # type: ignore[arg-type]
        with pytest.raises(MacpIdentityMismatchError, match="acting_as"):
            stream.send(vote(session, sender="alice"))


def test_any_number_of_subscribers_hear_every_envelope(client: MacpClient, session: DecisionSession) -> None:
    stream = session.open_stream(replay=False)
    first, second = Recorder(), Recorder()
    stream.subscribe(first)
    stream.subscribe(second)
    stream.on_next(vote(session))
    first.wait_for(1)
    second.wait_for(1)
    assert first.items == second.items
    stream.on_completed()
    first.wait_for_end()
    second.wait_for_end()
    assert first.completed
    assert second.completed


def test_what_came_before_the_first_subscriber_is_not_lost(client: MacpClient, session: DecisionSession) -> None:
    stream = session.open_stream()
    heard = Recorder()
    session.vote("p1", "APPROVE")
    stream.subscribe(heard)
    heard.wait_for(3)
    assert [envelope.message_type for envelope in heard.items] == ["SessionStart", "Proposal", "Vote"]  # type: ignore[attr-defined]


def test_a_refusal_goes_to_those_who_listen_for_errors(client: MacpClient, session: DecisionSession) -> None:
    stream = client.open_stream()
    accepted, refused = Recorder(), Recorder()
    stream.subscribe(accepted)
    stream.errors.subscribe(refused)
    stream.send(vote(session, "approve"))
    stream.send(vote(session))
    accepted.wait_for(1)
    refused.wait_for(1)
    assert accepted.error is None


def test_a_refusal_that_nobody_listens_for_ends_every_subscription(
    client: MacpClient, session: DecisionSession
) -> None:
    stream = client.open_stream()
    heard = [Recorder(), Recorder(), Recorder()]
    for recorder in heard:
        stream.subscribe(recorder)
    stream.send(vote(session, "approve"))
    for recorder in heard:
        recorder.wait_for_end()
        assert isinstance(recorder.error, MacpStreamError)


def test_who_subscribes_while_a_refusal_ends_the_others_hears_what_comes_after_it(
    client: MacpClient, session: DecisionSession
) -> None:
    stream = client.open_stream(session.session_id, after_sequence=2)
    first, second = Recorder(), Recorder()

    def subscribe_again(error: Exception) -> None:
        stream.subscribe(second)
        first.on_error(error)

    stream.subscribe(first.on_next, subscribe_again)
    stream.send(vote(session, "approve"))
    first.wait_for_end()
    stream.send(vote(session))
    second.wait_for(1)
    stream.close()
    second.wait_for_end()
    assert second.completed


def test_a_subscriber_that_raises_hears_its_own_error_and_nobody_else_does(
    client: MacpClient, session: DecisionSession
) -> None:
    stream = session.open_stream(replay=False)
    errors: list[Exception] = []
    failed = threading.Event()

    def broken(_envelope: Envelope) -> None:
        raise ZeroDivisionError

    def failing(error: Exception) -> None:
        errors.append(error)
        failed.set()

    other = Recorder()
    stream.subscribe(broken, failing)
    stream.subscribe(other)
    stream.send(vote(session))
    other.wait_for(1)
    assert failed.wait(5)
    assert isinstance(errors[0], ZeroDivisionError)
    assert other.error is None


def test_a_subscriber_that_leaves_and_then_raises_disturbs_nobody(client: MacpClient, session: DecisionSession) -> None:
    stream = session.open_stream(replay=False)
    other = Recorder()

    def leave_and_raise(_envelope: Envelope) -> None:
        subscription.dispose()
        raise ZeroDivisionError

    subscription = stream.subscribe(leave_and_raise, print)
    stream.subscribe(other)
    stream.send(vote(session))
    other.wait(lambda heard: bool(heard.items or heard.error))
    assert (len(other.items), other.error) == (1, None)


def test_a_subscriber_that_raises_and_has_no_on_error_disturbs_nobody(
    client: MacpClient, session: DecisionSession
) -> None:
    stream = session.open_stream(replay=False)
    other = Recorder()
    stream.subscribe(lambda _envelope: 1 // 0)  # type: ignore[arg-type,return-value]
    stream.subscribe(other)
    stream.send(vote(session))
    other.wait(lambda heard: bool(heard.items or heard.error))
    stream.close()
    other.wait_for_end()
    assert (len(other.items), other.completed) == (1, True)


def test_a_subscriber_without_on_error_keeps_the_end_from_nobody(client: MacpClient) -> None:
    stream = client.open_stream(new_session_id())  # an unknown session: the server ends the call
    others = [Recorder(), Recorder()]
    stream.subscribe(print)  # RxPY raises what it has no handler for
    stream.subscribe(others[0])
    stream.errors.subscribe(others[1])
    for other in others:
        other.wait_for_end()
        assert isinstance(other.error, MacpTransportError)


def test_pulling_and_subscribing_exclude_each_other(client: MacpClient, session: DecisionSession) -> None:
    pulled = session.open_stream()
    pulled.read(timeout=5)
    heard = Recorder()
    pulled.subscribe(heard)
    heard.wait_for_end()
    assert isinstance(heard.error, MacpError)
    pushed = session.open_stream()
    pushed.subscribe(Recorder())
    with pytest.raises(MacpError, match="never both"):
        pushed.read(timeout=5)


def test_many_threads_may_send_and_each_one_keeps_its_order(client: MacpClient, session: DecisionSession) -> None:
    stream = session.open_stream(replay=False)

    def evaluate(name: int) -> None:
        for index in range(50):
            session_id = session.session_id
            message_id = f"{name}-{index:03}"
            envelope = vote(session, "APPROVE", proposal=f"unknown-{message_id}")
            stream.send(
                build_envelope(
                    mode=envelope.mode,
                    message_type="Proposal",
                    session_id=session_id,
                    sender="chair",
                    message_id=message_id,
                    payload=envelope.payload,  # a ProposalPayload with an id and, as its option, APPROVE
                )
            )

    threads = [threading.Thread(target=evaluate, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    echoed = [envelope.message_id for envelope in (stream.read(timeout=10) for _ in range(400)) if envelope]
    assert len(set(echoed)) == 400
    for name in range(8):
        mine = [message_id for message_id in echoed if message_id.startswith(f"{name}-")]
        assert mine == sorted(mine)
    stream.cancel()
