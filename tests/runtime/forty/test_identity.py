"""Who calls, and what a credential allows."""

from __future__ import annotations

from macp_rx import MacpClient
from macp_rx.protocol.messages import DECISION, PROPOSAL
from macp_rx.protocol.modes import decision
from macp_rx.runtime.identity import dev_identity
from tests.conftest import Connect, Recorder
from tests.runtime.conversation import OK, Conversation, answer

DENIED = "PERMISSION_DENIED FORBIDDEN"


def signal(client: MacpClient, signal_type: str = "hello") -> str:
    return answer(client.send_signal, signal_type=signal_type)


def test_allowed_modes_keep_a_caller_from_signalling_too(knowing_tokens: Connect) -> None:
    """Item 27: a signal has no mode, and so none that is allowed."""
    decider = knowing_tokens("decider")
    assert Conversation(decider, DECISION, ["decider"], initiator="decider").state() == "OPEN"
    assert Conversation(decider, PROPOSAL, ["decider"], initiator="decider", start=False).start() == "FORBIDDEN"
    assert signal(decider) == "FORBIDDEN"
    assert signal(knowing_tokens("alice")) == OK


def test_an_empty_list_of_modes_allows_all_of_them(knowing_tokens: Connect) -> None:
    """Item 27: in a file of tokens; in a JWT, which only the real server takes, it would allow none."""
    everything = knowing_tokens("everything")
    for mode in (DECISION, PROPOSAL):
        assert Conversation(everything, mode, ["everything"], initiator="everything").state() == "OPEN"
    assert signal(everything) == OK


def test_a_token_with_a_dot_is_nobodys(knowing_tokens: Connect) -> None:
    """Item 27: it is taken for a JWT, although the file of tokens lists it."""
    dotted = knowing_tokens("v1.dotted")
    assert answer(dotted.list_sessions_page) == "UNAUTHENTICATED UNAUTHENTICATED"
    assert signal(dotted) == "UNAUTHENTICATED"
    assert signal(knowing_tokens("nobody")) == "UNAUTHENTICATED"


def test_nobody_observes_in_development_mode(connect: Connect) -> None:
    """Item 27: whoever is no party of a session cannot read it, whatever its name."""
    talk = Conversation(connect("chair"), DECISION)
    assert answer(talk.client.acting_as("observer").get_session, talk.session_id) == DENIED
    assert not dev_identity("observer").is_observer


def test_an_observer_reads_and_does_not_act(knowing_tokens: Connect) -> None:
    """Item 36: it may neither speak in a session nor end it, unless it takes part."""
    client = knowing_tokens("chair")
    talk = Conversation(client, DECISION)
    observer = client.acting_as("observer")
    assert observer.get_session(talk.session_id).metadata.initiator == "chair"
    assert [accepted.message_type for accepted in observer.history(talk.session_id)] == ["SessionStart"]
    assert talk.say("observer", decision.propose("p1", "one")) == "FORBIDDEN"
    assert talk.commit("observer") == "FORBIDDEN"
    for control in (observer.suspend_session, observer.resume_session, observer.cancel_session):
        assert answer(control, talk.session_id) == DENIED
    assert Conversation(client, DECISION, ["observer"]).say("observer", decision.propose("p1", "one")) == OK
    assert answer(client.acting_as("everything").get_session, talk.session_id) == DENIED


def test_signals_reach_everybody_who_is_somebody(knowing_tokens: Connect) -> None:
    """Item 39: also those who can read no session; progress in a session too. Who said it is vouched for."""
    alice, stranger = knowing_tokens("alice"), knowing_tokens("everything")
    heard = watching(stranger, alice)
    talk = Conversation(knowing_tokens("chair"), DECISION)
    alice.send_progress(progress_token="secret", progress=1, total=2, session_id=talk.session_id, mode=DECISION)
    heard.wait(lambda so_far: so_far.items[-1].envelope.message_type == "Progress")  # type: ignore[attr-defined]
    assert {item.envelope.sender for item in heard.items} == {"alice"}  # type: ignore[attr-defined]
    assert {item.sender_authenticated for item in heard.items} == {True}  # type: ignore[attr-defined]


def test_in_development_mode_nobody_vouches_for_a_sender(connect: Connect) -> None:
    """Item 39: the token is only what the caller says of itself."""
    heard = watching(connect("stranger"), connect("alice"))
    assert heard.items[0].sender_authenticated is False  # type: ignore[attr-defined]


def test_progress_is_heard_whatever_it_is_about(connect: Connect) -> None:
    """Item 39: nobody looks whether there is such a session, or whether the sender takes part in it."""
    client = connect("mallory")
    talk = Conversation(client, DECISION, start=False)
    heard = watching(client, client)
    assert talk.say("mallory", b"", "Progress", mode="nope") == OK
    heard.wait(lambda so_far: so_far.items[-1].envelope.mode == "nope")  # type: ignore[attr-defined]


def watching(watcher: MacpClient, sender: MacpClient) -> Recorder:
    """What a watcher of signals hears, once it hears: a watch says nothing at first, so somebody knocks until it does."""
    heard = Recorder()
    watcher.watch_signals().subscribe(heard)
    for _ in range(1000):
        sender.send_signal(signal_type=f"knock-{sender.clock.new_id()}")
        if heard.items:
            return heard
    raise AssertionError("the watch hears nothing")
