"""What is asked several times while one page is made, and has one answer, is asked once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)
_ANSWERS: ContextVar[dict[Hashable, object] | None] = ContextVar("jitaccess_answers", default=None)


@contextmanager
def one_look() -> Iterator[None]:
    """Within it, what is marked `once` is not asked twice. Only around what reads: who decides has to ask again."""
    token = _ANSWERS.set({})
    try:
        yield
    finally:
        _ANSWERS.reset(token)


def once(function: Callable[P, R]) -> Callable[P, R]:
    """Give the same arguments (hashable ones) the same answer while somebody looks; outside of a look, ask."""

    @wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> R:
        answers = _ANSWERS.get()
        if answers is None:
            return function(*args, **kwargs)
        key = (function, args, *sorted(kwargs.items()))
        if key not in answers:
            answers[key] = function(*args, **kwargs)
        return answers[key]  # type: ignore[return-value]  # of this function

    return asked


def once_each(
    function: Callable[Concatenate[frozenset[K], P], dict[K, R]],
) -> Callable[Concatenate[Iterable[K], P], dict[K, R]]:
    """The same for what answers about each of many: asked is only about those that are not known yet.

    `function` has an answer for every one of its keys.
    """

    @wraps(function)
    def asked(keys: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, R]:
        answers, wanted = _ANSWERS.get(), frozenset(keys)
        if answers is None:
            return function(wanted, *args, **kwargs)
        known: dict[K, R] = answers.setdefault((function, args, *sorted(kwargs.items())), {})  # type: ignore[assignment]
        if missing := wanted - known.keys():
            known |= function(missing, *args, **kwargs)
        return {key: known[key] for key in wanted}

    return asked
