"""Sessions of every mode, on every runtime: each verb, each way to one, their states and what they refuse."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, Final

import pytest
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, VotePayload
from macp.v1.core_pb2 import CommitmentRef, ModeDescriptor, SessionMetadata
from macp.v1.policy_pb2 import PolicyDescriptor
from reactivex import operators as ops

from macp_rx import (
    AuthConfig,
    DecisionSession,
    ExtensionSession,
    HandoffSession,
    MacpAckError,
    MacpClient,
    MacpIdentityMismatchError,
    MacpSessionError,
    MacpTransportError,
    Message,
    MultiRoundSession,
    ProposalSession,
    QuorumSession,
    Runtime,
    Session,
    SessionStart,
    Stream,
    TaskSession,
    new_session_id,
)
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.commitment import commit
from macp_rx.protocol.modes import decision, handoff, multi_round, proposal, quorum, task
from macp_rx.protocol.policy import AssignmentRules, VotingRules, build_decision_policy, build_task_policy
from macp_rx.session import RxSession, SessionVerbs, verb
from tests.conftest import Connect, Recorder
from tests.runtime.conversation import register

Line = tuple[str, str, tuple[Any, ...], dict[str, Any]]
"""Who, which verb, with what."""


def says(who: str, what: str, *args: Any, **kwargs: Any) -> Line:
    return who, what, args, kwargs


@dataclass(frozen=True)
class Play:
    """A session from its start to its commitment.

    Attributes:
        form: its class.
        lines: what is said in it.
        action: what the chair commits to.
        reached: what is true of its state before the commitment.
        ended: what is true of its state after it.
        policy: builds its policy, if it is not the default one.
    """

    form: type[Session]
    lines: Sequence[Line]
    action: str
    reached: Callable[[Any], bool]
    ended: Callable[[Any], bool]
    policy: Callable[[MacpClient], str] = field(default=lambda _client: "policy.default")


def reassigning(client: MacpClient) -> str:
    return register(client, build_task_policy, assignment=AssignmentRules(True))


PLAYS = {
    "decision": Play(
        DecisionSession,
        [
            says("chair", "propose", "p1", "canary", rationale="safe", supporting_data=b"1"),
            says("alice", "evaluate", "p1", "APPROVE", confidence=0.9, reason="fine"),
            says("bob", "raise_objection", "p1", reason="untested", severity="high"),
            says("alice", "vote", "p1", "APPROVE", reason="still"),
            says("bob", "vote", "p1", "ABSTAIN"),
        ],
        "rollout.approved",
        lambda state: state.phase is decision.Phase.VOTING and state.vote_totals == {"p1": 1},
        lambda state: state.is_positive_outcome and state.commitment.action == "rollout.approved",
    ),
    "proposal": Play(
        ProposalSession,
        [
            says("alice", "propose", "p1", "100", summary="list price", details=b"1", tags=["first"]),
            says("bob", "counter_propose", "p2", "p1", "90", summary="friends", details=b"2"),
            says("chair", "reject", "p1", reason="too much"),
            says("alice", "withdraw", "p1", reason="so be it"),
            says("alice", "accept", "p2", reason="fine"),
            says("bob", "accept", "p2"),
            says("chair", "accept", "p2"),
        ],
        "price.accepted",
        lambda state: state.phase == "Converged" and state.accepted_proposal == "p2",
        lambda state: state.phase == "Committed",
    ),
    "proposal, rejected": Play(
        ProposalSession,
        [says("alice", "propose", "p1", "100"), says("bob", "reject", "p1", terminal=True, reason="never")],
        "price.rejected",
        lambda state: state.has_terminal_rejection,
        lambda state: state.phase == "Committed",
    ),
    "task": Play(
        TaskSession,
        [
            says(
                "chair",
                "request_task",
                "t1",
                "sum",
                instructions="add",
                input_data=b"1 2",
                deadline_unix_ms=1_900_000_000_000,
            ),
            says("bob", "reject_task", "t1", assignee="bob", reason="busy"),
            says("alice", "accept_task", "t1", assignee="alice", reason="easy"),
            says("alice", "update_task", "t1", status="adding", progress=0.5, message="half", partial_output=b"1"),
            says("alice", "complete_task", "t1", assignee="alice", output=b"3", summary="three"),
        ],
        "task.completed",
        lambda state: state.is_completed and state.latest_progress == 0.5 and state.has_declined("bob"),
        lambda state: state.phase == "Committed",
    ),
    "task, given back and failed": Play(
        TaskSession,
        [
            says("chair", "request_task", "t1", "sum"),
            says("alice", "accept_task", "t1"),
            says("alice", "reject_task", "t1"),
            says("bob", "accept_task", "t1"),
            says("bob", "fail_task", "t1", assignee="bob", error_code="E1", reason="no", retryable=True),
        ],
        "task.failed",
        lambda state: state.is_failed and state.is_retryable and state.reporter == "bob",
        lambda state: state.phase == "Committed",
        reassigning,
    ),
    "handoff": Play(
        HandoffSession,
        [
            says("chair", "offer", "h1", "alice", scope="incident", reason="shift ends"),
            says("alice", "decline", "h1", declined_by="alice", reason="asleep"),
            says("chair", "offer", "h2", "bob"),
            says("chair", "add_context", "h2", content_type="text/plain", context=b"see the log"),
            says("bob", "accept_handoff", "h2", accepted_by="bob", reason="here"),
        ],
        "handoff.accepted",
        lambda state: state.is_declined("h1") and state.is_accepted("h2"),
        lambda state: state.has_accepted_offer,
    ),
    "quorum": Play(
        QuorumSession,
        [
            says("chair", "request_approval", "r1", "deploy", summary="v2", details=b"1", required_approvals=1),
            says("alice", "approve", "r1", reason="tested"),
            says("bob", "reject", "r1", reason="friday"),
            says("chair", "abstain", "r1", reason="mine"),
        ],
        "deploy.approved",
        lambda state: (
            state.has_quorum and (state.approval_count, state.rejection_count, state.abstention_count) == (1, 1, 1)
        ),
        lambda state: state.is_committed and not state.commitment_ready,
    ),
    "multi-round": Play(
        MultiRoundSession,
        [
            says("chair", "contribute", "7"),
            says("alice", "contribute", "8"),
            says("bob", "contribute", "8"),
            says("chair", "contribute", "8"),
        ],
        "value.selected",
        lambda state: state.converged and state.round == 4,
        lambda state: set(state.contributions.values()) == {"8"},
    ),
}

every_play = pytest.mark.parametrize("play", PLAYS.values(), ids=PLAYS)

MODULES: dict[type[Session], ModuleType] = {
    DecisionSession: decision,
    ProposalSession: proposal,
    TaskSession: task,
    HandoffSession: handoff,
    QuorumSession: quorum,
    MultiRoundSession: multi_round,
}

VERBS = {
    DecisionSession: "propose evaluate raise_objection vote",
    ProposalSession: "propose counter_propose accept reject withdraw",
    TaskSession: "request_task accept_task reject_task update_task complete_task fail_task",
    HandoffSession: "offer add_context accept_handoff decline",
    QuorumSession: "request_approval approve reject abstain",
    MultiRoundSession: "contribute",
}
"""As the official SDK calls them, so that nobody has to learn others; the last one has none there."""

every_verb = pytest.mark.parametrize(("form", "name"), [(form, name) for form in VERBS for name in VERBS[form].split()])

PARTICIPANTS = ["chair", "alice", "bob"]


def described(play: Play, client: MacpClient) -> SessionStart:
    return SessionStart(
        mode=play.form.MODE,
        intent="play",
        participants=PARTICIPANTS,
        ttl_ms=60_000,
        policy_version=play.policy(client),
    )


def commits(session: Any, action: str) -> Any:
    return session.commit(action=action, authority_scope="test", reason="as played")


class TestVerbs:
    @every_play
    def test_a_session_of_blocking_verbs(self, client: MacpClient, play: Play) -> None:
        session = play.form.open(client, described(play, client))
        for who, name, args, kwargs in play.lines:
            ack = getattr(session.acting_as(who), name)(*args, **kwargs)
            assert (ack.ok, ack.duplicate, ack.session_id) == (True, False, session.session_id)
        assert play.reached(session.state())  # type: ignore[attr-defined]
        assert commits(session, play.action).ok
        assert play.ended(session.state())  # type: ignore[attr-defined]
        outcome = session.outcome.run()
        assert (outcome.state, outcome.reason) == ("RESOLVED", "as played")
        assert outcome.commitment is not None
        assert outcome.commitment.action == play.action

    @every_play
    def test_a_session_of_reactive_verbs(self, client: MacpClient, play: Play) -> None:
        session = play.form.open(client, described(play, client))
        states = Recorder()
        session.states.subscribe(states)  # type: ignore[attr-defined]
        acks = [getattr(session.acting_as(who).rx, name)(*args, **kwargs) for who, name, args, kwargs in play.lines]
        assert all(isinstance(ack, Stream) for ack in acks)
        assert session.events.pipe(ops.take(1)).run().message_type == "SessionStart"  # nothing was said by making them
        for ack in acks:
            assert ack.run().ok
        states.wait_for(len(play.lines) + 1)
        assert play.reached(states.items[-1])
        assert commits(session.rx, play.action).run().ok
        states.wait_for_end()
        assert states.error is None
        assert play.ended(states.items[-1])
        assert len(states.items) == len(play.lines) + 2

    def test_every_verb_is_played(self) -> None:
        played = {(play.form, name) for play in PLAYS.values() for _who, name, _args, _kwargs in play.lines}
        assert played == {(form, name) for form in VERBS for name in VERBS[form].split()}

    @pytest.mark.parametrize("form", VERBS)
    def test_each_constructor_of_a_mode_is_a_verb(self, form: type[Session]) -> None:
        made = {
            name
            for name, what in vars(MODULES[form]).items()
            if inspect.isfunction(what) and str(what.__annotations__.get("return")).startswith("Message[")
        }
        assert made - {"commit"} == set(VERBS[form].split())

    @every_verb
    def test_it_has_its_constructors_parameters_and_text(self, form: type[Session], name: str) -> None:
        constructor = getattr(MODULES[form], name)
        words = [line.strip() for line in (inspect.getdoc(constructor) or "").splitlines()]
        with MacpClient.embedded(agent="chair") as client:
            session = form(client)
            for said in (getattr(session, name), getattr(session.rx, name)):
                assert inspect.signature(said).parameters == inspect.signature(constructor).parameters
                assert (inspect.getdoc(said), said.__name__) == (inspect.getdoc(constructor), name)
                helps = [line.strip() for line in pydoc.render_doc(said, renderer=pydoc.plaintext).splitlines()]
                assert helps[-len(words) :] == words
        assert inspect.getdoc(getattr(form, name)) == inspect.getdoc(constructor)

    @pytest.mark.parametrize("form", [*VERBS, ExtensionSession])
    def test_commit_is_a_verb_of_every_mode(self, form: type[Session]) -> None:
        assert inspect.getdoc(form.commit) == inspect.getdoc(commit)

    def test_subscribing_again_says_it_once(self, session: DecisionSession) -> None:
        propose = session.rx.propose("p1", "canary")
        assert [propose.run().duplicate, propose.run().duplicate] == [False, True]

    def test_a_reactive_verb_is_made_anew_each_time_it_is_named(self, session: DecisionSession) -> None:
        session.propose("p1", "canary")
        session.rx.evaluate("p1", "APPROVE", confidence=1).run()
        assert not session.rx.evaluate("p1", "APPROVE", confidence=1).run().duplicate


class TestCommit:
    @pytest.mark.parametrize("action", ["price.rejected", "task.failed", "handoff.declined"])
    def test_a_negative_action_makes_a_negative_commitment(self, session: DecisionSession, action: str) -> None:
        session.propose("p1", "canary")
        commits(session, action)
        assert not session.outcome.run().positive

    @pytest.mark.parametrize(
        ("action", "sign"), [("task.failed", True), ("handoff.declined", True), ("rollout.approved", False)]
    )
    def test_a_sign_against_the_action(self, session: DecisionSession, action: str, sign: bool) -> None:
        with pytest.raises(MacpSessionError, match=f"outcome_positive={sign} contradicts the action '{action}'"):
            session.commit(action=action, authority_scope="test", reason="because", outcome_positive=sign)
        assert [accepted.message_type for accepted in session.client.history(session.session_id)] == ["SessionStart"]

    @pytest.mark.parametrize("blank", ["action", "authority_scope", "reason"])
    def test_a_blank_field(self, session: DecisionSession, blank: str) -> None:
        said = {"action": "go", "authority_scope": "test", "reason": "because", blank: " "}
        with pytest.raises(MacpSessionError, match=f"{blank} must not be blank"):
            session.commit(**said)

    def test_what_is_left_blank_is_filled_in_with_what_the_session_is_bound_to(self, client: MacpClient) -> None:
        start = SessionStart(
            mode=decision.MODE,
            intent="versions",
            participants=["chair"],
            ttl_ms=60_000,
            configuration_version="c7",
            policy_version="policy.std.majority",
        )
        session = DecisionSession.open(client, start)
        session.propose("p1", "canary")
        session.vote("p1", "APPROVE")
        commits(session, "rollout.approved")
        said = session.outcome.run().commitment
        assert said is not None
        assert (said.mode_version, said.configuration_version, said.policy_version) == (
            "1.0.0",
            "c7",
            "policy.std.majority",
        )
        assert said.commitment_id

    def test_an_id_of_ones_own_and_what_it_supersedes_are_kept(self, session: DecisionSession) -> None:
        before = CommitmentRef(session_id=new_session_id(), commitment_hash=f"sha256:{'0' * 64}")
        session.propose("p1", "canary")
        session.commit(action="go", authority_scope="test", reason="new", commitment_id="c9", supersedes=before)
        said = session.outcome.run().commitment
        assert said is not None
        assert (said.commitment_id, said.supersedes) == ("c9", before)

    def test_who_may_not_is_refused(self, session: DecisionSession) -> None:
        session.propose("p1", "canary")
        with pytest.raises(MacpAckError, match="FORBIDDEN"):
            commits(session.acting_as("alice"), "rollout.approved")


class TestWaysToASession:
    @pytest.mark.parametrize("form", VERBS)
    def test_opened_without_a_class_it_has_that_of_its_mode(self, client: MacpClient, form: type[Session]) -> None:
        start = SessionStart(mode=form.MODE, intent="open", participants=PARTICIPANTS, ttl_ms=60_000)
        session = Session.open(client, start)
        assert type(session) is form
        assert type(session.acting_as("alice")) is form
        assert session.metadata().mode == form.MODE
        (told,) = [one for one in client.list_sessions() if one.session_id == session.session_id]
        for again in (Session.of(client, told), form.of(client, told)):
            assert (type(again), again.session_id, again.mode) == (form, session.session_id, form.MODE)

    def test_it_is_opened_under_an_id_of_ones_own(self, client: MacpClient) -> None:
        start = SessionStart(mode=decision.MODE, intent="open", participants=PARTICIPANTS, ttl_ms=60_000)
        session_id = new_session_id()
        assert Session.open(client, start, session_id).session_id == session_id
        with pytest.raises(MacpAckError, match="SESSION_ALREADY_EXISTS"):
            Session.open(client, start, session_id)

    def test_what_it_was_opened_with_can_be_read_back(self, client: MacpClient) -> None:
        start = SessionStart(
            mode=decision.MODE,
            intent="read back",
            participants=PARTICIPANTS,
            ttl_ms=60_000,
            context_id="c",
            extensions={"trace": b"1"},
            max_suspend_ms=1000,
        )
        session = DecisionSession.open(client, start)
        first: Any = session.events.pipe(ops.take(1)).run()
        assert SessionStart.of(first.mode, first.payload) == start

    def test_what_is_told_binds_its_versions(self, client: MacpClient) -> None:
        start = SessionStart(
            mode=decision.MODE, intent="of", participants=["chair"], ttl_ms=60_000, configuration_version="c7"
        )
        session = Session.of(client, Session.open(client, start).metadata())
        session.send(decision.propose("p1", "canary"))
        assert commits(session, "go").ok

    @pytest.mark.parametrize("form", [TaskSession, QuorumSession])
    def test_a_class_of_another_mode(self, client: MacpClient, form: type[Session]) -> None:
        start = SessionStart(mode=decision.MODE, intent="open", participants=PARTICIPANTS, ttl_ms=60_000)
        expected = f"{form.__name__} is of {form.MODE}, and the session of {decision.MODE}"
        with pytest.raises(MacpSessionError, match=expected):
            form.open(client, start)
        with pytest.raises(MacpSessionError, match=expected):
            form.of(client, SessionMetadata(session_id=new_session_id(), mode=decision.MODE))

    def test_a_session_of_no_mode(self, client: MacpClient) -> None:
        with pytest.raises(MacpSessionError, match="Session has no mode of its own"):
            Session(client)
        with pytest.raises(MacpSessionError, match="no mode of its own"):
            ExtensionSession(client, "")

    @pytest.mark.parametrize("session_id", ["", "short", "ABCDEFAB-0000-4000-8000-000000000000", "a" * 129, "ü" * 30])
    def test_an_id_that_the_protocol_refuses(self, client: MacpClient, session_id: str) -> None:
        for make in (DecisionSession, lambda client, one: ExtensionSession(client, "ext.notes.v1", one)):
            with pytest.raises(MacpSessionError, match="is no session id: the protocol takes"):
                make(client, session_id)

    def test_a_repr_names_it(self, client: MacpClient) -> None:
        session = TaskSession(client)
        assert repr(session) == f"TaskSession({session.session_id!r})"


class TestActingAs:
    def test_the_same_session_spoken_in_by_somebody_else(self, session: DecisionSession) -> None:
        session.propose("p1", "canary")
        alice = session.acting_as("alice")
        alice.vote("p1", "APPROVE")
        assert session.state().votes["p1"]["alice"].vote == "APPROVE"
        assert alice.session_id == session.session_id
        assert [one.sender for one in alice.events.pipe(ops.take(3), ops.to_list()).run()] == [
            "chair",
            "chair",
            "alice",
        ]

    def test_under_a_credential(self, session: DecisionSession) -> None:
        alice = session.acting_as(AuthConfig.for_bearer("alice"))
        alice.propose("p1", "canary")
        assert session.state().proposals["p1"].sender == "alice"

    def test_an_outsider_is_refused(self, session: DecisionSession) -> None:
        with pytest.raises(MacpAckError, match="FORBIDDEN"):
            session.acting_as("mallory").propose("p1", "canary")

    def test_nobody(self, session: DecisionSession) -> None:
        with pytest.raises(MacpSessionError, match="empty token"):
            session.acting_as("")

    def test_a_credential_that_speaks_for_another(self, session: DecisionSession) -> None:
        wrong = AuthConfig.for_bearer("alice", expected_sender="bob")
        with pytest.raises((MacpIdentityMismatchError, MacpAckError)):
            session.acting_as(wrong).propose("p1", "canary")


class TestState:
    def test_it_is_what_was_accepted_and_nothing_else(self, session: DecisionSession) -> None:
        """The official SDK puts into its projection what it sends, as it sends it: with a blank sender, and for good."""
        session.acting_as(AuthConfig.for_bearer("alice")).propose("p1", "canary")
        with pytest.raises(MacpAckError, match="INVALID_ENVELOPE"):
            session.vote("unknown", "APPROVE")
        with pytest.raises(MacpAckError, match="INVALID_ENVELOPE"):
            session.propose("p1", "another")
        session.vote("p1", "APPROVE")
        with pytest.raises(MacpAckError, match="INVALID_ENVELOPE"):
            session.vote("p1", "REJECT")
        state = session.state()
        assert {one: (said.sender, said.option) for one, said in state.proposals.items()} == {"p1": ("alice", "canary")}
        assert {one: {who: said.vote for who, said in votes.items()} for one, votes in state.votes.items()} == {
            "p1": {"chair": "APPROVE"}
        }

    def test_it_has_what_others_say(self, session: DecisionSession) -> None:
        """The official SDK's session knows only what was said through itself."""
        other = DecisionSession(session.client.acting_as("alice"), session.session_id)
        other.propose("p1", "canary")
        other.vote("p1", "APPROVE")
        assert session.state().vote_totals == {"p1": 1}

    def test_what_is_sent_twice_counts_once(self, session: DecisionSession) -> None:
        session.propose("p1", "canary")
        vote = session.rx.vote("p1", "APPROVE")
        vote.run()
        vote.run()
        assert len(session.states.pipe(ops.take(3), ops.to_list()).run()) == 3
        assert session.state().vote_totals == {"p1": 1}

    def test_a_refused_commitment_ends_nothing(self, session: DecisionSession) -> None:
        with pytest.raises(MacpAckError):
            commits(session, "rollout.approved")
        assert not session.state().is_committed

    def test_under_a_policy_that_is_registered(self, client: MacpClient) -> None:
        policy = register(client, build_decision_policy, voting=VotingRules("unanimous"))
        session = DecisionSession(client, policy_version=policy)
        session.start(intent="policy", participants=["chair", "alice"], ttl_ms=60_000)
        states = Recorder()
        session.states.subscribe(states)
        session.propose("p1", "canary")
        session.vote("p1", "APPROVE")
        with pytest.raises(MacpAckError, match="POLICY_DENIED"):
            commits(session, "rollout.approved")
        session.acting_as("alice").vote("p1", "APPROVE")
        assert session.state().vote_totals == {"p1": 2}
        commits(session, "rollout.approved")
        states.wait_for_end()
        assert (states.error, len(states.items)) == (None, 5)

    def test_under_a_policy_that_decides_about_the_state(self, client: MacpClient) -> None:
        """What the policy lets happen is judged under it, too: without it the second accept would be refused here."""
        session = TaskSession(client, policy_version=reassigning(client))
        session.start(intent="policy", participants=PARTICIPANTS, ttl_ms=60_000)
        session.request_task("t1", "sum")
        for who in ("alice", "bob"):
            session.acting_as(who).accept_task("t1")
            if who == "alice":
                session.acting_as(who).reject_task("t1")
        assert session.state().current_assignee == "bob"

    def test_a_session_that_names_no_policy_is_under_the_default_one(self, client: MacpClient) -> None:
        start = SessionStart(
            mode=decision.MODE, intent="policy", participants=["chair"], ttl_ms=60_000, policy_version=""
        )
        session = DecisionSession.open(client, start)
        assert session.state().phase is decision.Phase.PROPOSAL

    def test_a_policy_that_the_runtime_does_not_know(self, session: DecisionSession) -> None:
        elsewhere = DecisionSession(session.client, session.session_id, policy_version="policy.unknown")
        with pytest.raises(MacpTransportError, match="UNKNOWN_POLICY_VERSION"):
            elsewhere.state()
        failed = Recorder()
        elsewhere.states.subscribe(failed)
        failed.wait_for_end()
        assert isinstance(failed.error, MacpTransportError)
        assert failed.error.code == "UNKNOWN_POLICY_VERSION"

    def test_a_policy_that_the_session_is_not_bound_to(self, session: DecisionSession) -> None:
        policy = register(session.client, build_decision_policy)
        elsewhere = DecisionSession(session.client, session.session_id, policy_version=policy)
        with pytest.raises(MacpSessionError, match=r"bound to policy 'policy\.default', and states was given"):
            elsewhere.state()

    def test_a_session_that_was_never_started(self, client: MacpClient) -> None:
        with pytest.raises(MacpTransportError, match="SESSION_NOT_FOUND"):
            DecisionSession(client).state()

    def test_the_tally_after_each_vote_that_counts(self, session: DecisionSession) -> None:
        tallies = Recorder()
        session.tally.subscribe(tallies)
        session.propose("p1", "canary")
        session.vote("p1", "APPROVE")
        with pytest.raises(MacpAckError):
            session.vote("p1", "REJECT")
        session.acting_as("alice").vote("p1", "REJECT")
        commits(session, "done")
        tallies.wait_for_end()
        counts = [tally.of("p1") for tally in tallies.items if isinstance(tally, mo.Tally)]
        assert counts == [mo.Count(approve=1), mo.Count(approve=1, reject=1)]


class TestOneLiveCall:
    def test_a_session_and_its_reactive_face_share_it(self, macp_runtime: Runtime, virtual_time: VirtualClock) -> None:
        session = DecisionSession(MacpClient.embedded(agent="chair", runtime=macp_runtime))
        session.start(intent="test", participants=["chair"], ttl_ms=60_000)
        heard = [Recorder() for _ in range(5)]
        streams: list[Stream[Any]] = [
            session.events,
            session.rx.events,
            session.rx.events,
            session.states,
            session.rx.states,
        ]
        subscriptions = [events.subscribe(recorder) for events, recorder in zip(streams, heard, strict=True)]
        virtual_time.advance_by(0)
        assert macp_runtime.open_calls == 2  # it, and the watch that tells of its end
        session.propose("p1", "canary")
        virtual_time.advance_by(0)
        assert [len(recorder.items) for recorder in heard] == [2] * 5
        for subscription in subscriptions:
            subscription.dispose()
        virtual_time.advance_by(0)
        assert macp_runtime.open_calls == 0


class TestLifecycle:
    def test_suspended_and_resumed(self, session: DecisionSession) -> None:
        session.suspend(reason="lunch")
        with pytest.raises(MacpAckError, match="SESSION_NOT_OPEN"):
            session.propose("p1", "canary")
        session.rx.resume(reason="back").run()
        assert session.propose("p1", "canary").ok

    def test_cancelled(self, session: DecisionSession) -> None:
        session.rx.cancel(reason="enough").run()
        assert session.outcome.run().state == "CANCELLED"
        assert session.cancel().ok


@pytest.fixture
def notes(client: MacpClient) -> Iterator[str]:
    """A registered mode; its name is new, for the real server is everybody's."""
    mode = f"ext.notes-{client.clock.new_id()[:8]}.v1"
    descriptor = ModeDescriptor(
        mode=mode,
        mode_version="2.1.0",
        title="Notes",
        message_types=["SessionStart", "Note", "Evaluation", "Commitment"],
        terminal_message_types=["Commitment"],
    )
    client.register_ext_mode(descriptor)
    yield mode
    client.unregister_ext_mode(mode)


def note(text: str, *, loud: bool = False) -> Message[bytes]:
    """Notes something down."""
    return Message("", (text.upper() if loud else text).encode(), "Note")


class NotesVerbs(SessionVerbs):
    note: Final = verb(note)


class RxNotesSession(NotesVerbs, RxSession): ...


class NotesSession(NotesVerbs, Session):
    """A mode of one's own, as `Session` shows it."""

    MODE: ClassVar[str] = "ext.notes.v1"

    @property
    def rx(self) -> RxNotesSession:
        return self.in_form(RxNotesSession)


class TestExtensionModes:
    def test_a_session_of_a_registered_mode(self, client: MacpClient, notes: str) -> None:
        session = ExtensionSession(client, notes, mode_version="2.1.0")
        session.start(intent="notes", participants=["chair", "alice"], ttl_ms=60_000)
        session.say("Note", b"\xff\x00")
        session.acting_as("alice").rx.say("Note").run()
        session.send(Message(notes, EvaluationPayload(recommendation="APPROVE")))
        commits(session, "notes.taken")
        heard = session.events.pipe(ops.to_list()).run()
        assert [(one.sender, one.message_type, one.envelope.payload) for one in heard[1:3]] == [
            ("chair", "Note", b"\xff\x00"),
            ("alice", "Note", b""),
        ]
        outcome = session.outcome.run()
        assert outcome.positive
        assert outcome.commitment is not None
        assert outcome.commitment.mode_version == "2.1.0"

    def test_it_is_what_a_session_of_no_known_mode_is(self, client: MacpClient, notes: str) -> None:
        start = SessionStart(mode=notes, intent="", participants=[], ttl_ms=5000, mode_version="2.1.0")
        session = Session.open(client, start)
        assert type(session) is ExtensionSession
        again = Session.of(client, session.metadata())
        assert (type(again), again.mode) == (ExtensionSession, notes)
        assert commits(again, "notes.taken").ok

    def test_a_type_that_is_not_declared(self, client: MacpClient, notes: str) -> None:
        session = ExtensionSession(client, notes, mode_version="2.1.0")
        session.start(intent="notes", participants=["chair"], ttl_ms=60_000)
        with pytest.raises(MacpAckError, match="INVALID_ENVELOPE"):
            session.say("Poem", b"")
        with pytest.raises(MacpSessionError, match="message_type must not be blank"):
            session.say(" ")

    def test_a_mode_that_nobody_registered(self, client: MacpClient) -> None:
        session = ExtensionSession(client, "ext.nobody.v1")
        with pytest.raises(MacpAckError, match="MODE_NOT_SUPPORTED"):
            session.start(intent="none", participants=["chair"], ttl_ms=60_000)

    def test_a_class_of_ones_own(self, client: MacpClient, notes: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(NotesSession, "MODE", notes)
        session = NotesSession(client, mode_version="2.1.0")
        session.start(intent="notes", participants=["chair", "alice"], ttl_ms=60_000)
        assert session.note("one").ok
        assert session.acting_as("alice").rx.note("two", loud=True).run().ok
        again = NotesSession.of(client, session.metadata())
        assert isinstance(again.acting_as("alice"), NotesSession)
        again.note("three")
        commits(again, "notes.taken")
        payloads = [one.envelope.payload for one in session.events if one.message_type == "Note"]
        assert payloads == [b"one", b"TWO", b"three"]
        assert inspect.signature(session.note).parameters == inspect.signature(note).parameters

    def test_bytes_must_say_what_they_are(self) -> None:
        with pytest.raises(MacpSessionError, match="which message_type they are"):
            Message("ext.notes.v1", b"1")


def confidence(value: float) -> Line:
    return says("chair", "evaluate", "p1", "APPROVE", confidence=value)


REFUSED_HERE: list[tuple[type[Session], Line, str]] = [
    (DecisionSession, says("chair", "propose", "", "canary"), "proposal_id must not be blank"),
    (DecisionSession, says("chair", "propose", "p1", " \t"), "option must not be blank"),
    (DecisionSession, says("chair", "vote", "p1", "approve"), "vote 'approve' is none of APPROVE, REJECT, ABSTAIN"),
    (DecisionSession, says("chair", "vote", "p1", ""), "vote '' is none of"),
    (DecisionSession, says("chair", "evaluate", "p1", "MAYBE", confidence=1), "recommendation 'MAYBE' is none of"),
    (DecisionSession, confidence(1.01), r"confidence 1\.01 is not in \[0, 1\]"),
    (DecisionSession, confidence(-0.1), "confidence -0.1 is not in"),
    (DecisionSession, confidence(float("nan")), "confidence nan is not in"),
    (DecisionSession, says("chair", "raise_objection", "p1", reason="r", severity="CRITICAL"), "severity 'CRITICAL'"),
    (DecisionSession, says("chair", "raise_objection", "p1", reason="r", severity=""), "severity '' is none of low"),
    (ProposalSession, says("chair", "propose", " ", "100"), "proposal_id must not be blank"),
    (ProposalSession, says("chair", "counter_propose", "", "p1", "90"), "proposal_id must not be blank"),
    (ProposalSession, says("chair", "counter_propose", "p2", "", "90"), "supersedes_proposal_id must not be blank"),
    (TaskSession, says("chair", "request_task", "", "sum"), "task_id must not be blank"),
    (TaskSession, says("chair", "update_task", "t1", progress=float("inf")), "progress inf is no number"),
    (HandoffSession, says("chair", "offer", "", "alice"), "handoff_id must not be blank"),
    (HandoffSession, says("chair", "offer", "h1", ""), "target_participant must not be blank"),
    (QuorumSession, says("chair", "request_approval", "", "go", required_approvals=1), "request_id must not be blank"),
    (QuorumSession, says("chair", "request_approval", "r1", "go", required_approvals=0), "required_approvals is 0"),
    (MultiRoundSession, says("chair", "contribute", ""), "value must not be empty"),
]


class TestRefusedBeforeTheWire:
    @pytest.mark.parametrize(
        ("form", "line", "why"), REFUSED_HERE, ids=lambda one: one[1] if isinstance(one, tuple) else ""
    )
    def test_by_every_rule_about_a_message_alone(self, form: type[Session], line: Line, why: str) -> None:
        _who, name, args, kwargs = line
        with MacpClient.embedded(agent="chair") as client:
            session = form(client)  # not even started: nobody is asked
            for face in (session, session.rx):
                with pytest.raises(MacpSessionError, match=why):
                    getattr(face, name)(*args, **kwargs)

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"ttl_ms": 0}, "ttl_ms 0 is not in 1 to 86400000"),
            ({"ttl_ms": 86_400_001}, "ttl_ms 86400001 is not in"),
            ({"participants": ["a", "a"]}, "'a' is named twice"),
            ({"participants": [""]}, "name must not be blank"),
            ({"participants": [f"a{number}" for number in range(1001)]}, "1001 participants"),
            ({"max_suspend_ms": -1}, "max_suspend_ms -1 is negative"),
        ],
    )
    @pytest.mark.parametrize("form", VERBS)
    def test_a_start(self, form: type[Session], changes: dict[str, Any], why: str) -> None:
        said: dict[str, Any] = {"intent": "x", "participants": ["chair", "alice"], "ttl_ms": 60_000, **changes}
        with MacpClient.embedded(agent="chair") as client:
            session = form(client)
            for face in (session, session.rx):
                with pytest.raises(MacpSessionError, match=why):
                    face.start(**said)

    def test_a_message_of_another_mode(self, client: MacpClient) -> None:
        for face in (TaskSession(client), TaskSession(client).rx):
            with pytest.raises(
                MacpSessionError, match=f"a Vote of {decision.MODE} cannot be said in a session of {task.MODE}"
            ):
                face.send(decision.vote("p1", "APPROVE"))

    def test_a_payload_without_its_message(self, client: MacpClient) -> None:
        payload: Any = VotePayload(proposal_id="p1", vote="APPROVE")
        with pytest.raises(MacpSessionError, match=r"is a Message, such as decision\.vote"):
            DecisionSession(client).rx.send(payload)

    def test_a_policy_of_another_mode_is_the_runtimes_to_refuse(self, client: MacpClient) -> None:
        policy_id = f"policy.test.{client.clock.new_id()}"
        client.register_policy(PolicyDescriptor(policy_id=policy_id, mode=task.MODE, schema_version=3))
        with pytest.raises(MacpAckError, match="INVALID_POLICY_DEFINITION"):
            DecisionSession(client, policy_version=policy_id).start(intent="x", participants=["chair"], ttl_ms=5000)


def test_the_runtimes_agree_about_who_may_speak(connect: Connect) -> None:
    """A client of its own for each speaker does as well as acting_as."""
    session = QuorumSession(connect("chair"))
    session.start(intent="two keys", participants=["alice", "bob"], ttl_ms=60_000)
    session.request_approval("r1", "deploy", required_approvals=2)
    for name in ("alice", "bob"):
        QuorumSession(connect(name), session.session_id).approve("r1")
    assert session.state().voted_senders == ("alice", "bob")
