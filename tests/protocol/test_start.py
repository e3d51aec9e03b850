"""SessionStart: what a session is opened with, as one value."""

from __future__ import annotations

import dataclasses
import json
import pickle
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from macp.v1.core_pb2 import Root, SessionStartPayload

from macp_rx import MacpSessionError, SessionStart
from macp_rx.protocol.messages import DECISION, HANDOFF, MULTI_ROUND, PROPOSAL, QUORUM, TASK
from macp_rx.protocol.validation import MAX_PARTICIPANTS, MAX_TTL_MS

STRICT = (DECISION, PROPOSAL, TASK, HANDOFF, QUORUM, MULTI_ROUND)
LETTERS = list(string.ascii_letters)


def start(**changes: Any) -> SessionStart:
    fields: dict[str, Any] = {
        "mode": DECISION,
        "intent": "choose",
        "participants": ["chair", "alice"],
        "ttl_ms": 60_000,
    }
    return SessionStart(**{**fields, **changes})


class TestRules:
    @pytest.mark.parametrize("mode", [*STRICT, "ext.auction.v1"])
    @pytest.mark.parametrize("ttl_ms", [0, -1, MAX_TTL_MS + 1, 2**70])
    def test_a_ttl_out_of_range(self, mode: str, ttl_ms: int) -> None:
        with pytest.raises(MacpSessionError, match=f"ttl_ms {ttl_ms} is not in 1 to 86400000"):
            start(mode=mode, ttl_ms=ttl_ms)

    @pytest.mark.parametrize("ttl_ms", [1, MAX_TTL_MS])
    def test_the_shortest_and_the_longest_ttl(self, ttl_ms: int) -> None:
        assert start(ttl_ms=ttl_ms).ttl_ms == ttl_ms

    @pytest.mark.parametrize("mode", STRICT)
    @pytest.mark.parametrize("field", ["mode_version", "configuration_version"])
    @pytest.mark.parametrize("blank", ["", " ", "\u2003"])
    def test_a_version_that_is_blank(self, mode: str, field: str, blank: str) -> None:
        with pytest.raises(MacpSessionError, match=f"{field} must not be blank"):
            start(mode=mode, **{field: blank})

    def test_a_policy_may_be_left_to_the_runtime(self) -> None:
        assert start(policy_version="").message.payload.policy_version == ""

    @pytest.mark.parametrize("mode", STRICT[1:])
    def test_only_a_decision_may_be_without_participants(self, mode: str) -> None:
        assert start(participants=[]).participants == ()
        with pytest.raises(MacpSessionError, match="needs participants"):
            start(mode=mode, participants=[])

    def test_one_name_is_no_collection_of_names(self) -> None:
        with pytest.raises(MacpSessionError, match=r"not one name \('chair'\)"):
            start(participants="chair")

    @pytest.mark.parametrize(
        ("participants", "why"),
        [
            (["chair", "chair"], "'chair' is named twice"),
            (["chair", " chair\t"], "'chair' is named twice"),
            (["chair", " "], "a participant's name must not be blank"),
            ([f"a{number}" for number in range(MAX_PARTICIPANTS + 1)], "1001 participants are more than 1000"),
        ],
    )
    def test_participants_are_named_distinct_and_not_too_many(self, participants: list[str], why: str) -> None:
        with pytest.raises(MacpSessionError, match=why):
            start(participants=participants)

    def test_a_thousand_participants(self) -> None:
        assert len(start(participants=[f"a{number}" for number in range(MAX_PARTICIPANTS)]).participants) == 1000

    def test_a_negative_suspension(self) -> None:
        with pytest.raises(MacpSessionError, match="max_suspend_ms -1 is negative"):
            start(max_suspend_ms=-1)

    @pytest.mark.parametrize("mode", ["", " "])
    def test_a_blank_mode(self, mode: str) -> None:
        with pytest.raises(MacpSessionError, match="mode must not be blank"):
            start(mode=mode)

    def test_an_unknown_mode_demands_only_the_ttl(self) -> None:
        made = start(
            mode="ext.auction.v1",
            intent="",
            participants=["twice", "twice", ""],
            mode_version="",
            configuration_version="",
            max_suspend_ms=-1,
        )
        assert made.participants == ("twice", "twice", "")

    @pytest.mark.parametrize("mode", [DECISION, "ext.auction.v1"])
    @pytest.mark.parametrize(
        "wrong",
        [
            {"ttl_ms": "60000"},
            {"ttl_ms": 1.5},
            {"ttl_ms": True},
            {"max_suspend_ms": 2**70},
            {"participants": None},
            {"participants": [1]},
            {"participants": b"chair"},
            {"intent": "\ud800"},
            {"extensions": {"trace": "text"}},
            {"extensions": None},
            {"roots": ["file:///"]},
        ],
        ids=str,
    )
    def test_what_no_payload_can_say_is_told_at_once(self, mode: str, wrong: dict[str, Any]) -> None:
        with pytest.raises(MacpSessionError, match=r"a SessionStart cannot say this: ."):
            start(mode=mode, **wrong)


class TestValue:
    def test_equal_values_are_one_key(self) -> None:
        one = start(extensions={"a": b"1", "b": b"2"}, roots=[Root(uri="file:///")])
        same = start(extensions={"b": b"2", "a": b"1"}, roots=(Root(uri="file:///"),), participants=("chair", "alice"))
        assert one == same
        assert {one: "found"}[same] == "found"

    @pytest.mark.parametrize(
        "change",
        [
            {"mode": TASK},
            {"intent": "another"},
            {"participants": ["alice", "chair"]},
            {"ttl_ms": 1},
            {"mode_version": "2"},
            {"configuration_version": "2"},
            {"policy_version": "policy.std.majority"},
            {"context_id": "c"},
            {"extensions": {"a": b"1"}},
            {"roots": [Root(uri="file:///")]},
            {"max_suspend_ms": 5},
        ],
        ids=str,
    )
    def test_whatever_differs_makes_another(self, change: dict[str, Any]) -> None:
        assert start(**change) != start()

    def test_replace_makes_another_and_checks_it(self) -> None:
        one = start()
        assert dataclasses.replace(one, ttl_ms=5) == start(ttl_ms=5)
        assert one == start()
        with pytest.raises(MacpSessionError, match="ttl_ms 0"):
            dataclasses.replace(one, ttl_ms=0)

    def test_nobody_changes_it(self) -> None:
        made: Any = start()
        with pytest.raises(dataclasses.FrozenInstanceError):
            made.ttl_ms = 5

    def test_what_it_was_made_of_may_change(self) -> None:
        participants, extensions, root = ["chair"], {"a": b"1"}, Root(uri="before")
        made = start(participants=participants, extensions=extensions, roots=[root])
        participants.append("mallory")
        extensions["b"] = b"2"
        root.uri = "after"
        assert made == start(participants=["chair"], extensions={"a": b"1"}, roots=[Root(uri="before")])

    def test_it_goes_to_another_process(self) -> None:
        made = start(extensions={"a": b"1"}, roots=[Root(uri="file:///", name="home")])
        assert pickle.loads(pickle.dumps(made)) == made


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
starts = st.builds(
    SessionStart,
    mode=st.sampled_from([*STRICT, "ext.auction.v1"]),
    intent=texts,
    participants=st.lists(st.sampled_from(LETTERS), min_size=1, max_size=5, unique=True),
    ttl_ms=st.integers(1, MAX_TTL_MS),
    mode_version=st.sampled_from(["1.0.0", "2"]),
    configuration_version=st.sampled_from(["config.default", "ü"]),
    policy_version=texts,
    context_id=texts,
    extensions=st.dictionaries(texts, st.binary(max_size=8), max_size=3),
    roots=st.lists(st.builds(Root, uri=texts, name=texts), max_size=2),
    max_suspend_ms=st.integers(0, 2**63 - 1),
)


@given(starts)
def test_a_payload_says_all_of_it(made: SessionStart) -> None:
    message = made.message
    assert (message.mode, message.message_type) == (made.mode, "SessionStart")
    assert SessionStart.of(made.mode, SessionStartPayload.FromString(message.payload_bytes)) == made


@given(starts)
def test_json_says_all_of_it(made: SessionStart) -> None:
    assert SessionStart.from_json(made.to_json()) == made


@given(starts)
def test_equal_values_have_equal_hashes_and_texts(made: SessionStart) -> None:
    again = dataclasses.replace(made, extensions=dict(reversed(list(made.extensions.items()))))
    assert (made, hash(made), made.to_json()) == (again, hash(again), again.to_json())
    assert made.message.payload_bytes == again.message.payload_bytes


class TestJson:
    def test_it_is_the_payload_and_the_mode(self) -> None:
        text = start(extensions={"a": b"1"}).to_json()
        assert json.loads(text) == {
            "mode": DECISION,
            "intent": "choose",
            "participants": ["chair", "alice"],
            "ttl_ms": 60_000,
            "mode_version": "1.0.0",
            "configuration_version": "config.default",
            "policy_version": "policy.default",
            "context_id": "",
            "extensions": {"a": "MQ=="},
            "roots": [],
            "max_suspend_ms": 0,
        }

    def test_what_is_missing_has_its_default(self) -> None:
        text = f'{{"mode": "{DECISION}", "intent": "choose", "participants": ["chair", "alice"], "ttl_ms": 60000}}'
        assert SessionStart.from_json(text) == start()

    @pytest.mark.parametrize("text", ["[]", "null", '"mode"', "{}", '{"mode": 1}'])
    def test_no_object_with_a_mode(self, text: str) -> None:
        with pytest.raises(MacpSessionError, match='a JSON object with a "mode", such as'):
            SessionStart.from_json(text)

    @pytest.mark.parametrize(
        "text", ["", "{", "{'mode': 1}", '{"mode": NaN}', '{"mode": "a", "mode": "b"}', "\ufeff{}"]
    )
    def test_no_json(self, text: str) -> None:
        with pytest.raises(MacpSessionError, match="no JSON: "):
            SessionStart.from_json(text)

    @pytest.mark.parametrize(
        ("member", "why"),
        [
            ('"participants": "chair"', "participants must be an array, not 'chair'"),
            ('"participants": [1]', r"participants\[0\] cannot be 1"),
            ('"ttl_ms": "soon"', "ttl_ms cannot be 'soon'"),
            ('"ttl_ms": 1.5', "ttl_ms cannot be 1.5"),
            ('"ttl_ms": null', "ttl_ms cannot be None"),
            ('"extensions": {"a": "%"}', "extensions.a"),
            ('"extensions": ["a"]', "extensions must be an object"),
            ('"roots": [{"uri": 1}]', r"roots\[0\].uri cannot be 1"),
            ('"max_suspend_ms": -1', "max_suspend_ms -1 is negative"),
            ('"mode_version": ""', "mode_version must not be blank"),
        ],
    )
    def test_what_is_wrong_is_named(self, member: str, why: str) -> None:
        members = '"participants": ["chair"], "ttl_ms": 5' if "ttl" not in member else '"participants": ["chair"]'
        said = members if "participants" not in member else '"ttl_ms": 5'
        with pytest.raises(MacpSessionError, match=why):
            SessionStart.from_json(f'{{"mode": "{DECISION}", {said}, {member}}}')

    def test_a_member_of_another_version_is_no_harm(self) -> None:
        text = f'{{"mode": "{DECISION}", "participants": ["chair"], "ttl_ms": 5, "colour": "blue"}}'
        assert SessionStart.from_json(text).ttl_ms == 5
