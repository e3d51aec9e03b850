"""send: one message."""

from __future__ import annotations

import json

import pytest
from macp.v1.core_pb2 import ModeDescriptor

from macp_rx import MacpClient
from tests.cli.commands import START, lines, ran, refused

PROPOSAL = '{"proposal_id":"p1","option":"canary"}'


def test_a_session_from_its_start_to_its_commitment(target: str, session: str) -> None:
    chair = ("--target", target, "--agent", "chair")
    assert ran("send", session, "Proposal", PROPOSAL, *chair) == f"{session} OPEN\n"
    vote = '{"proposal_id":"p1","vote":"APPROVE"}'
    assert ran("send", session, "Vote", "-", "--target", target, "--agent", "alice", stdin=vote) == f"{session} OPEN\n"
    commitment = '{"action":"a.approved","authority_scope":"s","reason":"r","outcome_positive":true}'
    (ack,) = lines("send", session, "Commitment", commitment, "--json", *chair)
    assert (ack["ok"], ack["session_state"], ack["session_id"]) == (True, "SESSION_STATE_RESOLVED", session)


def test_a_session_under_an_id_of_ones_own(target: str) -> None:
    session_id = "0f1c7f4e-9b0d-4c53-8f0e-1d2c3b4a5968"
    chair = ("--target", target, "--agent", "chair")
    assert ran("send", session_id, "SessionStart", START, *chair) == f"{session_id} OPEN\n"
    assert "SESSION_ALREADY_EXISTS" in refused(3, "send", session_id, "SessionStart", START, *chair)
    ran("cancel", session_id, *chair)


def test_the_same_id_changes_nothing(target: str, session: str) -> None:
    one = ("send", session, "Proposal", PROPOSAL, "--id", "m1", "--target", target, "--agent", "chair")
    assert ran(*one) == f"{session} OPEN\n"
    assert ran(*one) == f"{session} OPEN duplicate\n"


def test_a_mode_of_ones_own_takes_the_json_itself(port: str, tmp_path: object) -> None:
    from tests.conftest import dial

    with dial(port, "chair") as client:
        bid = ["SessionStart", "Bid", "Commitment"]
        client.register_ext_mode(
            ModeDescriptor(
                mode="ext.auction.v1", mode_version="1.0.0", message_types=bid, terminal_message_types=bid[2:]
            )
        )
        start = json.dumps({"mode": "ext.auction.v1", "intent": "x", "participants": ["chair"], "ttl_ms": 60_000})
        chair = ("--target", port, "--agent", "chair")
        session_id = ran("send", "new", "SessionStart", start, *chair).split()[0]
        ran("send", session_id, "Bid", '{"price": 3}', *chair)
        assert [each.envelope.payload for each in client.history(session_id)][1] == b'{"price": 3}'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("Vote", '{"proposal_id":"p1","vte":"APPROVE"}'), "a Vote has no vte; it has proposal_id, vote, reason"),
        (("Vote", "{"), "no JSON"),
        (("Vote", "[]"), "must be an object"),
        (("Vote", '{"vote": 3}'), "VotePayload.vote cannot be 3"),
    ],
)
def test_bad_json_is_told(port: str, arguments: tuple[str, str], says: str) -> None:
    session = ran("send", "new", "SessionStart", START, "--target", port, "--agent", "chair").split()[0]
    assert says in refused(2, "send", session, *arguments, "--target", port, "--agent", "alice")


def test_bad_input_is_told(port: str) -> None:
    chair = ("--target", port, "--agent", "chair")
    assert "only a SessionStart goes to a new session" in refused(2, "send", "new", "Vote", "{}", *chair)
    assert 'with a "mode"' in refused(2, "send", "new", "SessionStart", "{}", *chair)
    assert "ttl_ms" in refused(2, "send", "new", "SessionStart", START.replace("600000", "0"), *chair)
    assert "Missing argument 'TYPE'" in refused(2, "send", "new")


def test_a_refusal_is_told(target: str, chair: MacpClient, session: str) -> None:
    vote = '{"proposal_id":"nowhere","vote":"APPROVE"}'
    assert "INVALID_ENVELOPE" in refused(3, "send", session, "Vote", vote, "--target", target, "--agent", "alice")
    assert "speaks for 'alice'" not in refused(
        3, "send", session, "Vote", vote, "--target", target, "--agent", "mallory"
    )
