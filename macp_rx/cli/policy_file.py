"""A policy in a file: JSON with its five members, as a registry's folder has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, cast

from macp.v1 import policy_pb2

from macp_rx.errors import MacpSessionError

__all__ = ["read_policy"]

MEMBERS: Final = ("policy_id", "mode", "description", "rules", "schema_version")


def read_policy(path: Path) -> policy_pb2.PolicyDescriptor:
    """The policy of a file, which carries all five members (`protocol.md` 5.5).

    Raises:
        MacpSessionError: what the file holds is none, and why.
        OSError: it cannot be read.
    """
    try:
        read: object = json.loads(path.read_text())
        given = cast("dict[str, object]", read) if isinstance(read, dict) else {}
        missing = [name for name in MEMBERS if name not in given]
        if missing:
            raise MacpSessionError(f"it lacks {', '.join(missing)}")
        rules = given["rules"]
        return policy_pb2.PolicyDescriptor(
            policy_id=cast("str", given["policy_id"]),
            mode=cast("str", given["mode"]),
            description=cast("str", given["description"]),
            rules=rules if isinstance(rules, str) else json.dumps(rules),
            schema_version=cast("int", given["schema_version"]),
        )
    except (ValueError, TypeError) as error:
        raise MacpSessionError(f"{path}: {error}") from None
