"""The parts of a pool: a slot with what is in it, a waiter's place, and the figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ._ticket import Ticket

VACANT: Final = "vacant"
LENT: Final = "lent"
IDLE: Final = "idle"
CLOSING: Final = "closing"
GONE: Final = "gone"


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool at one moment. `size` slots are taken: `in_use`, `idle`, `creating` or `closing`.

    From `borrowed` on it counts since the pool was made. `failed` creations, callers that `timed_out` (in the queue, or
    while something was created or checked for them), callers `rejected` at once, loans that `leaked`; `wait_time` is
    all seconds that callers spent in the queue, `longest_wait` the most that one did.
    """

    max_size: int
    min_idle: int
    size: int
    in_use: int
    idle: int
    creating: int
    closing: int
    waiting: int
    borrowed: int
    created: int
    closed: int
    failed: int
    timed_out: int
    rejected: int
    leaked: int
    wait_time: float
    longest_wait: float


class Item:
    """One slot and the resource in it. Times are instants on the pool's clock."""

    __slots__ = (
        "born",
        "borrowed",
        "doubtful",
        "expires",
        "generation",
        "reason",
        "resource",
        "returned",
        "stack",
        "state",
    )

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.state: str = VACANT
        self.resource: Any = None
        self.doubtful = False  # to be checked before it is lent again
        self.born = 0.0
        self.expires = 0.0
        self.returned = 0.0
        self.borrowed = 0.0
        self.stack: Any = None  # of the borrower, where leaks are watched for
        self.reason = ""  # why it is closed


class Place(Ticket):
    """A waiter's place. What is granted is an item, lent or vacant; None when the pool was closed."""

    __slots__ = ("item",)

    item: Item | None
