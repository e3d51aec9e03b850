"""Rich output in IPython and Jupyter for the values of the rooms below, which know nothing of it.

    %load_ext macp_rx.diagrams.notebook

Or ``notebook.register()``. A notebook then shows a picture of each, a terminal its text.
"""

from __future__ import annotations

from typing import Any, Final

from macp_rx.agents import Fleet
from macp_rx.diagrams.cards import card_of
from macp_rx.diagrams.lanes import plain_text, svg
from macp_rx.errors import MacpSessionError
from macp_rx.operators import Tally, Undecided, Verdict
from macp_rx.protocol.modes import decision, handoff, multi_round, passthrough, proposal, quorum, task
from macp_rx.session import Session
from macp_rx.simulation import Simulation, Sweep
from macp_rx.streams.outcome import Outcome
from macp_rx.timeline import Timeline

__all__ = ["SHOWN", "load_ipython_extension", "register", "unload_ipython_extension"]

MODES: Final = (decision, proposal, task, handoff, quorum, multi_round, passthrough)

SHOWN: Final = (
    *(Timeline, Simulation, Tally, Verdict, Undecided, Outcome, Sweep, Fleet, Session),
    *(
        mode.State for mode in MODES
    ),  # each by itself: IPython takes the repr of a class before what its base is shown as
)
"""What is shown."""


def register(shell: Any = None) -> None:
    """Lets IPython show the values of macp_rx.

    Args:
        shell: which IPython; the one that this runs in by default.

    Raises:
        MacpSessionError: there is none.
    """
    formatters = _formatters(shell)
    for shown in SHOWN:
        # not as one bundle: a terminal asks for the text alone, and would draw the picture for nothing
        formatters["image/svg+xml"].for_type(shown, _picture)
        formatters["text/plain"].for_type(shown, _print)


def load_ipython_extension(shell: Any) -> None:
    """What ``%load_ext`` calls."""
    register(shell)


def unload_ipython_extension(shell: Any) -> None:
    """What ``%unload_ext`` calls."""
    formatters = _formatters(shell)
    for shown in SHOWN:
        for mime in ("image/svg+xml", "text/plain"):
            formatters[mime].pop(shown, None)


def _formatters(shell: Any) -> Any:
    if shell is None:
        try:
            from IPython.core.getipython import get_ipython
        except ImportError as error:
            raise MacpSessionError("rich output needs IPython: pip install ipython") from error
        shell = get_ipython()
    if shell is None:
        raise MacpSessionError("there is no IPython here; register(shell) takes one, and a notebook has one")
    return shell.display_formatter.formatters


def _picture(value: object) -> str:
    match value:
        case Timeline():
            return svg(value).text
        case Simulation(timeline=Timeline() as timeline):
            return svg(timeline, title=str(value)).text
        case _:
            return card_of(value).svg().text


def _print(value: object, printer: Any, cycle: bool) -> None:
    match value:
        case Timeline():
            printer.text(plain_text(value))
        case Simulation() | Sweep() | Fleet():
            printer.text(str(value))
        case Session():
            printer.text(repr(value))
        case _:
            printer.text(str(card_of(value)))
