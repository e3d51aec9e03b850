"""`protocol.md` 12 lists forty things that an independent implementation gets wrong first: each has a test here."""

from __future__ import annotations

import ast
import re
from pathlib import Path


def test_each_of_the_forty_has_a_test() -> None:
    told = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                told |= {int(number) for number in re.findall(r"^Item (\d+):", ast.get_docstring(node) or "")}
    assert told == set(range(1, 41))
