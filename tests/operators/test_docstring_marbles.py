"""The marble in each operator's docstring is executed, so that it cannot rot."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import reactivex as rx
from reactivex import operators as ops

from macp_rx import operators as mo
from macp_rx.testing import Marbles, Where
from tests.operators.docstrings import NAMES, Example, examples
from tests.operators.voices import LEGEND

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
    operator = example.operator(marbles, begin_ms)
    meanings = {name: meant(expression) for name, expression in example.meanings.items()}
    wrong = meanings.pop("#", None)
    observable = source.pipe(operator) if wrong is None else source.pipe(operator, ops.catch(checked(wrong)))
    result = example.result if wrong is None else example.result.replace("#", "(error |)")
    marbles.expect(observable).to_be(result, {**LEGEND, **meanings})


def meant(expression: str) -> Where:
    def test(it: object) -> bool:
        return bool(eval(expression, {**NAMES, "it": it}))

    return Where(test, expression)


def checked(wrong: Where) -> Any:
    def handle(error: Exception, _source: object) -> rx.Observable[str]:
        assert wrong.test(error), error
        return rx.of("error")

    return handle
