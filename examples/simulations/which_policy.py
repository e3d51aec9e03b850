"""Majority or unanimous, with one slow agent? Ten minutes of thinking about it, or two thousand simulated decisions.

Five reviewers vote on a rollout. Four of them usually take two seconds; the fifth takes longer, as one that asks a model
on a bad day does. The chair commits as soon as its rule is certain, and gives up after 30 seconds. Each rule meets each
slowness 250 times.

    python examples/simulations/which_policy.py           the table
    python examples/simulations/which_policy.py out.png   the table, and a plot (needs matplotlib)
"""

import sys
from collections.abc import Mapping

from reactivex import Observable
from reactivex import operators as ops

from macp_rx import Accepted, Agent, Message, SessionStart, agents
from macp_rx import operators as mo
from macp_rx.protocol.messages import DECISION
from macp_rx.protocol.modes import decision
from macp_rx.simulation import Conditions, LogNormal, Simulation, Sweep, simulate, sweep

REVIEWERS = ("alice", "bob", "carol", "dave", "eve")
START = SessionStart(mode=DECISION, intent="pick a rollout", participants=("chair", *REVIEWERS), ttl_ms=60_000)
SLOW = [2.0, 5.0, 10.0, 20.0]
RULES = {"majority": mo.majority(REVIEWERS), "unanimous": mo.unanimous(REVIEWERS)}


def chair(rule: str) -> Agent:
    """Commits to what the rule says, as soon as no vote that is left can change it."""

    def agent(events: Observable[Accepted]) -> Observable[Message]:
        return events.pipe(
            mo.of_type(decision.VotePayload),
            RULES[rule],
            mo.within(30, otherwise=mo.UNDECIDED),
            ops.take(1),
            mo.commit_if_decided(action="rollout.approved", declined="rollout.declined"),
        )

    return agent


def rollout(rule: str, slow: float, *, seed: int) -> Simulation:
    """One decision: everybody approves; the question is only when it is certain."""
    panel: Mapping[str, Agent] = {name: agents.voter(lambda _proposal: "APPROVE") for name in REVIEWERS}
    usual = {name: Conditions(thinking=LogNormal(2)) for name in REVIEWERS}
    return simulate(
        {"chair": chair(rule), **panel},
        START,
        opening=[decision.propose("p1", "canary")],
        conditions={**usual, "eve": Conditions(thinking=LogNormal(slow))},
        seed=seed,
    )


def plot(found: Sweep, file: str) -> None:
    """Seconds until the commitment, by how slow the fifth reviewer is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for rule, colour in (("majority", "tab:blue"), ("unanimous", "tab:orange")):
        mine = [one for one in found.by("rule", "slow") if one.settings["rule"] == rule]
        axes.plot(SLOW, [one.median for one in mine], color=colour, marker="o", label=f"{rule}: half of the decisions")
        axes.plot(SLOW, [one.slowest for one in mine], color=colour, linestyle=":", label=f"{rule}: nine in ten")
    axes.set(xlabel="seconds that the slowest reviewer usually takes", ylabel="seconds until the commitment", ylim=0)
    axes.set_title("What does one slow reviewer cost?")
    axes.legend(frameon=False)
    figure.savefig(file)


if __name__ == "__main__":
    found = sweep(rollout, {"rule": list(RULES), "slow": SLOW}, seeds=250)
    print(found)
    if len(sys.argv) > 1:
        plot(found, sys.argv[1])
