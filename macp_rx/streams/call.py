"""Each call is written once, reactive; the blocking form is derived from it, with its full types."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from macp_rx.streams.stream import Stream

__all__ = ["Blocking", "Reactive", "call"]

P = ParamSpec("P")
T = TypeVar("T")
Owner = TypeVar("Owner")


class Blocking:
    """Marks a class whose calls block and return the reply."""

    __slots__ = ()


class Reactive:
    """Marks a class whose calls return a cold, awaitable Stream of the reply."""

    __slots__ = ()


class call(Generic[Owner, P, T]):  # noqa: N801 - a decorator, as property is
    """A method that blocks on a `Blocking` instance and returns a Stream on a `Reactive` one.

    Args:
        reactive: the method as written: returns a Stream that emits one reply and completes.
    """

    def __init__(self, reactive: Callable[Concatenate[Owner, P], Stream[T]]) -> None:
        self._reactive = reactive
        update_wrapper(self, reactive)  # type: ignore[arg-type]  # help() and mkdocs read name, text and signature

    @overload
    def __get__(self, instance: None, owner: type[object]) -> Self: ...
    @overload
    def __get__(self, instance: Reactive, owner: type[object]) -> Callable[P, Stream[T]]: ...
    @overload
    def __get__(self, instance: Blocking, owner: type[object]) -> Callable[P, T]: ...

    def __get__(
        self, instance: Blocking | Reactive | None, owner: type[object]
    ) -> Self | Callable[P, Stream[T]] | Callable[P, T]:
        if instance is None:
            return self
        bound: Callable[P, Stream[T]] = self._reactive.__get__(instance, owner)
        if isinstance(instance, Reactive):
            return bound

        def blocking(*args: P.args, **kwargs: P.kwargs) -> T:
            return bound(*args, **kwargs).run()

        return update_wrapper(blocking, bound, updated=())  # whose signature is the method's, without self
