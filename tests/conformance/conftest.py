"""The conformance fixtures of the MACP specification, and vectors of our own; ``--conformance DIR`` adds folders of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.fixtures import Fixture, vectors

HERE = [Path(__file__).parent / "data", Path(__file__).parent / "ours"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = [*HERE, *metafunc.config.getoption("--conformance", [])]
    paths = [path for folder in folders for path in sorted(folder.glob("*.json")) if path.name != "schema.json"]
    found = [Fixture(path.stem, path.read_text()) for path in paths]
    if "clocked_fixture" in metafunc.fixturenames:
        clocked = [fixture for fixture in found if fixture.clocked]
        metafunc.parametrize("clocked_fixture", clocked, ids=lambda fixture: fixture.name)
    if "fixture" in metafunc.fixturenames:
        # what says when each message is accepted needs a clock that obeys: the pure functions', or a virtual one
        if "connect" in metafunc.fixturenames:
            found = [fixture for fixture in found if not fixture.clocked]
        metafunc.parametrize("fixture", found, ids=lambda fixture: fixture.name)
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
    folders = [*HERE, *request.config.getoption("--conformance", [])]
    return {vector["name"]: vector["hash"] for vector in vectors(folders, "cmt-hash") if "hash" in vector}
