"""Something to pool: numbered resources of either colour that can fail, break and take their time."""

from __future__ import annotations

import asyncio
from typing import Any

from resilience import Pool
from tests.conftest import Colour


class Works:
    """Makes, checks and scraps resources, and keeps a list of each."""

    def __init__(self, colour: Colour) -> None:
        self.colour = colour
        self.failing: BaseException | None = None
        self.takes = 0.0
        self.checking_takes = 0.0
        self.made: list[int] = []
        self.checked: list[int] = []
        self.scrapped: list[int] = []
        self.broken: set[int] = set()

    def pool(self, *, check: bool = True, **settings: Any) -> Pool[int]:
        """A pool of what is made here."""
        colour = self.colour
        checks = colour.function(self.check) if check else None
        return Pool(colour.function(self.make), close=colour.function(self.scrap), check=checks, **settings)

    def make(self) -> Any:
        if self.failing is not None:
            raise self.failing
        number = len(self.made) + 1
        self.made.append(number)
        return self.colour.sleep(self.takes, number)

    def check(self, number: int) -> Any:
        self.checked.append(number)
        return self.colour.sleep(self.checking_takes, number not in self.broken)

    def scrap(self, number: int) -> None:
        self.scrapped.append(number)

    def turn(self) -> None:
        """Let what is to be done in the background be done."""
        if self.colour.is_async:
            self.colour.run(turns())

    def use(self, pool: Pool[int], error: BaseException | None = None) -> int:
        """Borrow one and give it back, by a block that ends with `error` or well."""
        lease = pool.acquire()
        number: int = self.colour.enter(lease)
        self.colour.exit(lease, error)
        self.turn()
        return number


async def turns() -> None:
    """Let the event loop go round some times."""
    for _ in range(5):
        await asyncio.sleep(0)
