from __future__ import annotations

import pytest

from macp_rx import MacpSessionError
from macp_rx import operators as mo
from macp_rx.protocol.modes import decision, quorum, task
from macp_rx.testing import Marbles, said
from tests.operators.voices import start

MODES = {
    "d": said("chair", start("alice", mode=decision.MODE)),
    "q": said("chair", start("alice", mode=quorum.MODE)),
    "t": said("chair", start("alice", mode=task.MODE)),
}


def test_what_was_accepted_in_sessions_of_them(marbles: Marbles) -> None:
    source = marbles.hot("-d-q-t-|", MODES)
    marbles.expect(source.pipe(mo.in_mode(quorum.MODE))).to_be("---q---|", MODES)
    marbles.expect(source.pipe(mo.in_mode(quorum.MODE, task.MODE))).to_be("---q-t-|", MODES)
    marbles.expect_subscriptions(source).to_be("^------!", "^------!")


def test_one_must_be_named() -> None:
    with pytest.raises(MacpSessionError, match="modes has at least one"):
        mo.in_mode()
