"""Rows for a call that fails three times, without waiting in between, until the error reaches the caller.

Nothing is subtracted: the three calls, their exceptions and the caller's `except` block are in every number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nopanic
import pyresilience
import stamina
import tenacity

from resilience import Retry

from .measure import OURS, Bar, Case, Colour, Row
from .subjects import Function, failing


def three_attempts(colour: Colour) -> list[Case]:
    # By default stamina logs every retry; nobody else here has a listener.
    stamina.instrumentation.set_on_retry_hooks([])
    options: dict[str, Any] = {
        "retry": tenacity.retry_if_exception_type(ValueError),
        "stop": tenacity.stop_after_attempt(3),
        "wait": tenacity.wait_none(),
        "reraise": True,
    }
    guards: dict[str, Callable[[Function], Function]] = {
        OURS: Retry(on=ValueError, attempts=3, wait=tenacity.wait_none()),
        "nopanic": nopanic.retry(3, on=ValueError, backoff=0.0),
        "tenacity": tenacity.retry(**options),
        "tenacity that never sleeps": tenacity.retry(sleep=_no_sleep(colour), **options),
        "stamina": stamina.retry(on=ValueError, attempts=3, timeout=None, wait_initial=0, wait_max=0, wait_jitter=0),
        "pyresilience": pyresilience.resilient(
            retry=pyresilience.RetryConfig(max_attempts=3, delay=0.0, jitter=False, retry_on=(ValueError,))
        ),
    }
    cases = [Case(name, guard(failing(colour)), raises=ValueError) for name, guard in guards.items()]
    if colour == "sync":
        # Without the copy that the decorator makes per call. An AsyncRetrying cannot be shared by tasks.
        retrying, function = tenacity.Retrying(**options), failing(colour)
        cases.append(Case("tenacity, one Retrying", lambda: retrying(function), raises=ValueError))
    cases.append(Case("a loop by hand", _by_hand(colour, failing(colour)), raises=ValueError))
    return cases


def _no_sleep(colour: Colour) -> Function:
    def sleep(seconds: float) -> None:
        return None

    async def asleep(seconds: float) -> None:
        return None

    return sleep if colour == "sync" else asleep


def _by_hand(colour: Colour, function: Function) -> Function:
    if colour == "sync":

        def call() -> object:
            for attempt in (1, 2, 3):
                try:
                    return function()
                except ValueError:
                    if attempt == 3:
                        raise
            return None

        return call

    async def acall() -> object:
        for attempt in (1, 2, 3):
            try:
                return await function()
            except ValueError:
                if attempt == 3:
                    raise
        return None

    return acall


GROUP = "failure path"
ROWS = (
    Row(
        GROUP,
        "three failing attempts, no wait",
        three_attempts,
        (Bar("tenacity", 0.3),),
        note="between attempts every peer gives way to the event loop or to other threads once, which costs a system"
        " call and is dear on some machines; so tenacity has a line without that",
    ),
)
