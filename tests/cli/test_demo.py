"""demo: a coordination in each mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import ran, refused, run

SAYS = {
    "decision": ("macp.mode.decision.v1", "canary: 2 approve, 1 reject, 0 abstain", "rollout.approved"),
    "proposal": ("macp.mode.proposal.v1", "converged", "deal.accepted"),
    "task": ("macp.mode.task.v1", "in progress · 80%", "task.completed"),
    "handoff": ("macp.mode.handoff.v1", "context sharing", "handoff.accepted"),
    "quorum": ("macp.mode.quorum.v1", "2 approve, 0 reject, 1 abstain of 3, 2 needed", "deletion.approved"),
    "multi_round": ("ext.multi_round.v1", "converged · round 5", "estimate.accepted"),
}


@pytest.mark.parametrize("mode", SAYS)
def test_each_mode_is_resolved_in_the_process(mode: str) -> None:
    shown = ran("demo", mode, "--pace", "0")
    for piece in SAYS[mode]:
        assert piece in shown
    assert shown.splitlines()[-1].startswith("RESOLVED ")


@pytest.mark.parametrize("mode", SAYS)
def test_each_mode_is_resolved_on_a_server(target: str, mode: str) -> None:
    assert SAYS[mode][2] in ran("demo", mode, "--pace", "0.05", "--target", target)


def test_a_decision_is_the_one_without_a_name() -> None:
    assert "macp.mode.decision.v1" in ran("demo", "--pace", "0")


def test_the_runtime_may_be_named_by_the_environment(port: str) -> None:
    session_id = ran("demo", "--pace", "0", MACP_TARGET=port).split()[1]
    assert session_id in ran("sessions", "--agent", "x", "--target", port)


def test_it_is_drawn(tmp_path: Path) -> None:
    ran("demo", "quorum", "--pace", "0", "--svg", tmp_path / "out.svg")
    drawn = (tmp_path / "out.svg").read_text()
    assert drawn.startswith("<svg")
    for name in ("operator", "alice", "bob", "carol"):
        assert name in drawn


def test_a_picture_of_another_kind_is_refused_before_anything_runs(tmp_path: Path) -> None:
    shown = run("demo", "--svg", str(tmp_path / "out.gif"))
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "--svg writes a .svg" in shown.stderr


def test_bad_input_is_told() -> None:
    assert "'nonsense' is not one of" in refused(2, "demo", "nonsense")
    assert "--pace" in refused(2, "demo", "--pace", "-1")
