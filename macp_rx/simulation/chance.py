"""Numbers by chance: values that say how to draw, so that they can be stored, compared and sent to another process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, runtime_checkable

from macp_rx.errors import MacpSessionError

__all__ = ["Chance", "Choice", "Exponential", "LogNormal", "Number", "Uniform", "draw"]


@runtime_checkable
class Chance(Protocol):
    """How to draw a number. Make your own: a picklable value with this method."""

    def draw(self, random: Random) -> float:
        """A number.

        Args:
            random: where its chance comes from, and nowhere else.
        """
        ...


Number = float | Chance
"""A number that is always the same, or one that is drawn each time."""


def draw(number: Number, random: Random) -> float:
    """The number. One that is always the same draws nothing, so that it does not change what others draw."""
    return number.draw(random) if isinstance(number, Chance) else number


@dataclass(frozen=True, slots=True)
class Uniform:
    """Anything between two numbers, all alike.

    Args:
        low: the least.
        high: the most.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise MacpSessionError(f"Uniform goes from low to high, not from {self.low} to {self.high}")

    def draw(self, random: Random) -> float:
        """A number."""
        return random.uniform(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Exponential:
    """The time until something happens that happens now and then, such as the loss of a connection.

    Args:
        mean: how long it takes on average.
    """

    mean: float

    def __post_init__(self) -> None:
        if not self.mean > 0:
            raise MacpSessionError(f"the mean of an Exponential is more than 0, not {self.mean}")

    def draw(self, random: Random) -> float:
        """A number."""
        return random.expovariate(1 / self.mean)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A time that is mostly near a value and now and then many times it, as the answers of servers and of models are.

    Args:
        median: half of the times are shorter.
        sigma: the spread of its logarithm: at 0.5 one in forty is longer than 2.7 medians, at 1 than 7.4.
    """

    median: float
    sigma: float = 0.5

    def __post_init__(self) -> None:
        if not (self.median > 0 and self.sigma >= 0):
            raise MacpSessionError(
                f"a LogNormal has a median over 0 and a sigma of at least 0, not {self.median}, {self.sigma}"
            )

    def draw(self, random: Random) -> float:
        """A number."""
        return random.lognormvariate(math.log(self.median), self.sigma)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several numbers, all alike.

    Args:
        numbers: from which; name one twice to make it twice as likely.
    """

    numbers: Sequence[float]

    def __post_init__(self) -> None:
        if not self.numbers:
            raise MacpSessionError("a Choice needs numbers to choose from")
        object.__setattr__(self, "numbers", tuple(self.numbers))

    def draw(self, random: Random) -> float:
        """A number."""
        return random.choice(self.numbers)
