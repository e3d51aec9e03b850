"""participation: who has spoken, and who is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from reactivex import Observable, abc

from macp_rx.operators.lift import each
from macp_rx.operators.roster import roster
from macp_rx.protocol.messages import Accepted
from macp_rx.protocol.modes import handoff

__all__ = ["Participation", "participation"]


@dataclass(frozen=True, slots=True)
class Participation:
    """Who of some participants has spoken.

    Attributes:
        spoken: those who have, in the order in which they began.
        missing: those who have not, in the order in which they were named.
    """

    spoken: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nobody is missing."""
        return not self.missing

    def plus(self, accepted: Accepted) -> Participation:
        """This, after one more envelope.

        As the runtime counts activity: starting the session is no word in it, nor is an acceptance that the runtime itself
        says for somebody who does not answer (`protocol.md` 4.5).
        """
        sender = accepted.sender
        if (
            sender not in self.missing
            or accepted.message_type == "SessionStart"
            or handoff.is_implicit(accepted.envelope)
        ):
            return self
        return replace(
            self, spoken=(*self.spoken, sender), missing=tuple(name for name in self.missing if name != sender)
        )


def participation(participants: Collection[str]) -> Callable[[Observable[Accepted]], Observable[Participation]]:
    """Emits who has spoken and who is missing, each time somebody speaks for the first time.

    Behind ``of_type`` it tells who has voted, or evaluated, and who has not. Others than the participants do not count.

    Args:
        participants: who is expected to speak.

    Marble:
        accepted  -v-v-w-|
        > mo.participation(["alice", "bob", "carol"])
        spoken    -a---b-|
        a: it.spoken == ("alice",) and it.missing == ("bob", "carol")
        b: it.spoken == ("alice", "bob") and not it.complete
    """
    nobody = Participation((), roster("participants", participants))

    def operator(source: Observable[Accepted]) -> Observable[Participation]:
        def rule(observer: abc.ObserverBase[Participation]) -> Callable[[Accepted], None]:
            current = nobody

            def take(accepted: Accepted) -> None:
                nonlocal current
                after = current.plus(accepted)
                if after is not current:
                    current = after
                    observer.on_next(current)

            return take

        return each(source, rule)

    return operator
