from __future__ import annotations

from reactivex import Observable

from macp_rx import MacpOverflowError
from macp_rx import operators as mo
from macp_rx.testing import Marbles


def test_one_at_a_time_and_in_order(marbles: Marbles) -> None:
    sent: list[tuple[int, object]] = []

    def send(message: str) -> Observable[str]:
        sent.append((marbles.clock.time, message))
        return marbles.cold("---(ok |)")

    source = marbles.hot("-(a b c)-|")
    marbles.expect(source.pipe(mo.send_to(send))).to_be("---- ok -- ok -- (ok |)")
    marbles.check(lambda: None if sent == [(1000, "a"), (4000, "b"), (7000, "c")] else f"sent {sent}")


def test_a_refusal_ends_it_and_what_waits_is_not_sent(marbles: Marbles) -> None:
    sent: list[str] = []

    def send(message: str) -> Observable[str]:
        sent.append(message)
        return marbles.cold("--#", error=ValueError("refused"))

    source = marbles.hot("-(a b)-|")
    marbles.expect(source.pipe(mo.send_to(send))).to_be("---#", error=ValueError("refused"))
    marbles.check(lambda: None if sent == ["a"] else f"sent {sent}")


def test_a_send_that_raises_ends_it_also_behind_one_that_is_under_way(marbles: Marbles) -> None:
    def send(message: str) -> Observable[str]:
        if message == "b":
            raise ValueError("no")
        return marbles.cold("--(ok |)")

    source = marbles.hot("-(a b c)-|")
    marbles.expect(source.pipe(mo.send_to(send))).to_be("---(ok #)", error=ValueError("no"))


def test_its_queue_is_bounded(marbles: Marbles) -> None:
    source = marbles.hot("-(a b c d)-|")
    expected = MacpOverflowError("2 messages wait to be sent; say less, or later")
    answering = mo.send_to(lambda _message: marbles.cold("----(ok |)"), buffer=2)
    marbles.expect(source.pipe(answering)).to_be("-#", error=expected)


def test_leaving_cancels_what_is_being_sent(marbles: Marbles) -> None:
    call = marbles.cold("-----(ok |)")
    source = marbles.hot("-a------|")
    marbles.expect(source.pipe(mo.send_to(lambda _message: call)), "^--!").to_be("-")
    marbles.expect_subscriptions(call).to_be("-^-!")
    marbles.expect_subscriptions(source).to_be("^--!")


def test_empty_and_error(marbles: Marbles) -> None:
    marbles.expect(marbles.cold("-|").pipe(mo.send_to(lambda _: marbles.cold("|")))).to_be("-|")
    failing = marbles.cold("-#", error=KeyError("x"))
    marbles.expect(failing.pipe(mo.send_to(lambda _: marbles.cold("|")))).to_be("-#", error=KeyError("x"))
