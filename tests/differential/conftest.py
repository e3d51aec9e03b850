"""How much the differential test plays: ``--differential-sessions N`` per mode, or one ``--differential-seed MODE:N``."""

from __future__ import annotations

import pytest

from tests.differential.generator import MODES

DEFAULT_SESSIONS = 150
REPORTS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("differential test")
    group.addoption("--differential-sessions", type=int, default=DEFAULT_SESSIONS, help="random sessions per mode")
    group.addoption("--differential-first", type=int, default=0, help="the first seed of each mode")
    group.addoption("--differential-seed", action="append", default=[], metavar="MODE:N", help="play only this session")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    chosen = option("--differential-seed", [])
    if chosen:
        metafunc.parametrize("seeds", [[seed] for seed in chosen], ids=chosen)
        return
    first = option("--differential-first", 0)
    numbers = range(first, first + option("--differential-sessions", DEFAULT_SESSIONS))
    metafunc.parametrize("seeds", [[f"{mode}:{n}" for n in numbers] for mode in MODES], ids=list(MODES))


@pytest.fixture
def reports(request: pytest.FixtureRequest) -> list[str]:
    """What is said of the runs at the end of the session."""
    return request.config.stash.setdefault(REPORTS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(REPORTS, [])
    if lines:
        terminalreporter.section("differential test")
        for line in lines:
            terminalreporter.line(line)
