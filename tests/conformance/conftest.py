"""The conformance fixtures of the MACP specification; ``--conformance DIR`` adds folders of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.fixtures import Fixture, vectors

HERE = Path(__file__).parent / "data"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = [HERE, *metafunc.config.getoption("--conformance", [])]
    found = [
        Fixture(path) for folder in folders for path in sorted(folder.glob("*.json")) if path.name != "schema.json"
    ]
    if "clocked_fixture" in metafunc.fixturenames:
        clocked = [fixture for fixture in found if fixture.clocked]
        metafunc.parametrize("clocked_fixture", clocked, ids=lambda fixture: fixture.name)
    if "fixture" in metafunc.fixturenames:
        # what says when each message is accepted needs a clock that obeys: the pure functions', or a virtual one
        if "connect" in metafunc.fixturenames:
            found = [fixture for fixture in found if not fixture.clocked]
        metafunc.parametrize("fixture", found, ids=lambda fixture: fixture.name)
    if "vector" in metafunc.fixturenames:
        metafunc.parametrize("vector", vectors(folders), ids=lambda vector: vector["name"])
