"""simulate: a file under virtual time, once and many times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import lines, ran, refused

EXAMPLES = Path(__file__).parents[2] / "examples"
ROLLOUT = EXAMPLES / "rollout.py"
SLOW = f'''
coordination = "{ROLLOUT}"

[conditions.ops]
thinking = {{ LogNormal = [2, 0.5] }}
latency = 0.05

[conditions.lead]
cut_every = {{ Exponential = 5 }}
outage = {{ Choice = [0.1, 0.2] }}
'''


@pytest.mark.parametrize(
    "example", sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "hundred_sessions")
)
def test_each_example_is_resolved(example: str) -> None:
    shown = ran("simulate", EXAMPLES / f"{example}.py").splitlines()
    assert shown[-2].startswith("RESOLVED ")
    assert "virtual seconds, seed 0, digest " in shown[-1]


def test_equal_seeds_give_equal_runs(tmp_path: Path) -> None:
    (tmp_path / "slow.toml").write_text(SLOW)

    def digest(seed: int) -> str:
        (run,) = lines("simulate", tmp_path / "slow.toml", "--seed", str(seed), "--json")
        return str(run["digest"])

    assert digest(7) == digest(7) != digest(8)


def test_files_side_by_side_as_a_table_and_as_records(tmp_path: Path) -> None:
    slow = tmp_path / "slow.toml"
    slow.write_text(SLOW)
    asked = ("simulate", ROLLOUT, slow, "--seeds", "8")
    shown = ran(*asked)
    assert [line.split("│")[2].strip() for line in shown.splitlines() if line.startswith("│")] == ["8", "8"]
    records = lines(*asked, "--json", "--workers", "1")
    assert [(each["file"], each["seed"]) for each in records] == [
        (str(file), seed) for file in (ROLLOUT, slow) for seed in range(8)
    ]
    assert records == lines(*asked, "--json", "--workers", "2")


def test_a_module_may_say_more(tmp_path: Path) -> None:
    (tmp_path / "who.py").write_text('WHO = ["chair"]\n')
    file = tmp_path / "mine.py"
    file.write_text(
        """
from who import WHO
from macp_rx import SessionStart, agents
from macp_rx.protocol.modes import decision
from macp_rx.simulation import Conditions

START = SessionStart(mode=decision.MODE, intent="x", participants=WHO, ttl_ms=60_000)
AGENTS = {"chair": agents.merge(agents.voter(lambda _: "APPROVE"), agents.majority_committer(action="x.approved"))}
OPENING = [decision.propose("p1", "x")]
CONDITIONS = {"chair": Conditions(thinking=10)}
"""
    )
    (run,) = lines("simulate", file, "--json")
    assert (run["state"], run["messages"], run["seconds"]) == ("RESOLVED", 4, 20.0)


def test_refusals_and_broken_agents_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(
        """
from macp_rx import SessionStart, agents
from macp_rx.protocol.modes import decision

START = SessionStart(mode=decision.MODE, intent="x", participants=["chair", "bob"], ttl_ms=60_000)


def break_down(_proposal):
    raise ValueError("out of order")


AGENTS = {
    "chair": agents.opening(decision.propose("p1", "x"), decision.vote("p2", "APPROVE")),
    "bob": agents.voter(break_down),
}
"""
    )
    shown = ran("simulate", file)
    assert "refused chair: Vote: INVALID_ENVELOPE" in shown
    assert "ended bob: ValueError: out of order" in shown
    assert "EXPIRED its deadline has passed" in shown


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.py", "AGENTS = {\n 1/0}\n", "x.py, line 2: ZeroDivisionError"),
        ("x.py", "def\n", "x.py, line 1: SyntaxError"),
        ("x.py", "import nowhere_at_all\n", "No module named 'nowhere_at_all'"),
        ("x.py", "AGENTS = {}\n", "needs AGENTS, a dict of name -> agent, and START, a SessionStart"),
        ("x.txt", "hello", "neither a Python file nor a .toml"),
        ("x.toml", "x=", "x.toml: "),
        ("x.toml", "", 'it has coordination = "rollout.py"'),
        ("x.toml", 'coordination = "none.py"', "there is no "),
        ("x.toml", f'coordination = "{ROLLOUT}"\nseed = 3', "and no seed"),
        ("x.toml", f'coordination = "{ROLLOUT}"\n[conditions.bob]\nlatency = 1', "conditions names bob"),
        ("x.toml", f'coordination = "{ROLLOUT}"\n[conditions.ops]\nslow = 1', "and no slow"),
        (
            "x.toml",
            f'coordination = "{ROLLOUT}"\n[conditions.ops]\nlatency = "1"',
            "ops.latency is a number, or one of",
        ),
        ("x.toml", f'coordination = "{ROLLOUT}"\n[conditions.ops]\nlatency = -1', "latency is a number of seconds"),
        (
            "x.toml",
            f'coordination = "{ROLLOUT}"\n[conditions.ops]\nlatency = {{ Uniform = 1 }}',
            "Uniform does not take 1",
        ),
        ("x.toml", f'coordination = "{ROLLOUT}"\n[conditions]\nops = 1', "[conditions.ops] is a table"),
    ],
)
def test_bad_files_are_told(tmp_path: Path, name: str, content: str, says: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    assert says in refused(2, "simulate", file)


def test_bad_input_is_told(tmp_path: Path) -> None:
    assert "does not exist" in refused(2, "simulate", tmp_path / "none.py")
    assert "--seeds" in refused(2, "simulate", ROLLOUT, "--seeds", "-1")
    assert "Missing argument" in refused(2, "simulate")
