"""When to try again, how soon, and when to give up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from macp.v1.envelope_pb2 import Ack, MACPError
from reactivex import Observable, abc
from reactivex.disposable import Disposable

from macp_rx import MacpAckError, MacpClosedError, MacpError, MacpSessionError, MacpTimeoutError, MacpTransportError
from macp_rx.clock import VirtualClock
from macp_rx.errors import GRPC_STATUS, MacpGapError
from macp_rx.streams.retry import Backoff, RetryPolicy, is_transient, retried
from tests.conftest import Recorder

LOST = MacpTransportError("UNAVAILABLE", "the connection was reset")


def waits(backoff: Backoff, clock: VirtualClock, tries: int = 100) -> list[float]:
    """What a backoff says when each try fails at once, until it gives up."""
    found: list[float] = []
    while len(found) < tries and (wait := backoff.next()) is not None:
        found.append(wait)
        clock.advance_by(wait)
    return found


class EvenClock(VirtualClock):
    """A clock whose jitter leaves each wait as long as it can be."""

    def jitter(self) -> float:
        return 1.0


def test_waits_double_up_to_the_cap() -> None:
    clock = EvenClock()
    assert waits(Backoff(RetryPolicy(first=0.25, cap=2.0), clock), clock, 6) == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


def test_half_of_a_wait_is_chance() -> None:
    clock = VirtualClock(seed=3)
    found = waits(Backoff(RetryPolicy(first=1.0, cap=1.0), clock), clock, 200)
    assert 0.5 <= min(found) < 0.55
    assert 0.95 < max(found) <= 1.0


@pytest.mark.parametrize(("seed", "same"), [(7, True), (8, False)])
def test_the_same_seed_waits_the_same(seed: int, same: bool) -> None:
    first, second = VirtualClock(seed=7), VirtualClock(seed=seed)
    policy = RetryPolicy(give_up_after=5)
    assert (waits(Backoff(policy, first), first) == waits(Backoff(policy, second), second)) is same


@given(
    first=st.floats(0.05, 1), factor=st.floats(1, 100), give_up_after=st.floats(0, 10), seed=st.integers(0, 2**32 - 1)
)
def test_it_gives_up_exactly_when_it_should(first: float, factor: float, give_up_after: float, seed: int) -> None:
    clock = VirtualClock(seed=seed)
    policy = RetryPolicy(first=first, cap=first * factor, give_up_after=give_up_after)
    found = waits(Backoff(policy, clock), clock, tries=10_000)
    assert len(found) < 10_000
    assert all(0 < wait <= policy.cap for wait in found)
    assert clock.seconds == pytest.approx(give_up_after, abs=1e-6 * (len(found) + 1))  # the clock counts microseconds


def test_a_success_begins_it_anew() -> None:
    clock = EvenClock()
    backoff = Backoff(RetryPolicy(first=0.25, cap=8.0, give_up_after=10), clock)
    assert waits(backoff, clock) == [0.25, 0.5, 1.0, 2.0, 4.0, 2.25]
    backoff.reset()
    assert waits(backoff, clock, 3) == [0.25, 0.5, 1.0]


def test_without_time_there_is_no_second_try() -> None:
    assert Backoff(RetryPolicy(give_up_after=0), VirtualClock()).next() is None


def test_a_policy_may_never_give_up() -> None:
    clock = EvenClock()
    backoff = Backoff(RetryPolicy(first=0.5, cap=3600, give_up_after=float("inf")), clock)
    assert len(waits(backoff, clock, 10_000)) == 10_000


class TestRetried:
    """A source that is subscribed to again."""

    def failing(self, *errors: Exception) -> tuple[Observable[str], list[float]]:
        """A source that fails so, each time it is subscribed to, and then emits; and when that was."""
        left, tried = list(errors), list[float]()

        def subscribe(
            observer: abc.ObserverBase[str], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            tried.append(self.clock.seconds)
            if left:
                self.clock.run_later(0, lambda: observer.on_error(left.pop(0)))
            else:
                self.clock.run_later(0, lambda: (observer.on_next("answer"), observer.on_completed()))
            return Disposable()

        self.clock = EvenClock()
        return Observable(subscribe), tried

    def test_while_what_it_fails_with_may_pass(self) -> None:
        source, tried = self.failing(LOST, LOST, LOST)
        heard = Recorder()
        retried(source, RetryPolicy(first=0.25, cap=0.5), self.clock).subscribe(heard)
        self.clock.run_until_idle()
        assert (heard.items, heard.completed) == (["answer"], True)
        assert tried == [0, 0.25, 0.75, 1.25]

    def test_and_no_longer(self) -> None:
        refused = MacpTransportError("NOT_FOUND", code="SESSION_NOT_FOUND")
        source, tried = self.failing(LOST, refused)
        heard = Recorder()
        retried(source, RetryPolicy(), self.clock).subscribe(heard)
        self.clock.run_until_idle()
        assert heard.error is refused
        assert len(tried) == 2

    def test_as_long_as_the_policy_says_however_often_that_is(self) -> None:
        source, tried = self.failing(*[LOST] * 5000)
        heard = Recorder()
        retried(source, RetryPolicy(first=0.1, cap=0.1, give_up_after=300), self.clock).subscribe(heard)
        self.clock.run_until_idle()
        assert heard.error is LOST
        assert len(tried) == pytest.approx(3000, abs=2)

    def test_each_subscription_has_its_own_budget(self) -> None:
        source, tried = self.failing(*[LOST] * 7)
        twice = retried(source, RetryPolicy(first=0.5, cap=0.5, give_up_after=1), self.clock)
        first, second = Recorder(), Recorder()
        twice.subscribe(first)
        self.clock.run_until_idle()
        twice.subscribe(second)
        self.clock.run_until_idle()
        assert (first.error, second.error) == (LOST, LOST)
        assert len(tried) == 6

    def test_never_after_dispose(self) -> None:
        source, tried = self.failing(*[LOST] * 10)
        subscription = retried(source, RetryPolicy(first=0.5, cap=0.5), self.clock).subscribe(Recorder())
        self.clock.advance_by(1.2)
        subscription.dispose()
        self.clock.run_until_idle()
        assert len(tried) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": 0.0},
        {"first": -1.0},
        {"first": 2.0, "cap": 1.0},
        {"give_up_after": -1.0},
        {"give_up_after": float("nan")},
        {"first_contact": -1.0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(
        MacpSessionError, match="0 < first <= cap, give_up_after >= 0 and first_contact >= 0 must hold, in seconds"
    ):
        RetryPolicy(**wrong)


@pytest.mark.parametrize("code", GRPC_STATUS)
def test_three_codes_of_the_registry_are_worth_a_retry(code: str) -> None:
    """`protocol.md` 9.1; whether they come in an Ack or as a status."""
    transient = code in ("RATE_LIMITED", "INTERNAL_ERROR", "STREAM_LAGGED")
    assert is_transient(MacpTransportError(GRPC_STATUS[code], code=code)) is transient
    assert is_transient(MacpAckError(Ack(error=MACPError(code=code)))) is transient


@pytest.mark.parametrize(
    ("status", "transient"),
    [
        ("UNAVAILABLE", True),
        ("INTERNAL", True),
        ("UNKNOWN", True),
        ("CANCELLED", True),
        ("ABORTED", True),
        ("INVALID_ARGUMENT", False),
        ("UNIMPLEMENTED", False),
        ("PERMISSION_DENIED", False),
        ("UNAUTHENTICATED", False),
        ("DEADLINE_EXCEEDED", False),
        ("OUT_OF_RANGE", False),
    ],
)
def test_without_a_code_the_status_decides(status: str, transient: bool) -> None:
    assert is_transient(MacpTransportError(status)) is transient


@pytest.mark.parametrize(
    "error",
    [
        MacpTimeoutError("too late"),
        MacpGapError(3, 5, "s"),
        MacpClosedError("closed"),
        MacpSessionError("wrong"),
        MacpError("?"),
        ValueError("a subscriber's own"),
    ],
)
def test_what_is_no_fault_of_the_connection_is_not_retried(error: Exception) -> None:
    assert not is_transient(error)
