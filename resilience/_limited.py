"""The short way of a rate limiter without keys, spelled out in the wrappers of its functions.

It decides as `RateLimiter.admit` does. That one costs a frame more, and a refusal has to unwind that frame, which takes
longer than the decision itself. Whatever is not plain (the first call, a taken lock, a wait, listeners) goes to
`admit`. Every local and closure variable has to be copied when a frame is unwound, hence so few of them.
"""

from __future__ import annotations

from typing import Any

from ._layer import PLAIN, AnyFunction, finished, require_asyncio
from ._wait import Wait
from .events import SUBSCRIBERS
from .exceptions import RateLimitExceededError

_ALL = None  # the key of a limiter without keys
_refused = RateLimitExceededError.__new__  # makes one without running any Python code


def limited(limiter: Any, fn: AnyFunction) -> AnyFunction:
    """`fn`, a plain function, under a limiter without keys whose calls all cost the same."""
    machine, clock, cost = limiter._machine, limiter._clock, limiter._constant_cost
    states, at_once, listeners = machine.table.states, limiter._rejects_at_once, limiter._listeners

    def guarded(*args: Any, **kwargs: Any) -> Any:
        admitted = False
        now = clock.now()
        plain = machine.plain
        tat = states.get(_ALL)
        if tat is not None and plain is not None:
            after = (tat if tat > now else now) + cost * plain.interval
            if after - now <= plain.allowance:
                try:
                    machine.free.pop()
                except IndexError:  # somebody is inside: the long way waits for its turn
                    pass
                else:
                    try:
                        admitted = states.get(_ALL) is tat
                        if admitted:
                            states[_ALL] = after
                    finally:
                        machine.free.append(None)
                    if machine.late:
                        machine.unlocked()
            elif at_once and not (SUBSCRIBERS or listeners or machine.late):
                after = after - plain.tolerance - now
                if after > 0.0:  # or rounding is all there is to wait for
                    machine.rejected += 1  # a statistic; a lost count under contention is cheaper than a lock
                    raise _refused(RateLimitExceededError, limiter.name, after, plain.burst, 0, tat - now)
        if not admitted:
            permit = limiter.admit()
            if type(permit) is Wait:
                permit.block()
        result = fn(*args, **kwargs)
        if type(result) not in PLAIN:
            finished(result, fn)
        return result

    return guarded


def limited_async(limiter: Any, fn: AnyFunction) -> AnyFunction:
    """The same for a coroutine function."""
    machine, clock, cost = limiter._machine, limiter._clock, limiter._constant_cost
    states, at_once, listeners = machine.table.states, limiter._rejects_at_once, limiter._listeners
    unchecked = True

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal unchecked
        if unchecked:
            require_asyncio()
            unchecked = False
        admitted = False
        now = clock.now()
        plain = machine.plain
        tat = states.get(_ALL)
        if tat is not None and plain is not None:
            after = (tat if tat > now else now) + cost * plain.interval
            if after - now <= plain.allowance:
                try:
                    machine.free.pop()
                except IndexError:  # somebody is inside: the long way waits for its turn
                    pass
                else:
                    try:
                        admitted = states.get(_ALL) is tat
                        if admitted:
                            states[_ALL] = after
                    finally:
                        machine.free.append(None)
                    if machine.late:
                        machine.unlocked()
            elif at_once and not (SUBSCRIBERS or listeners or machine.late):
                after = after - plain.tolerance - now
                if after > 0.0:  # or rounding is all there is to wait for
                    machine.rejected += 1  # a statistic; a lost count under contention is cheaper than a lock
                    raise _refused(RateLimitExceededError, limiter.name, after, plain.burst, 0, tat - now)
        if not admitted:
            permit = limiter.admit()
            if type(permit) is Wait:
                await permit.suspend()
        return await fn(*args, **kwargs)

    return guarded


def shared(store: Any, through_store: AnyFunction, alone: AnyFunction) -> AnyFunction:
    """A function under a shared limiter: as quick as under a local one while the store refuses to be asked."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        if store.refuses and store.on_error == "local":
            return alone(*args, **kwargs)
        return through_store(*args, **kwargs)

    return guarded


def shared_async(store: Any, through_store: AnyFunction, alone: AnyFunction) -> AnyFunction:
    """The same for a coroutine function."""

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        if store.refuses and store.on_error == "local":
            return await alone(*args, **kwargs)
        return await through_store(*args, **kwargs)

    return guarded
