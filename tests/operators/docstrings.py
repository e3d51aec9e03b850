"""The examples in the docstrings of the operators: read, and ready to run."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import reactivex as rx
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ObjectionPayload, ProposalPayload, VotePayload
from reactivex import operators as ops

from macp_rx import RetryPolicy
from macp_rx import operators as mo
from macp_rx.protocol.modes import decision
from macp_rx.protocol.policy import BUILT_IN
from macp_rx.testing import Marbles
from macp_rx.testing.sources import SESSION_ID
from tests.operators.voices import LEGEND, open_session

__all__ = ["NAMES", "Example", "examples"]

NAMES = {
    "mo": mo,
    "ops": ops,
    "rx": rx,
    "timedelta": timedelta,
    "decision": decision,
    "BUILT_IN": BUILT_IN,
    "RetryPolicy": RetryPolicy,
    "SESSION_ID": SESSION_ID,
    "EvaluationPayload": EvaluationPayload,
    "ObjectionPayload": ObjectionPayload,
    "ProposalPayload": ProposalPayload,
    "VotePayload": VotePayload,
}


@dataclass
class Example:
    """One block below ``Marble:``: a source lane, ``> expression``, the result's lane, and what its names mean."""

    source: str = ""
    expression: str = ""
    lanes: tuple[str, str] = ("", "")
    result: str = ""
    meanings: dict[str, str] = field(default_factory=dict)

    def operator(self, marbles: Marbles, begin_ms: int) -> Any:
        """What the expression says, on the clock of these marbles, whose lanes begin at a time in Unix milliseconds."""
        here = {
            "cold": lambda text: marbles.cold(text, LEGEND),
            "clock": marbles.clock,
            "answer_in": answer_in,
            "metadata": lambda expires_at: open_session(begin_ms + round(expires_at * 1000)),
        }
        return eval(self.expression, {**NAMES, **here})


def examples(docstring: str) -> Iterator[Example]:
    _before, _heading, block = inspect.cleandoc(docstring).partition("Marble:\n")
    for paragraph in re.split(r"\n\s*\n", block.split("\n\n\n")[0]):
        example = Example()
        for line in map(str.strip, paragraph.splitlines()):
            if line.startswith(">"):
                example.expression = line[1:].strip()
            elif re.match(r"[\w#]+: ", line):
                name, _, meaning = line.partition(": ")
                example.meanings[name] = meaning
            elif example.expression:
                name, example.result = line.split(maxsplit=1)
                example.lanes = example.lanes[0], name
            elif line:
                name, example.source = line.split(maxsplit=1)
                example.lanes = name, ""
        if example.expression:
            yield example


def answer_in(milliseconds: int) -> Any:
    async def answer(question: str) -> str:
        await asyncio.sleep(milliseconds / 1000)
        return question

    return answer
