from __future__ import annotations

import pickle
import statistics
from random import Random
from typing import Any

import pytest

from macp_rx import MacpSessionError
from macp_rx.simulation import Chance, Choice, Exponential, LogNormal, Uniform
from macp_rx.simulation.chance import draw

ALL: list[Any] = [Uniform(1, 3), Exponential(2), LogNormal(0.5, 0.8), Choice([1, 2, 5])]


@pytest.mark.parametrize("chance", ALL, ids=repr)
def test_a_seed_decides_what_is_drawn_and_nothing_else(chance: Chance) -> None:
    again = pickle.loads(pickle.dumps(chance))
    one, other = Random("7"), Random("7")
    assert again == chance
    assert hash(again) == hash(chance)
    assert [chance.draw(one) for _ in range(20)] == [again.draw(other) for _ in range(20)]


def test_what_they_are() -> None:
    random = Random(1)

    def many(chance: Chance) -> list[float]:
        return [chance.draw(random) for _ in range(20_000)]

    uniform = many(Uniform(1, 3))
    assert 1 <= min(uniform) < 1.01
    assert 2.99 < max(uniform) <= 3
    assert statistics.fmean(many(Exponential(2))) == pytest.approx(2, rel=0.05)
    times = many(LogNormal(0.5, 0.5))
    assert statistics.median(times) == pytest.approx(0.5, rel=0.05)
    assert sum(time > 2.7 * 0.5 for time in times) / len(times) == pytest.approx(1 / 40, rel=0.25)
    assert set(many(Choice([1, 2]))) == {1, 2}


def test_a_plain_number_draws_nothing() -> None:
    random = Random(1)
    before = random.getstate()
    assert draw(3.5, random) == 3.5
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Uniform(3, 1), "from low to high"),
        (lambda: Exponential(0), "more than 0"),
        (lambda: LogNormal(0), "median over 0"),
        (lambda: LogNormal(1, -1), "sigma of at least 0"),
        (lambda: Choice([]), "needs numbers"),
        (lambda: Uniform(float("nan"), 1), "from low to high"),
    ],
)
def test_bad_ones_say_what_is_wrong(make: Any, says: str) -> None:
    with pytest.raises(MacpSessionError, match=says):
        make()
