"""A list that grows at its end and shares the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

__all__ = ["Link"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Link(Generic[T]):
    """The newest item and those before it, so that a step costs the same at the 5,000th message.

    Compared and shown as the tuple of its items: what a dataclass does by itself would recurse once per item.

    Attributes:
        item: the newest.
        earlier: the others.
    """

    item: T
    earlier: Link[T] | None

    def __iter__(self) -> Iterator[T]:
        """From the oldest to the newest."""
        items: list[T] = []
        link: Link[T] | None = self
        while link is not None:
            items.append(link.item)
            link = link.earlier
        return reversed(items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Link):
            return NotImplemented
        return self is other or tuple(self) == tuple(cast("Link[object]", other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Link{tuple(self)!r}"
