"""deliver_on: the consumer on another scheduler, and what happens when it does not keep up."""

from __future__ import annotations

from reactivex import abc

from macp_rx.streams.delivery import BUFFER, Delivery, Overflow

__all__ = ["deliver_on"]


def deliver_on(scheduler: abc.SchedulerBase, *, buffer: int = BUFFER, overflow: Overflow = "pause") -> Delivery:
    """Delivers on a scheduler, one item at a time, through a bounded buffer.

    Args:
        scheduler: what the consumer runs on.
        buffer: how many items may wait for it.
        overflow: what happens when as many do. ``pause``: the source waits, and nothing is lost; where the source cannot be
            told, that is an error when the pipeline is composed. ``drop_oldest``, ``drop_newest``, ``latest``: the operator
            counts what it drops, in its ``dropped``, and logs it. ``error``: MacpOverflowError.

    Returns:
        The operator; keep it to ask how many items it has ``dropped``, and how many are ``waiting``.

    Errors:
        What a consumer raises is its own error, once, and its call is cancelled; nobody else notices.

    Marble:
        items    --a--b-|
        > mo.deliver_on(clock, overflow="error")
        result   --a--b-|
    """
    return Delivery(scheduler, buffer=buffer, overflow=overflow)
