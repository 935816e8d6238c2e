"""The functions under guard. Each case gets a fresh one, so that no case profits from or pays for another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from .measure import Colour

Function = Callable[..., Any]

_occupants: set[asyncio.Task[Any]] = set()
"""Event loops keep only weak references to their tasks."""


class TwoFieldError(Exception):
    """The least an informative rejection can be: its fields are set, no message is built."""

    def __init__(self, policy: str, retry_after: float) -> None:
        self.policy = policy
        self.retry_after = retry_after


def nothing(colour: Colour) -> Function:
    """Does nothing; with this, the guard is all there is to measure."""
    if colour == "sync":

        def call() -> None:
            return None

        return call

    async def acall() -> None:
        return None

    return acall


def nothing_for_key(colour: Colour) -> Function:
    """The same with an argument to be limited by."""
    if colour == "sync":

        def call(key: str) -> None:
            return None

        return call

    async def acall(key: str) -> None:
        return None

    return acall


def failing(colour: Colour) -> Function:
    """Raises `ValueError` each time."""
    if colour == "sync":

        def call() -> None:
            raise ValueError("no luck")

        return call

    async def acall() -> None:
        raise ValueError("no luck")

    return acall


def two_field_failing(colour: Colour) -> Function:
    """Raises a `TwoFieldError` each time."""
    if colour == "sync":

        def call() -> None:
            raise TwoFieldError("reference", 1.0)

        return call

    async def acall() -> None:
        raise TwoFieldError("reference", 1.0)

    return acall


def stoppable(colour: Colour) -> Function:
    """Does nothing, or waits for as long as it is told to: the call that fills a bulkhead."""
    if colour == "sync":

        def call(wait: Callable[[], object] | None = None) -> None:
            if wait is not None:
                wait()

        return call

    async def acall(wait: Callable[[], Any] | None = None) -> None:
        if wait is not None:
            await wait()

    return acall


def occupy(colour: Colour, guarded: Function) -> None:
    """Leave one call inside `guarded`, made from a `stoppable` function, until the end of the row."""
    if colour == "async":
        task = asyncio.get_running_loop().create_task(guarded(asyncio.Event().wait))
        _occupants.add(task)
        task.add_done_callback(_occupants.discard)
        return
    entered = threading.Event()

    def wait() -> None:
        entered.set()
        threading.Event().wait()

    threading.Thread(target=guarded, args=(wait,), daemon=True).start()
    entered.wait()


def wrapped(function: Function, colour: Colour) -> Function:
    """The cheapest decorator that forwards its arguments: the floor for any layer."""
    if colour == "sync":

        def wrapper(*args: object, **kwargs: object) -> object:
            return function(*args, **kwargs)

        return wrapper

    async def awrapper(*args: object, **kwargs: object) -> object:
        return await function(*args, **kwargs)

    return awrapper
