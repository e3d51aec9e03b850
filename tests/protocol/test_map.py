"""Map: what a dict does, whatever is made of it, while every earlier one stays as it was."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from macp_rx.protocol.map import Map
from macp_rx.protocol.modes.decision import State


class Alike:
    """A key whose hash says little: all of them meet in a few leaves, some in one for ever."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        return self.number % 3 - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike) and self.number == other.number


KEYS = st.integers(-90, 90) | st.integers(0, 90).map(Alike) | st.integers(0, 90).map(str)


class BesideADict(RuleBasedStateMachine):
    """Both are told the same; what was a Map once is that Map for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.map: Map[object, int] = Map()
        self.dict: dict[object, int] = {}
        self.earlier: list[tuple[Map[object, int], dict[object, int]]] = []

    @rule(key=KEYS, value=st.integers())
    def an_entry(self, key: object, value: int) -> None:
        self.earlier.append((self.map, dict(self.dict)))
        self.map = self.map.set(key, value)
        self.dict[key] = value

    @rule(first=st.integers(0, 1000), count=st.integers(1, 120))
    def many_entries(self, first: int, count: int) -> None:
        self.earlier.append((self.map, dict(self.dict)))
        for number in range(first, first + count):
            self.map = self.map.set(Alike(number) if number % 2 else number, number)
            self.dict[Alike(number) if number % 2 else number] = number

    @rule(key=KEYS)
    def one_less(self, key: object) -> None:
        self.earlier.append((self.map, dict(self.dict)))
        if key in self.dict:
            self.map = self.map.delete(key)
            del self.dict[key]
        else:
            with pytest.raises(KeyError):
                self.map.delete(key)

    @rule(key=KEYS)
    def looked_up(self, key: object) -> None:
        assert (key in self.map) == (key in self.dict)
        assert self.map.get(key, "none") == self.dict.get(key, "none")
        if key in self.dict:
            assert self.map[key] == self.dict[key]
        else:
            with pytest.raises(KeyError):
                self.map[key]

    @invariant()
    def alike(self) -> None:
        assert self.map == self.dict
        assert len(self.map) == len(self.dict)
        assert dict(self.map.items()) == self.dict
        assert set(self.map) == set(self.map.keys()) == set(self.dict)
        assert sorted(self.map.values()) == sorted(self.dict.values())

    def teardown(self) -> None:
        for was, should_be in self.earlier:
            assert was == should_be


TestBesideADict = BesideADict.TestCase
TestBesideADict.settings = settings(max_examples=60, stateful_step_count=20)


@given(st.dictionaries(KEYS, st.integers(), max_size=200))
def test_it_is_the_same_however_it_was_made(entries: dict[object, int]) -> None:
    made = Map(entries)
    step_by_step: Map[object, int] = Map()
    for key, value in reversed(entries.items()):
        step_by_step = step_by_step.set(key, value)
    assert made == step_by_step == Map(entries.items()) == entries
    assert hash(made) == hash(step_by_step)
    assert (made == Map({**entries, "another": 1})) is False


def test_it_is_a_value_that_can_be_printed_sent_and_asked_for_its_type() -> None:
    large = Map((str(number), number) for number in range(1000))
    assert pickle.loads(pickle.dumps(large)) == large
    assert repr(Map({"a": 1}).set("b", 2)) == "Map({'a': 1, 'b': 2})"
    assert isinstance(large, Mapping)
    assert large != 5
    assert "votes" in get_type_hints(State)
