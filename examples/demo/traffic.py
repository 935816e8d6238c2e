"""The traffic: calls that arrive when they arrive, whether or not the earlier ones have come back.

The schedule is drawn once, and every caller gets the same one. That makes the passes comparable, and it is what users
do: they do not come more slowly because the service has a bad day.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import httpx

from resilience import CallRejectedError, CallTimeoutError

from .callers import Quote, path

SEED = 2007


class Outcome(Enum):
    """How a call ended: answered, failed, or refused by the toolkit before any request was sent."""

    ANSWERED = "answered"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Call:
    """One user call: when it was due in seconds from the start, how much later it began, how long it took."""

    number: int
    due: float
    late: float
    seconds: float
    outcome: Outcome


def arrivals(rate: float, seconds: float) -> list[float]:
    """The instants of a Poisson process of `rate` calls a second, in seconds from the start."""
    chance = random.Random(SEED)
    instants, instant = [], chance.expovariate(rate)
    while instant < seconds:
        instants.append(instant)
        instant += chance.expovariate(rate)
    return instants


async def drive(
    quote: Quote, instants: list[float], sent: set[str], done: Callable[[Call], None], began: float
) -> None:
    """Make call number n at `instants[n]` after `began`; hand each to `done` as it ends. Returns after the last one.

    `sent` is where the paths of all requests are found.
    """
    now = asyncio.get_running_loop().time

    async def call(number: int, due: float) -> None:
        start = now()
        try:
            await quote(number)
            outcome = Outcome.ANSWERED
        except CallRejectedError:
            outcome = Outcome.FAILED if path(number) in sent else Outcome.REFUSED
        except (httpx.HTTPError, CallTimeoutError):
            outcome = Outcome.FAILED
        done(Call(number, due, start - began - due, now() - start, outcome))

    async with asyncio.TaskGroup() as calls:
        for number, due in enumerate(instants):
            await asyncio.sleep(max(0.0, began + due - now()))
            calls.create_task(call(number, due))
