"""The runner itself: what it would pass in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import HERE
from tests.conformance.fixtures import Fixture, check_given
from tests.conformance.test_conformance import test_the_pure_functions_conform as conforms

DATA = HERE[0]


def test_a_folder_of_fixtures_or_of_vectors_can_be_given() -> None:
    for folder in HERE:
        check_given(folder)


@pytest.mark.parametrize("folder", ["nowhere", "empty", "one-level-up", "only-a-schema"])
def test_a_folder_without_a_fixture_is_an_error(tmp_path: Path, folder: str) -> None:
    for made in ("empty", "one-level-up/folder", "only-a-schema"):
        (tmp_path / made).mkdir(parents=True)
    shutil.copy(DATA / "decision_happy_path.json", tmp_path / "one-level-up/folder")
    shutil.copy(DATA / "schema.json", tmp_path / "only-a-schema")
    with pytest.raises(pytest.UsageError, match=f"--conformance .*{folder}: no fixture there"):
        check_given(tmp_path / folder)


@pytest.fixture
def changed() -> Callable[..., Fixture]:
    def change(**members: Any) -> Fixture:
        """The happy path, with members of its own."""
        read = json.loads((DATA / "decision_happy_path.json").read_text())
        return Fixture("changed", json.dumps({**read, **members}))

    return change


@pytest.mark.parametrize(
    "expectation",
    [
        {"expect_resolution_present": False},
        {"expected_resolution": {"action": "another"}},
        {"expected_final_state": "Open"},
        {"expected_mode_state": {"phase": "Voting"}},
        {"expected_history": []},
    ],
)
def test_an_expectation_that_does_not_hold_fails(
    changed: Callable[..., Fixture], expectation: dict[str, object]
) -> None:
    conforms(changed())
    with pytest.raises(AssertionError):
        conforms(changed(**expectation))


def test_a_fixture_says_whether_it_is_replayed(changed: Callable[..., Fixture]) -> None:
    assert changed().replays
    assert not changed(verify_replay_equivalence=False).replays
