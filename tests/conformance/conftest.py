"""The conformance fixtures of the MACP specification, and vectors of our own; ``--conformance DIR`` adds folders of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.fixtures import Fixture, vectors

HERE = [Path(__file__).parent / "data", Path(__file__).parent / "ours"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance", action="append", type=Path, default=[], help="another folder of fixtures")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = [*HERE, *metafunc.config.getoption("--conformance", [])]
    if "fixture" in metafunc.fixturenames:
        found = [
            Fixture(path) for folder in folders for path in sorted(folder.glob("*.json")) if path.name != "schema.json"
        ]
        metafunc.parametrize("fixture", found, ids=lambda fixture: fixture.name)
    hashes = vectors(folders, "cmt-hash")
    for name, found in (
        ("hash_vector", [vector for vector in hashes if "hash" in vector]),
        ("claim_vector", [vector for vector in hashes if "claimed_hash" in vector]),
        ("receipt_vector", vectors(folders, "receipt")),
    ):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, found, ids=lambda vector: vector["name"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fixtures that register a policy run on the real server alone until the policies' rules are here (issue 5)."""
    waiting = [item for item in items if _waits_for_policies(item)]
    items[:] = [item for item in items if item not in waiting]
    config.hook.pytest_deselected(items=waiting)


def _waits_for_policies(item: pytest.Item) -> bool:
    values = getattr(getattr(item, "callspec", None), "params", {})
    fixture = values.get("fixture")
    return isinstance(fixture, Fixture) and fixture.needs_policy and values.get("connect") != "server"


@pytest.fixture(scope="session")
def hashes_by_name(request: pytest.FixtureRequest) -> dict[str, str]:
    """What the vectors hash to, by name: some must differ from another."""
    folders = [*HERE, *request.config.getoption("--conformance", [])]
    return {vector["name"]: vector["hash"] for vector in vectors(folders, "cmt-hash") if "hash" in vector}
