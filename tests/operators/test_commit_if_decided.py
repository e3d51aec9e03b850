from __future__ import annotations

from macp_rx import operators as mo
from macp_rx.testing import Marbles, Where

YES = mo.Verdict("p1", True, "enough", mo.Count(2))
NO = mo.Verdict("p1", False, "too few", mo.Count(0, 2))


def commits(action: str, *, positive: bool) -> Where:
    return Where(
        lambda message: (
            (message.message_type, message.payload.action, message.payload.outcome_positive)
            == ("Commitment", action, positive)
        )
    )


def test_a_verdict_becomes_a_commitment_with_its_sign_and_reason(marbles: Marbles) -> None:
    source = marbles.hot("-y-n-|", {"y": YES, "n": NO})
    marbles.expect(source.pipe(mo.commit_if_decided(action="go", declined="stop"))).to_be(
        "-a-b-|", {"a": commits("go", positive=True), "b": commits("stop", positive=False)}
    )
    reason = Where(lambda message: message.payload.reason == "enough")
    marbles.expect(source.pipe(mo.commit_if_decided(action="go"))).to_be("-a---|", {"a": reason})


def test_undecided_and_a_negative_verdict_without_an_action_commit_to_nothing(marbles: Marbles) -> None:
    source = marbles.hot("-u-n-|", {"u": mo.UNDECIDED, "n": NO})
    marbles.expect(source.pipe(mo.commit_if_decided(action="go"))).to_be("-----|")


def test_error_and_early_dispose(marbles: Marbles) -> None:
    failing = marbles.cold("-#", error=ValueError("lost"))
    marbles.expect(failing.pipe(mo.commit_if_decided(action="go"))).to_be("-#", error=ValueError("lost"))
    source = marbles.cold("---y|", {"y": YES})
    marbles.expect(source.pipe(mo.commit_if_decided(action="go")), "^-!").to_be("-")
    marbles.expect_subscriptions(source).to_be("^-!")
