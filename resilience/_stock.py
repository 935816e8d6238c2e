"""The shelf of a pool and the hands that fetch and throw away: creating, checking and closing, outside the lock.

With a plain `create`, everything is done in threads: in the borrower's own, or on an errand for a task. With an
asynchronous one, everything is done by tasks of the one loop that the pool serves. Closing is nobody's to wait for.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import traceback
from collections.abc import Callable
from contextvars import Context
from typing import Any

from . import _arguments, _errand
from ._layer import colour_of, name_of
from ._machine import ABANDONED, Verdict
from ._shelf import Shelf
from ._slot import Item
from ._ticket import Ticket
from .clock import Clock
from .correlation import correlation_id
from .events import (
    SUBSCRIBERS,
    Event,
    Listener,
    PoolCreationFailed,
    PoolResourceClosed,
    PoolResourceCreated,
    PoolResourceLeaked,
)

_FRAMES = 16  # of a borrower's stack that are kept
_PATIENCE = 30.0  # seconds after which closing an asynchronous resource is given up

_log = logging.getLogger("resilience")


class Stock(Shelf):
    """What all variants of one pool share."""

    __slots__ = ("check", "clock", "close", "create", "is_async", "listeners", "loop", "name", "tasks")

    def __init__(
        self,
        create: Callable[[], Any],
        close: Callable[[Any], object] | None,
        check: Callable[[Any], object] | None,
        *,
        name: str | None,
        clock: Clock,
        listeners: tuple[Listener, ...],
        **settings: Any,
    ) -> None:
        self.is_async = _is_async(create)
        self.create = create
        self.close = _function("close", close, may_be_async=self.is_async)
        self.check = _function("check", check, may_be_async=self.is_async)
        self.name = name
        self.clock = clock
        self.listeners = listeners
        self.loop: asyncio.AbstractEventLoop | None = None  # the one that an asynchronous `create` serves
        self.tasks: set[asyncio.Task[None]] = set()  # what runs in the background; a loop holds its tasks weakly
        super().__init__(checks=check is not None, closes=close is not None, **settings)

    # -- whose loop it is ----------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """See that the running loop is the one served. A new one takes over when the old one is closed."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            raise TypeError(
                f"{self} creates its resources asynchronously, for one event loop: use `async with pool.acquire()`"
                " in a task, or give the pool a plain `create` function, which serves threads and tasks"
            ) from None
        if self.loop is running:
            return
        if self.loop is not None and not self.loop.is_closed():
            raise RuntimeError(
                f"{self} serves another event loop, which is not closed: make a pool for each loop, or give it a"
                " plain `create` function, which serves all of them"
            )
        with self.lock:
            self.loop = running
            self.generation += 1  # no loan of the old loop counts
            self.late.clear()
            self.tasks.clear()
            for item in self.emptied_locked():
                item.reason = "loop closed"
                self.closed_count += 1
                self.doomed.append(item)
        self.unlocked()

    def __str__(self) -> str:
        return f"the pool {self.name!r}" if self.name else "this pool"

    # -- creating and checking -----------------------------------------------------------------------------------------

    def make(self) -> Any:
        """A new resource from a plain `create`."""
        resource = self.create()
        if inspect.iscoroutine(resource) or asyncio.isfuture(resource):
            (resource.close if inspect.iscoroutine(resource) else resource.cancel)()
            raise TypeError(
                f"create returned a {type(resource).__name__} from the plain function {name_of(self.create)}:"
                " pass an `async def` that awaits it"
            )
        return resource

    async def amake(self) -> Any:
        """A new resource from an asynchronous `create`."""
        return await self.create()

    def healthy(self, resource: Any) -> bool:
        """Whether `check` has nothing to say against it. It says no by what is false, or by raising."""
        assert self.check is not None
        try:
            return _says_yes(self.check(resource))
        except Exception:  # noqa: BLE001 - that is how many checks say no
            return False

    async def ahealthy(self, resource: Any) -> bool:
        """The same in a task, where `check` may be plain or asynchronous."""
        assert self.check is not None
        try:
            answer: Any = self.check(resource)
            return _says_yes(await answer if inspect.isawaitable(answer) else answer)
        except Exception:  # noqa: BLE001 - that is how many checks say no
            return False

    def made(self, item: Item, resource: Any, began: float) -> None:
        """Tell that `resource` was created for `item`."""
        now = self.clock.now()
        with self.lock:
            woken = [*self.caught_up_locked(), *self.made_locked(item, resource, now)]
        self.note(PoolResourceCreated, seconds=now - began)
        self.wake(woken)
        self.unlocked()

    def lent(self, item: Item) -> None:
        """`item` is handed out; where leaks are watched for, remember to whom."""
        self.borrowed += 1  # a statistic; a lost count under contention is cheaper than a lock
        if self.leak_after is not None:
            stack, now = _borrowers_stack(), self.clock.now()
            with self.lock:
                self.watch_locked(item, now, stack)

    # -- filling up in the background ----------------------------------------------------------------------------------

    def refill(self, item: Item) -> None:
        """Fill the vacant `item`, and what else is missing to `min_idle`, with nobody waiting for it."""
        try:
            if self.loop is not None:
                self._spawn(self._arefill(item))
            else:
                _errand.start(Context(), lambda: self._refill(item))
        except RuntimeError as error:  # the interpreter ends, and there are no threads any more
            self._refilled(item, error)

    def _refill(self, item: Item | None) -> None:
        while item is not None:
            began = self.clock.now()
            try:
                self.made(item, self.make(), began)
            except BaseException as error:  # noqa: BLE001 - the next one who needs a resource will see for himself
                self._refilled(item, error)
                return
            item = self._refilled(item)

    async def _arefill(self, item: Item | None) -> None:
        while item is not None:
            began = self.clock.now()
            try:
                resource = await self.amake()
            except Exception as error:  # noqa: BLE001 - the next one who needs a resource will see for himself
                self._refilled(item, error)
                return
            except BaseException:
                # The loop comes to its end. It may be a finaliser that ends this, so nothing here may block.
                self.late.append((self._given_up_locked, item, ABANDONED))
                self.unlocked()
                raise
            self.made(item, resource, began)
            item = self._refilled(item)

    def _refilled(self, item: Item, error: BaseException | None = None) -> Item | None:
        """One is there, or is not; returns the next to fill."""
        now = self.clock.now()
        spare = None
        with self.lock:
            woken = self.caught_up_locked()
            if item.generation == self.generation:
                self.refilling = False
            if error is None:
                woken += self.give_up_locked(item, now)
                spare = self.spare_locked()
            else:
                woken += self.failed_locked(item, now, wary=True)
        if error is not None:
            self.note(PoolCreationFailed, error=error)
        self.wake(woken)
        self.unlocked()
        return spare

    def _given_up_locked(self, item: Item, _: Verdict) -> list[Ticket]:
        if item.generation == self.generation:
            self.refilling = False
        return self.failed_locked(item, self.clock.now(), wary=False)

    # -- closing and reporting -----------------------------------------------------------------------------------------

    def unlocked(self) -> None:
        super().unlocked()
        while self.doomed or self.overdue:
            self._report()
            while self.doomed:
                try:
                    item = self.doomed.popleft()
                except IndexError:  # another one has it
                    break
                self.note(PoolResourceClosed, reason=item.reason, age=self.clock.now() - item.born)
                if self.close is not None:
                    self._throw_away(item)
            super().unlocked()

    def _throw_away(self, item: Item) -> None:
        """Have a doomed resource closed by somebody; this may be a finaliser."""
        try:
            if not self.is_async:
                _errand.start(Context(), lambda: self.dispose(item))
            elif self.loop is running_loop():
                self._spawn(self.adispose(item))
            else:
                assert self.loop is not None
                self.loop.call_soon_threadsafe(lambda: self._spawn(self.adispose(item)), context=Context())
        except RuntimeError:
            if self.is_async:  # the loop is closed, and what belongs to it goes with it
                self.disposed(item)
            else:  # there can be no thread, as at the end of the interpreter
                self.dispose(item)

    def dispose(self, item: Item) -> None:
        """Close a doomed resource in this thread."""
        assert self.close is not None
        try:
            answer: Any = self.close(item.resource)
            if inspect.iscoroutine(answer):
                answer.close()
                raise TypeError(f"close returned a coroutine from the plain function {name_of(self.close)}")
        except BaseException as error:  # noqa: BLE001 - it is gone in any case
            self._complain(error)
        finally:
            self.disposed(item)

    async def adispose(self, item: Item) -> None:
        """Close a doomed resource in this task, and do not let it take for ever."""
        assert self.close is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                answer: Any = self.close(item.resource)
                if inspect.isawaitable(answer):
                    await answer
        except Exception as error:  # noqa: BLE001 - it is gone in any case
            if item.generation == self.generation:  # else its loop is closed, and this was no more than an attempt
                self._complain(error)
        finally:
            self.disposed(item)

    def disposed(self, item: Item) -> None:
        """Tell that `item` is closed; never blocks, because a finaliser may be what ends the task that closed it."""
        item.resource = None
        self.late.append((self._disposed_locked, item, ABANDONED))
        self.unlocked()

    def _disposed_locked(self, item: Item, _: Verdict) -> list[Ticket]:
        return self.closed_locked(item, self.clock.now())

    def _spawn(self, work: Any) -> None:
        """Run a coroutine as a task in the running loop, outside every deadline, and hold on to it."""
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def lost(self, item: Item, _: Verdict) -> list[Ticket]:
        """To be handed over by the finaliser of a lease."""
        return self.lost_locked(item, self.clock.now())

    def _report(self) -> None:
        while self.overdue:
            try:
                seconds, stack = self.overdue.popleft()
            except IndexError:  # another one has it
                return
            text = "".join(stack.format()) if stack is not None else None
            self.note(PoolResourceLeaked, seconds=seconds, stack=text)
            _log.warning(
                "a resource of %s %s%s",
                self,
                "was dropped without being returned" if seconds is None else f"has not come back for {seconds:.1f} s",
                f"; it was borrowed at\n{text}" if text else "",
            )

    def _complain(self, error: BaseException) -> None:
        _log.warning("closing a resource of %s failed", self, exc_info=(type(error), error, error.__traceback__))

    def note(self, kind: type[Event], **facts: Any) -> None:
        """Put an event into the outbox; it leaves at the next `unlocked()`."""
        if SUBSCRIBERS or self.listeners:
            event = kind(policy=self.name, time=self.clock.now(), correlation_id=correlation_id(), **facts)
            self.outbox.append((event, self.listeners))

    def forked(self) -> None:
        super().forked()
        self.tasks = set()


def _is_async(create: Any) -> bool:
    if isinstance(create, type):
        return False  # calling a class is a plain call
    if not callable(create):
        raise TypeError(f"create must be a function that returns a new resource, not {_arguments.shown(create)}")
    colour = colour_of(create)
    if "generator" in colour:
        raise TypeError(f"create must be a function that returns a new resource, not the {colour} {name_of(create)}")
    if _arguments.accepts(create, 0) is False:
        raise TypeError(f"create must take no arguments, which {_arguments.shown(create)} does not")
    return colour == "async"


def _function(name: str, value: Any, *, may_be_async: bool) -> Any:
    """Something to call with the resource, or None."""
    if not (may_be_async and callable(value) and _arguments.is_async(value)):
        return _arguments.function(name, value, takes=1)
    if _arguments.accepts(value, 1) is False:
        raise TypeError(f"{name} must take one argument, which {_arguments.shown(value)} does not")
    return value


def _says_yes(answer: object) -> bool:
    return answer is None or bool(answer)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _borrowers_stack() -> traceback.StackSummary:
    """Where the code is that called this package; the source lines are read only if somebody wants to see them."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        frame = frame.f_back
    stack = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=_FRAMES, lookup_lines=False)
    stack.reverse()
    return stack
