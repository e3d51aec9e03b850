"""macp-rx policies: list, get, register, unregister, what-if."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer
from macp.v1 import policy_pb2
from rich.text import Text

from macp_rx.cli.connection import connected
from macp_rx.cli.policy_file import read_policy
from macp_rx.cli.sessions import mode_of, name_of, state_of
from macp_rx.cli.terminal import console, plain, print_json, print_table, show
from macp_rx.client import MacpClient
from macp_rx.protocol import canonical

__all__ = ["policies"]

policies: typer.Typer = typer.Typer(help="The governance policies of a runtime.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Canonical JSON.")]
Id = Annotated[str, typer.Argument(metavar="POLICY", help="The policy's id.")]
PolicyFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="JSON with policy_id, mode, description, rules and schema_version.",
        exists=True,
        dir_okay=False,
    ),
]

Kind: Final = policy_pb2.WhatIfEntryOutcome.Kind


@policies.command("list")
@connected()
def list_(
    client: MacpClient,
    mode: Annotated[str, typer.Option(metavar="MODE", help="Only those that may be bound in this mode.")] = "",
    as_json: Json = False,
) -> None:
    """Lists the policies.

    Example: macp-rx policies list --mode decision --agent chair
    """
    listed = client.list_policies(mode_of(mode)).descriptors
    if as_json:
        for policy in listed:
            print_json(canonical.to_json(policy))
        return
    rows = [
        (policy.policy_id, name_of(policy.mode), str(policy.schema_version), policy.description) for policy in listed
    ]
    print_table(("POLICY", "MODE", "SCHEMA", "DESCRIPTION"), rows)


@policies.command()
@connected()
def get(client: MacpClient, policy: Id) -> None:
    """Prints a policy, as `register` takes it from a file.

    Example: macp-rx policies get policy.default --agent chair > policy.json
    """
    descriptor = client.get_policy(policy).policy_descriptor
    found = {**canonical.to_json(descriptor), "rules": json.loads(descriptor.rules or "{}")}
    console().print(plain_json(found), soft_wrap=True)


@policies.command()
@connected()
def register(client: MacpClient, file: PolicyFile) -> None:
    """Adds a policy. Sessions name it in their policy_version.

    Example: macp-rx policies register two_of_three.json --agent chair
    """
    policy = read_policy(file)
    client.register_policy(policy)
    console().print(policy.policy_id, markup=False, soft_wrap=True)


@policies.command()
@connected()
def unregister(client: MacpClient, policy: Id) -> None:
    """Removes a policy; sessions that are bound to it keep it.

    Example: macp-rx policies unregister policy.two-of-three --agent chair
    """
    client.unregister_policy(policy)
    console().print(policy, markup=False, soft_wrap=True)


@policies.command("what-if")
@connected()
def what_if(
    client: MacpClient,
    session: Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")],
    file: PolicyFile,
    as_json: Json = False,
) -> None:
    """Tells what a session would have come to under another policy. It changes nothing.

    Example: macp-rx policies what-if 2f1c7f4e-9b0d-4c53-8f0e-1d2c3b4a5968 strict.json --agent chair
    """
    reply = client.what_if_replay(session, read_policy(file))
    if as_json:
        print_json(canonical.to_json(reply))
        return
    rows = [
        (str(entry.history_index + 1), entry.message_type, _outcome(entry.recorded), _outcome(entry.candidate))
        for entry in reply.entries
    ]
    heads = ("", "MESSAGE", f"UNDER {reply.recorded_policy_id}", f"UNDER {reply.candidate_policy_id}")
    print_table(heads, rows)
    out = console()
    for denial in reply.denials:
        for reason in _reasons(denial.details):
            show(out, Text.assemble(f"{denial.history_index + 1:>3} ", ("denied ", "red"), plain(reason)))
    for label, side in (("as it was", reply.recorded), ("what if", reply.candidate)):
        show(out, Text.assemble((f"{label:<9} ", "dim"), (state_of(side.state), "bold"), _committed(side)))


def plain_json(value: object) -> Text:
    """JSON over several lines, for people and for programs."""
    return Text(json.dumps(value, indent=2, ensure_ascii=True))


def _outcome(outcome: policy_pb2.WhatIfEntryOutcome) -> str:
    name = Kind.Name(outcome.kind).removeprefix("KIND_")
    if name == "APPLIED":
        return f"applied, {state_of(outcome.state)}"
    return f"refused, {outcome.error_code}" if name == "REFUSED" else name.lower().replace("_", " ")


def _committed(side: policy_pb2.WhatIfOutcome) -> str:
    if not side.resolved_by_message_id:
        return ""
    return f" by envelope {side.resolved_by_history_index + 1}"


def _reasons(details: bytes) -> list[str]:
    try:
        return [str(reason) for reason in json.loads(details).get("reasons", [])]
    except (ValueError, AttributeError):
        return []
