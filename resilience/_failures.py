"""What a breaker calls a failure: the tests of exceptions, and whether they leave anything to count."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

from . import _arguments
from ._circuit import Circuit
from .exceptions import CallRejectedError

ExceptionTest = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


def exception_test(name: str, value: Any) -> Callable[[Exception], bool]:
    """A predicate from exception types, a tuple of them, or a predicate."""
    if _kinds(value) is None:
        if not callable(value):
            raise TypeError(f"{name} must be exception types or a predicate, not {_arguments.shown(value)}")
        return cast("Callable[[Exception], bool]", _arguments.plain(name, value, takes=1))
    kinds = _arguments.exceptions(name, value)
    rejections = [kind.__name__ for kind in kinds if issubclass(kind, CallRejectedError)]
    if rejections and name == "failure_on":
        raise ValueError(f"failure_on must not name {rejections[0]}: a rejection says nothing and never counts")
    return lambda error: isinstance(error, kinds)


def refuse_what_never_opens(circuit: Circuit, failures: Any, ignored: Any, failure_if: object) -> None:
    """Raise ValueError for settings under which no call could open a circuit that has no eye on slow ones."""
    if circuit.slow_call_rate != 1.0:
        raise ValueError("slow_call_rate is the share of calls slower than slow_call_duration: give that too")
    if circuit.failure_rate is None and circuit.failure_threshold == math.inf:
        raise ValueError(
            "failure_rate=None turns the rate rule off: give failure_threshold or slow_call_duration, or the circuit"
            " could never open"
        )
    kinds, without = _kinds(failures), _kinds(ignored) or ()
    if failure_if is None and kinds is not None and all(issubclass(kind, without) for kind in kinds):
        raise ValueError(
            "failure_on must name an exception that ignore does not, or give failure_if or slow_call_duration: no call"
            " could fail otherwise, and the circuit never open"
        )


def _kinds(test: Any) -> tuple[type[Exception], ...] | None:
    """The exception types that a setting names; None for a predicate."""
    return test if isinstance(test, tuple) else (test,) if isinstance(test, type) else None
