"""The marble in each operator's docstring is executed, so that it cannot rot."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import reactivex as rx
from macp.modes.decision.v1.decision_pb2 import EvaluationPayload, ObjectionPayload, ProposalPayload, VotePayload
from reactivex import operators as ops

from macp_rx import RetryPolicy
from macp_rx import operators as mo
from macp_rx.protocol.modes import decision
from macp_rx.protocol.policy import BUILT_IN
from macp_rx.testing import Marbles, Where
from macp_rx.testing.sources import SESSION_ID
from tests.operators.voices import LEGEND, open_session

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
    result: str = ""
    meanings: dict[str, str] = field(default_factory=dict)


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
                example.result = line.split(maxsplit=1)[1]
            elif line:
                example.source = line.split(maxsplit=1)[1]
        if example.expression:
            yield example


OPERATORS = [
    value
    for name, value in vars(mo).items()
    if inspect.isfunction(value) and value.__module__.startswith("macp_rx.operators")
]
EXAMPLES = [
    pytest.param(example, id=f"{operator.__name__}-{number}")
    for operator in OPERATORS
    for number, example in enumerate(examples(operator.__doc__ or ""), start=1)
]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__)
def test_every_operator_has_a_marble(operator: Any) -> None:
    assert list(examples(operator.__doc__ or "")), f"{operator.__name__}: no Marble: block in its docstring"


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_marble_is_true(example: Example, marbles: Marbles) -> None:
    source = marbles.hot(example.source, LEGEND)
    begin_ms = marbles.clock.now_ms
    here = {
        "cold": lambda text: marbles.cold(text, LEGEND),
        "clock": marbles.clock,
        "answer_in": answer_in,
        "metadata": lambda expires_at: open_session(begin_ms + round(expires_at * 1000)),
    }
    operator = eval(example.expression, {**NAMES, **here})
    meanings = {name: meant(expression) for name, expression in example.meanings.items()}
    wrong = meanings.pop("#", None)
    observable = source.pipe(operator) if wrong is None else source.pipe(operator, ops.catch(checked(wrong)))
    result = example.result if wrong is None else example.result.replace("#", "(error |)")
    marbles.expect(observable).to_be(result, {**LEGEND, **meanings})


def answer_in(milliseconds: int) -> Any:
    async def answer(question: str) -> str:
        await asyncio.sleep(milliseconds / 1000)
        return question

    return answer


def meant(expression: str) -> Where:
    def test(it: object) -> bool:
        return bool(eval(expression, {**NAMES, "it": it}))

    return Where(test, expression)


def checked(wrong: Where) -> Any:
    def handle(error: Exception, _source: object) -> rx.Observable[str]:
        assert wrong.test(error), error
        return rx.of("error")

    return handle
