"""macp-rx simulate: a coordination of a file under virtual time, once or many times."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import sys
import tomllib
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer
from rich.text import Text

from macp_rx.cli.terminal import console, plain, print_json, show
from macp_rx.errors import MacpSessionError

if TYPE_CHECKING:
    from macp.v1.policy_pb2 import PolicyDescriptor

    from macp_rx.protocol.messages import Message
    from macp_rx.protocol.start import SessionStart
    from macp_rx.session import Agent
    from macp_rx.simulation import Conditions, Record, Simulation

__all__ = ["played", "simulate"]

KEYS: Final = frozenset({"coordination", "conditions"})


@dataclass(frozen=True, slots=True)
class Coordination:
    """What a file says: who takes part in what, and what it is like for them.

    Attributes:
        agents: name -> what it does.
        start: what the session is opened with.
        policy: one to register before.
        opening: what the first agent says first.
        conditions: name -> what it is like.
    """

    agents: Mapping[str, Agent]
    start: SessionStart
    policy: PolicyDescriptor | None = None
    opening: Sequence[Message[Any]] = ()
    conditions: Mapping[str, Conditions] | Conditions = field(default_factory=dict[str, "Conditions"])


def simulate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A module with AGENTS and START; or a .toml that names one, and the conditions of its agents.",
            exists=True,
            dir_okay=False,
        ),
    ],
    seed: Annotated[int, typer.Option(help="Of the chance in it.")] = 0,
    seeds: Annotated[int, typer.Option(help="Run each file with so many seeds, and print the table.", min=0)] = 0,
    workers: Annotated[
        int, typer.Option(help="Processes; 0 is as many as there are cores.", min=0, show_default="0")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each run.")] = False,
) -> None:
    """Runs a coordination under virtual time: hours take milliseconds, and equal seeds give equal runs.

    A module has AGENTS, a dict of name -> agent, of which the first opens the session, and START, a SessionStart. It may have
    POLICY, OPENING (messages) and CONDITIONS. A .toml has coordination = "rollout.py" and tables [conditions.NAME].

    Example: macp-rx simulate rollout.py slow_reviewer.toml --seeds 200
    """
    from macp_rx.simulation import sweep

    for file in files:
        coordination_of(file)  # what is wrong in it is told before anything runs
    if not seeds and len(files) == 1:
        _shown(played(str(files[0]), seed=seed), as_json=as_json)
        return
    chosen = range(seed, seed + max(1, seeds))
    found = sweep(played, {"file": [str(file) for file in files]}, seeds=chosen, workers=workers or None)
    if as_json:
        for record in found:
            print_json(_record(record))
    else:
        console().print(found.__rich__())


def played(file: str, *, seed: int) -> Simulation:
    """One run of a file. A function of a module, so that a fresh process finds it."""
    from macp_rx import simulation

    logging.getLogger("macp_rx").setLevel(logging.ERROR)  # that a simulated connection was lost is no news
    coordination = coordination_of(Path(file))
    return simulation.simulate(
        coordination.agents,
        coordination.start,
        opening=coordination.opening,
        policy=coordination.policy,
        conditions=coordination.conditions,
        seed=seed,
    )


@cache
def coordination_of(file: Path) -> Coordination:
    """Reads a file, once a process.

    Raises:
        MacpSessionError: what is wrong in it, and where.
    """
    return _from_toml(file) if file.suffix == ".toml" else _from_module(file)


def _from_module(file: Path) -> Coordination:
    from macp_rx.protocol.start import SessionStart

    name = f"simulated_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise MacpSessionError(f"{file} is neither a Python file nor a .toml")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    sys.path.insert(0, str(file.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MacpSessionError(f"{_where(error, file)}: {type(error).__name__}: {error}") from None
    finally:
        sys.path.pop(0)
    agents, start = getattr(module, "AGENTS", None), getattr(module, "START", None)
    if not isinstance(agents, Mapping) or not isinstance(start, SessionStart):
        raise MacpSessionError(f"{file} needs AGENTS, a dict of name -> agent, and START, a SessionStart")
    return Coordination(
        cast("Mapping[str, Agent]", agents),
        start,
        getattr(module, "POLICY", None),
        getattr(module, "OPENING", ()),
        getattr(module, "CONDITIONS", {}),
    )


def _where(error: Exception, file: Path) -> str:
    """The line of the file that an error came through last."""
    if isinstance(error, SyntaxError):
        return f"{file}, line {error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file.resolve()
    ]
    lines += [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return f"{file}, line {lines[-1]}" if lines else str(file)


def _from_toml(file: Path) -> Coordination:
    try:
        read = tomllib.loads(file.read_text())
        unknown = sorted(read.keys() - KEYS)
        if unknown or not isinstance(read.get("coordination"), str):
            raise MacpSessionError(f'it has coordination = "rollout.py" and tables [conditions.NAME]{_not(unknown)}')
        conditions = {name: _conditions(name, its) for name, its in read.get("conditions", {}).items()}
    except (MacpSessionError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MacpSessionError(f"{file}: {error}") from None
    module = file.parent / read["coordination"]
    if not module.is_file():
        raise MacpSessionError(f"{file}: there is no {module}")
    coordination = _from_module(module)
    strangers = sorted(conditions.keys() - coordination.agents.keys())
    if strangers:
        raise MacpSessionError(
            f"{file}: conditions names {', '.join(strangers)}, and the agents are {', '.join(coordination.agents)}"
        )
    return dataclasses.replace(coordination, conditions=conditions)


def _not(unknown: Sequence[str]) -> str:
    return f", and no {', '.join(unknown)}" if unknown else ""


def _conditions(name: str, given: object) -> Conditions:
    from macp_rx.simulation import Conditions

    known = {each.name for each in dataclasses.fields(Conditions)}
    if not isinstance(given, Mapping):
        raise MacpSessionError(f"[conditions.{name}] is a table of {', '.join(sorted(known))}")
    its = cast("Mapping[str, object]", given)
    unknown = sorted(its.keys() - known)
    if unknown:
        raise MacpSessionError(f"[conditions.{name}] has {', '.join(sorted(known))}{_not(unknown)}")
    try:
        return Conditions(**{key: _number(f"{name}.{key}", value) for key, value in its.items()})
    except MacpSessionError as error:
        raise MacpSessionError(f"[conditions.{name}]: {error}") from None


def _number(where: str, value: object) -> Any:
    """A number, or how to draw one: ``{ LogNormal = [2, 0.5] }``."""
    from macp_rx.simulation import Choice, Exponential, LogNormal, Uniform

    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    chances = {each.__name__: each for each in (Uniform, Exponential, LogNormal, Choice)}
    if isinstance(value, Mapping) and len(cast("Mapping[str, object]", value)) == 1:
        ((name, given),) = cast("Mapping[str, Any]", value).items()
        if name in chances:
            takes_several = isinstance(given, list) and name != "Choice"
            try:
                return cast("Any", chances[name])(*(given if takes_several else [given]))
            except TypeError:
                raise MacpSessionError(f"{where}: {name} does not take {given!r}") from None
    raise MacpSessionError(f"{where} is a number, or one of {', '.join(chances)}, such as {{ LogNormal = [2, 0.5] }}")


def _shown(simulation: Simulation, *, as_json: bool) -> None:
    from macp_rx.cli.demo import verdict

    if as_json:
        print_json(
            {
                "seed": simulation.seed,
                "state": simulation.outcome.state,
                "positive": simulation.outcome.positive,
                "seconds": simulation.seconds,
                "messages": len(simulation.accepted),
                "refusals": len(simulation.refusals),
                "errors": sorted(simulation.errors),
                "digest": simulation.digest,
            }
        )
        return
    out = console()
    _lanes(simulation)
    for refusal in simulation.refusals:
        reasons = "; ".join(denial.message for denial in refusal.denials)
        show(
            out,
            Text.assemble(
                ("refused ", "red"), plain(f"{refusal.sender}: {refusal.message_type}: {refusal.code} {reasons}")
            ),
        )
    for name, error in simulation.errors.items():
        show(out, Text.assemble(("ended ", "red"), plain(f"{name}: {type(error).__name__}: {error}")))
    show(out, verdict(simulation.outcome))
    show(
        out,
        Text(f"{simulation.seconds:g} virtual seconds, seed {simulation.seed}, digest {simulation.digest[:16]}", "dim"),
    )


def _lanes(simulation: Simulation) -> None:
    from macp_rx.cli.lanes import Lanes

    lanes = Lanes(console())
    for accepted in simulation.accepted:
        lanes.show(accepted)


def _record(record: Record) -> dict[str, object]:
    members = {each.name: getattr(record, each.name) for each in dataclasses.fields(record) if each.name != "settings"}
    return {**record.settings, **members, "errors": list(record.errors), "measures": dict(record.measures)}
