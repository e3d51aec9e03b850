"""Who is meant: a list of names, or an electorate."""

from __future__ import annotations

from collections.abc import Collection

from macp_rx.errors import MacpSessionError

__all__ = ["Electorate", "roster"]


def roster(what: str, names: Collection[str]) -> tuple[str, ...]:
    """Names in their order, each once.

    Args:
        what: what the argument is called, for the error.
        names: who is meant.

    Raises:
        MacpSessionError: nobody is, or it is one name: Python would take its letters; or they are no names.
    """
    if isinstance(names, str):
        raise MacpSessionError(f"{what} is a collection of names, not one name ({names!r})")
    if not isinstance(names, Collection):
        raise MacpSessionError(f"{what} is a collection of names, not {names!r}")
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise MacpSessionError(f"{what} is a collection of names, and {wrong[0]!r} is none")
    found = tuple(dict.fromkeys(names))
    if not found:
        raise MacpSessionError(f"{what} has at least one member, and this one is empty")
    return found


class Electorate:
    """Who may vote.

    Args:
        electorate: by name; or only how many they are, and then everybody's vote counts.

    Raises:
        MacpSessionError: it has no member, or is one name.
    """

    def __init__(self, electorate: int | Collection[str]) -> None:
        self.names: frozenset[str] | None = None
        """The members; None where anybody may vote."""
        if isinstance(electorate, int):
            if electorate < 1:
                raise MacpSessionError(f"electorate has at least one member, not {electorate}")
            self.size: int = electorate
        else:
            self.names = frozenset(roster("electorate", electorate))
            self.size = len(self.names)
