"""Checks of constructor arguments: a mistake is an error at once that names the parameter, the value and the range."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, cast

_SHOWN = 60  # characters of a wrong value that an error message repeats


def number(
    name: str, value: object, *, zero: bool = False, minimum: float | None = None, maximum: float | None = None
) -> float:
    """A finite number above 0 (or from 0 with `zero`), within `minimum` and `maximum`, as a float."""
    if minimum is not None:
        allowed = f"a finite number of at least {minimum:g}"
    else:
        allowed = "a finite number of at least 0" if zero else "a finite number above 0"
    if maximum is not None:
        allowed += f" and at most {maximum:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be {allowed}, not {shown(value)}")
    try:
        result = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be {allowed}, not {shown(value)}") from None
    lowest = (0.0 if zero else math.ulp(0.0)) if minimum is None else minimum
    if not (lowest <= result <= (math.inf if maximum is None else maximum)) or math.isinf(result):
        raise ValueError(f"{name} must be {allowed}, not {shown(value)}")
    return result


def seconds(
    name: str, value: object, *, zero: bool = False, minimum: float | None = None, maximum: float | None = None
) -> float:
    """A duration: float seconds or a timedelta, above 0 (or from 0 with `zero`)."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    return number(name, value, zero=zero, minimum=minimum, maximum=maximum)


def optional_seconds(name: str, value: object, *, zero: bool = False) -> float | None:
    """A duration, or None for no limit."""
    return None if value is None else seconds(name, value, zero=zero)


def ratio(name: str, value: object) -> float:
    """A share above 0 and up to 1."""
    return number(name, value, maximum=1.0)


def count(name: str, value: object, *, minimum: int = 1) -> int:
    """A whole number of at least `minimum`; a bool is not one."""
    allowed = f"a whole number of at least {minimum}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {allowed}, not {shown(value)}")
    if not minimum <= value <= 2**63:
        raise ValueError(f"{name} must be {allowed} (and at most 2**63), not {shown(value)}")
    return value


def flag(name: str, value: object) -> bool:
    """True or False, and nothing that merely counts as one of them."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return value


def text(name: str, value: object) -> str | None:
    """A non-empty string, or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a non-empty string or None, not {shown(value)}")
    if not value:
        raise ValueError(f"{name} must be a non-empty string or None, not ''")
    return value


def function(name: str, value: object, *, takes: int | None = None) -> Any:
    """Something to call with `takes` arguments (None: with whatever the call has), or None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable or None, not {shown(value)}")
    return value if value is None else plain(name, value, takes=takes)


def plain(name: str, value: Any, *, takes: int | None = None) -> Any:
    """`value`, unless calling it with `takes` arguments would not give the answer at once.

    A coroutine or generator is always true, whatever it would come to; so is the exception that an exception type would
    make of whatever it is shown, and a layer answers with a guarded function.
    """
    if isinstance(value, type) and issubclass(value, BaseException):
        raise TypeError(f"{name} must be a plain function, not the exception type {value.__name__}")
    if is_async(value):
        raise TypeError(f"{name} must be a plain function, not the asynchronous {shown(value)}")
    if any(inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found) for found in _code_of(value)):
        raise TypeError(f"{name} must be a plain function, not the generator function {shown(value)}")
    if hasattr(type(value), "_wrap_sync"):  # a Layer, which is made further up
        raise TypeError(f"{name} must be a plain function, not the layer {shown(value)}")
    if takes is not None and accepts(value, takes) is False:
        raise TypeError(f"{name} must take {_ARGUMENTS[takes]}, which {shown(value)} does not")
    return value


_ARGUMENTS = ("no argument", "one argument")


def is_async(value: object) -> bool:
    """Whether calling `value` gives a coroutine, as far as can be seen from outside."""
    return any(map(inspect.iscoroutinefunction, _code_of(value)))


def _code_of(value: object) -> tuple[object, object]:
    """Where to look for what kind of function it is: of an object with a `__call__`, the method tells."""
    return value, getattr(type(value), "__call__", None)  # noqa: B004


def accepts(fn: Callable[..., Any], count: int) -> bool | None:
    """Whether `fn` can be called with `count` positional arguments; None if it does not tell."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some built-ins
        return None
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def hashable(name: str, key: object) -> None:
    """Raise TypeError for a key that no table can hold."""
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(f"{name} must return something hashable, not {shown(key)}") from error


def strategy(name: str, value: Any) -> Any:
    """A tenacity strategy, or a function of its RetryCallState; not the class of one, which would make an object."""
    if isinstance(value, type):
        raise TypeError(
            f"{name} must be a tenacity strategy, not the class {value.__name__}: write {value.__name__}(…)"
        )
    if not callable(value):
        raise TypeError(f"{name} must be a tenacity strategy, not {shown(value)}")
    return plain(name, value, takes=1)


def is_collection(value: object) -> bool:
    """Whether `value` holds things; a text is one thing, and its letters are never meant."""
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes))


def listeners(value: object) -> tuple[Callable[[Any], object], ...]:
    """A collection of callables, each taking one event."""
    if not is_collection(value):
        raise TypeError(f"listeners must be a collection of callables taking an event, not {shown(value)}")
    return tuple(map(listener, cast("Iterable[Any]", value)))


def listener(value: Any) -> Callable[[Any], object]:
    """A callable taking one event. What it returns is ignored, so what only makes something would do nothing."""
    if not callable(value):
        raise TypeError(f"a listener must be callable with one event, not {shown(value)}")
    if isinstance(value, type) or getattr(value, "makes_a_listener", False) is True:
        raise TypeError(f"a listener must be callable with one event: write {value.__qualname__}(), with parentheses")
    return cast("Callable[[Any], object]", plain("a listener", value, takes=1))


def is_exception_type(value: object) -> bool:
    """Whether `value` is a class of ordinary exceptions (those an `except Exception` would catch)."""
    return isinstance(value, type) and issubclass(value, Exception)


def exceptions(name: str, value: object) -> tuple[type[Exception], ...]:
    """One exception type or a tuple of them, as a tuple; only subclasses of Exception."""
    kinds: Any = value if isinstance(value, tuple) else (value,)
    for kind in kinds:
        if not is_exception_type(kind):
            raise TypeError(f"{name} must be an Exception type or a tuple of them, not {shown(kind)}")
    return cast("tuple[type[Exception], ...]", kinds)


def shown(value: object) -> str:
    """A bounded repr for error messages: an enormous value must not make an enormous message."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**_SHOWN:
        return f"an int of {value.bit_length()} bits"
    try:
        result = repr(value)
    except Exception as error:  # noqa: BLE001 - a broken __repr__ must not hide the mistake it belongs to
        return f"a {type(value).__name__} whose repr raises {type(error).__name__}"
    return result if len(result) <= _SHOWN else f"{result[:_SHOWN]}…"
