"""The conformance fixtures of the MACP specification, and vectors of our own; ``--conformance DIR`` adds folders of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.fixtures import check_given, found, vectors

HERE = [Path(__file__).parent / "data", Path(__file__).parent / "ours"]


def folders_of(config: pytest.Config) -> list[Path]:
    """Where the fixtures are."""
    given: list[Path] = config.getoption("--conformance", [])
    for folder in given:
        check_given(folder)
    return [*HERE, *given]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = folders_of(metafunc.config)
    fixtures = [fixture for folder in folders for fixture in found(folder)]
    if "clocked_fixture" in metafunc.fixturenames:
        clocked = [fixture for fixture in fixtures if fixture.clocked]
        metafunc.parametrize("clocked_fixture", clocked, ids=lambda fixture: fixture.name)
    if "fixture" in metafunc.fixturenames:
        # what says when each message is accepted needs a clock that obeys: the pure functions', or a virtual one
        if "connect" in metafunc.fixturenames:
            fixtures = [fixture for fixture in fixtures if not fixture.clocked]
        metafunc.parametrize("fixture", fixtures, ids=lambda fixture: fixture.name)
    hashes = vectors(folders, "cmt-hash")
    for name, vectors_found in (
        ("hash_vector", [vector for vector in hashes if "hash" in vector]),
        ("claim_vector", [vector for vector in hashes if "claimed_hash" in vector]),
        ("receipt_vector", vectors(folders, "receipt")),
    ):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, vectors_found, ids=lambda vector: vector["name"])


@pytest.fixture(scope="session")
def hashes_by_name(request: pytest.FixtureRequest) -> dict[str, str]:
    """What the vectors hash to, by name: some must differ from another."""
    return {v["name"]: v["hash"] for v in vectors(folders_of(request.config), "cmt-hash") if "hash" in v}
