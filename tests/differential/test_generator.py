"""Scenarios: the same seed gives the same bytes, and the random sessions hold everything that a session can meet."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.differential.generator import MODES, generate
from tests.differential.steps import METHODS, Call

SEEDS = [f"{mode}:{number}" for mode in MODES for number in range(5)]


def digest() -> str:
    return hashlib.sha256("\n".join(repr(generate(seed).steps) for seed in SEEDS).encode()).hexdigest()


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_a_seed_gives_the_same_bytes_in_every_process(hash_seed: str) -> None:
    program = "from tests.differential.test_generator import digest; print(digest())"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == digest()


def test_the_sessions_call_every_unary_rpc() -> None:
    called = Counter(
        step.method
        for mode in MODES
        for number in range(100)
        for step in generate(f"{mode}:{number}").steps
        if isinstance(step, Call)
    )
    unary = {name for name, method in METHODS.items() if not method.server_streaming}
    assert set(called) == unary, unary - set(called)
    assert min(called.values()) >= 10


def test_steps_say_themselves_in_words() -> None:
    for seed in SEEDS:
        for step in generate(seed).steps:
            assert 5 < len(str(step)) < 3000
