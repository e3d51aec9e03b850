"""The help of every command, and that it comes quickly."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from macp_rx.cli import app
from tests.cli.commands import ran

COMMANDS = [
    ("demo",),
    ("serve",),
    ("studio",),
    ("doctor",),
    ("sessions",),
    ("watch",),
    ("send",),
    ("cancel",),
    ("suspend",),
    ("resume",),
    ("record",),
    ("replay",),
    ("marble",),
    ("receipt",),
    ("receipt-keys",),
    ("verify",),
    ("simulate",),
    ("modes",),
    ("policies", "list"),
    ("policies", "get"),
    ("policies", "register"),
    ("policies", "unregister"),
    ("policies", "what-if"),
]
OFFLINE = {("serve",), ("replay",), ("marble",), ("verify",), ("simulate",)}


def test_all_commands_are_listed_with_the_exit_statuses() -> None:
    shown = ran("--help")
    listed = {line.split()[1] for line in shown.splitlines() if line.startswith("│ ") and line[2] not in " -"}
    assert listed == {command[0] for command in COMMANDS}
    assert "Exit status: 0 done, 1 failed, 2 used wrongly, 3 refused" in shown


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_has_an_example_and_its_token_is_never_shown(command: tuple[str, ...]) -> None:
    shown = ran(*command, "--help", MACP_TOKEN="s3cret", MACP_AGENT="chair")
    assert f"Example: macp-rx {' '.join(command)}" in shown
    assert "s3cret" not in shown
    if command not in OFFLINE:
        for name in ("MACP_TARGET", "MACP_AGENT", "MACP_TOKEN", "MACP_CA", "MACP_INSECURE", "MACP_TIMEOUT"):
            assert f"env var: {name}" in shown


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_it_fits_into_a_hundred_columns(command: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "100"})
    assert max(map(len, shown.output.splitlines())) <= 100


def test_help_imports_neither_agents_nor_operators_nor_pictures() -> None:
    asked = "import sys, macp_rx.cli; print(*sorted(name for name in sys.modules if name.startswith('macp_rx.')))"
    imported = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"agents", "operators", "simulation", "diagrams", "transcript", "testing"}
    assert not heavy & {name.split(".")[1] for name in imported}


def test_a_shell_can_complete() -> None:
    shown = ran(_TYPER_COMPLETE_ARGS="macp-rx wa", _MACP_RX_COMPLETE="complete_zsh")
    assert "watch" in shown
