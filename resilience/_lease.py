"""A lease: one loan of a resource of a pool, as a context manager of either colour."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, final

from ._layer import require_asyncio
from ._machine import ABANDONED, SUCCESS, Verdict
from ._stock import Stock
from ._wait import Wait

T = TypeVar("T")


class Lender(Protocol):
    """What a lease needs of its pool."""

    _machine: Stock

    def admit(self) -> Any: ...

    def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None: ...

    def _fail(self, permit: Any, error: BaseException) -> None: ...


@final
class Lease(Generic[T]):
    """One loan of a resource: `with pool.acquire() as resource:`, or `async with`. Entered once.

    When the block ends well, the resource goes back to be used again. If the block raises an exception, the resource is
    checked before it is lent again, or closed where the pool has no `check`. If the block is interrupted (cancelled, a
    timeout, Ctrl-C), the resource is closed: nobody knows what is still under way on it.
    """

    __slots__ = ("_discarded", "_item", "_pool", "_spent")

    def __init__(self, pool: Lender) -> None:
        self._pool = pool
        self._item: Any = None
        self._spent = False
        self._discarded = False

    def discard(self) -> None:
        """Have the resource closed when the block ends, however that ends."""
        self._discarded = True

    def __enter__(self) -> T:
        if self._spent:
            raise RuntimeError("a lease is for one loan and was entered already: ask the pool for a new one")
        self._spent = True
        pool = self._pool
        if pool._machine.is_async:
            raise TypeError(
                f"{pool._machine} creates its resources asynchronously: use `async with pool.acquire()` in a task, or"
                " give the pool a plain `create` function"
            )
        item = pool.admit()
        if type(item) is Wait:
            item = item.block()
        self._item = item
        resource: T = item.resource
        return resource

    async def __aenter__(self) -> T:
        if self._spent:
            raise RuntimeError("a lease is for one loan and was entered already: ask the pool for a new one")
        self._spent = True
        if not self._pool._machine.is_async:  # else the pool looks itself whose loop this is
            require_asyncio()
        item = self._pool.admit()
        if type(item) is Wait:
            item = await item.suspend()
        self._item = item
        resource: T = item.resource
        return resource

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        item, self._item = self._item, None
        if item is None:
            return
        if self._discarded:
            self._pool.settle(item, ABANDONED)
        elif error is None:
            self._pool.settle(item)
        else:
            self._pool._fail(item, error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)  # returning never waits

    def __del__(self) -> None:
        item = self._item
        if item is not None:
            self._item = None
            stock = self._pool._machine
            stock.late.append((stock.lost, item, ABANDONED))
            stock.unlocked()
