"""How much the differential test plays: ``--differential-sessions N`` per mode, or one ``--differential-seed MODE:N``."""

from __future__ import annotations

import pytest

from tests.differential.generator import MODES

DEFAULT_SESSIONS = 100
REPORTS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("differential test")
    group.addoption("--differential-sessions", type=int, default=DEFAULT_SESSIONS, help="random sessions per mode")
    group.addoption("--differential-first", type=int, default=0, help="the first seed of each mode")
    group.addoption("--differential-seed", action="append", default=[], metavar="MODE:N", help="play only this session")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.getoption
    chosen = option("--differential-seed", [])
    first, sessions = option("--differential-first", 0), option("--differential-sessions", DEFAULT_SESSIONS)
    if "seeds" in metafunc.fixturenames:
        by_mode = {mode: [f"{mode}:{first + number}" for number in range(sessions)] for mode in MODES}
        metafunc.parametrize("seeds", [chosen] if chosen else by_mode.values(), ids=["chosen"] if chosen else by_mode)
    if "seeds_of_all" in metafunc.fixturenames:
        mixed = [f"{mode}:{first + number}" for number in range(max(1, sessions // len(MODES))) for mode in MODES]
        metafunc.parametrize("seeds_of_all", [chosen or mixed], ids=["chosen" if chosen else "all"])


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
