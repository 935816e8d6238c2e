"""The kernel: layers with state, and the one path that every call takes through them, whatever its colour.

::

    admit(args, kwargs) ──► permit ──────────────► run ──► settle(permit, verdict)
             │                 ▲
             ├─► Wait ── wait ─┘   what to wait for is data; only the waiting has a colour
             └─► raise a rejection

A `Policy` decides in `admit` and records in `settle`; both are arithmetic under one plain lock, shared by all threads
and all event loops. `settle` never blocks: it may run in a finaliser, inside any allocation of a thread that holds the
lock already. If the lock is taken, the result is handed over to whoever holds it, and every unlocker looks again.
Events leave through an outbox in the order of the decisions, outside the lock.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Generator, Hashable, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self

from . import _arguments, deadline
from ._layer import PLAIN, AnyFunction, Layer, Stream, continued, drive, finished, level_of_caller, require_asyncio
from ._machine import ABANDONED, FAILURE, SUCCESS, Verdict
from ._ticket import Ticket
from ._wait import Wait
from .clock import Clock, checked
from .correlation import correlation_id
from .events import SUBSCRIBERS, CallRejected, Event, Listener
from .exceptions import CallRejectedError


class Policy(Layer):
    """A layer with state. Decorator, guard, transport and middleware all go through `admit` and `settle`."""

    _machine: Any  # a Machine; each policy narrows it to its own
    _variable: ClassVar[frozenset[str]] = frozenset()  # the settings that `with_` may change
    _judges_results = False  # whether results matter, not only exceptions
    _settles = True  # whether the end of a call matters at all
    _belongs_to: Hashable = None  # the key that a Keyed made this policy for

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "admit" in vars(cls) and "_indifferent" not in vars(cls):
            # A subclass that decides by itself is shown the arguments.
            setattr(cls, "_indifferent", Layer._indifferent)  # noqa: B010 - a property

    def __init__(self, name: str | None, clock: Clock | None, listeners: Iterable[Listener]) -> None:
        self.name = _arguments.text("name", name)
        self._clock = checked(clock)
        self._listeners = _arguments.listeners(listeners)
        self._warned = False

    def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Decide now whether a call with these arguments may run.

        Returns a permit, which is opaque and belongs to this call, or a `Wait`; raises a `CallRejectedError`.
        Every permit must be settled exactly once.
        """
        raise TypeError(f"{type(self).__name__} does not admit calls")

    def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None:
        """Record how an admitted call went and give its permit back. Never waits; a stale permit changes nothing."""
        raise TypeError(f"{type(self).__name__} does not settle calls")

    def judge(self, error: BaseException) -> Verdict:
        """The verdict on a call that raised: FAILURE, or ABANDONED for what says nothing about the dependency."""
        if isinstance(error, BaseExceptionGroup):
            verdicts = {self.judge(leaf) for leaf in error.exceptions}
            return FAILURE if FAILURE in verdicts else ABANDONED
        if isinstance(error, Exception):
            return ABANDONED if isinstance(error, CallRejectedError) else self._judge_exception(error)
        if isinstance(error, asyncio.CancelledError) and deadline.cancelled_by_deadline():
            return FAILURE
        return ABANDONED

    def guard(self, /, *args: Any, **kwargs: Any) -> Guard:
        """One call's guard, for `with` or `async with`; the arguments go to key, cost and the like."""
        return Guard(self, args, kwargs)

    def with_(self, **changes: Any) -> Self:
        """A variant with other settings for its callers that shares this policy's state."""
        refused = changes.keys() - self._variable
        if refused:
            allowed = ", ".join(sorted(self._variable)) or "nothing"
            raise TypeError(
                f"{type(self).__name__}.with_() can change {allowed}, not {', '.join(sorted(refused))}:"
                " that belongs to the shared state"
            )
        variant = object.__new__(type(self))
        vars(variant).update(vars(self))
        variant._configure(**changes)
        return variant

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"{self!r} holds the state that its callers share and can be neither copied nor pickled:"
            " make a new one, or a variant on the same state by with_()"
        )

    def _configure(self, **changes: Any) -> None:
        """Validate and set those settings that do not belong to the shared state."""
        for setting, value in changes.items():
            if setting == "listeners":
                self._listeners = _arguments.listeners(value)
            elif setting == "name":
                self.name = _arguments.text("name", value)

    def _judge_exception(self, error: Exception) -> Verdict:
        return FAILURE

    def _judge_result(self, result: object) -> Verdict:
        return SUCCESS

    def _fail(self, permit: Any, error: BaseException) -> None:
        """Settle a call that raised. A judge that raises itself must not keep the permit."""
        try:
            verdict = self.judge(error)
        except BaseException:
            self.settle(permit, ABANDONED)
            raise
        self.settle(permit, verdict)

    def _finish(self, permit: Any, result: object) -> None:
        """Settle a call that returned, where results matter."""
        try:
            verdict = self._judge_result(result)
        except BaseException:
            self.settle(permit, ABANDONED)
            raise
        self.settle(permit, verdict)

    def _forsake(self, wait: Wait) -> None:
        """The caller of `wait` is gone. It may be a finaliser that tells us, so this never blocks either."""
        if wait.decision is None:  # those tidy up after themselves
            self._machine.late.append((self._leave_locked, wait, ABANDONED))
            self._machine.unlocked()

    def _leave_locked(self, wait: Wait, verdict: Verdict) -> Iterable[Ticket]:
        """Undo what `wait` holds: its place, its reservation, or the permit it was granted meanwhile."""
        return ()

    def _withdraw(self, wait: Wait) -> bool:
        """Leave the queue because the wait took too long; False if the permit was granted in the meantime."""
        return True

    def _waited_too_long(self) -> CallRejectedError:
        return CallRejectedError(self.name)

    def _rejected(self, error: CallRejectedError, key: Any = None) -> CallRejectedError:
        """Tell the listeners about a rejection; returns it for raising."""
        if SUBSCRIBERS or self._listeners:
            self._tell(CallRejected, key=key, retry_after=error.retry_after)
        return error

    def _note(self, kind: type[Event], **facts: Any) -> None:
        """Put an event into the outbox (with or without the lock); it leaves at the next `unlocked()`."""
        if SUBSCRIBERS or self._listeners:
            facts.setdefault("time", self._clock.now())
            if facts.get("key") is None:
                facts["key"] = self._belongs_to
            event = kind(policy=self.name, correlation_id=correlation_id(), **facts)
            self._machine.outbox.append((event, self._listeners))

    def _tell(self, kind: type[Event], **facts: Any) -> None:
        """Emit an event; not to be called under the lock."""
        self._note(kind, **facts)
        self._machine.unlocked()

    def _deliver(self, permit: Any) -> Any:
        """Do what is due outside the lock, then hand out `permit`; if that raises (Ctrl-C, say) it goes back."""
        try:
            self._machine.unlocked()
        except BaseException:
            if type(permit) is Wait:
                self._forsake(permit)
            elif permit is not None:
                self.settle(permit, ABANDONED)
            raise
        return permit

    def _warn_if_blocking_a_loop(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self!r} makes a plain function wait and blocks the event loop of this thread;"
                " decorate an `async def` instead",
                RuntimeWarning,
                stacklevel=level_of_caller(),
            )

    # -- the four colours ----------------------------------------------------------------------------------------------

    def _wrap_sync(self, fn: AnyFunction) -> AnyFunction:
        admit, settle, fail, unfinished = self.admit, self.settle, self._fail, self._unfinished
        finish = self._finish if self._judges_results else None

        def admitted(*args: Any, **kwargs: Any) -> Any:
            permit = admit(args, kwargs)
            if type(permit) is Wait:
                permit.block()
            result = fn(*args, **kwargs)
            if type(result) not in PLAIN:
                finished(result, fn)
            return result

        if not self._settles:
            return admitted

        def guarded(*args: Any, **kwargs: Any) -> Any:
            permit = admit(args, kwargs)
            if type(permit) is Wait:
                permit = permit.block()
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                fail(permit, error)
                raise
            if type(result) not in PLAIN and (rest := unfinished(permit, result, fn)) is not None:
                return rest
            if finish is None:
                settle(permit)
            else:
                finish(permit, result)
            return result

        return guarded

    def _unfinished(self, permit: Any, result: Any, fn: AnyFunction) -> object:
        """The rest of a call whose plain callable returned something to await; None if it is all done."""
        try:
            if finished(result, fn):
                return None
        except TypeError:  # a result that no layer can follow says nothing about the dependency
            self.settle(permit, ABANDONED)
            raise
        return continued(self._later(Guard(self, permit=permit), result), result, fn)

    async def _later(self, guard: Guard, awaitable: Any) -> Any:
        with guard:
            result = await awaitable
            guard.outcome(result)
            return result

    def _wrap_async(self, fn: AnyFunction) -> AnyFunction:
        admit, settle, fail = self.admit, self.settle, self._fail
        finish = self._finish if self._judges_results else None
        unchecked = True

        async def admitted(*args: Any, **kwargs: Any) -> Any:
            nonlocal unchecked
            if unchecked:
                require_asyncio()
                unchecked = False
            permit = admit(args, kwargs)
            if type(permit) is Wait:
                await permit.suspend()
            return await fn(*args, **kwargs)

        if not self._settles:
            return admitted

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            nonlocal unchecked
            if unchecked:
                require_asyncio()
                unchecked = False
            permit = admit(args, kwargs)
            if type(permit) is Wait:
                permit = await permit.suspend()
            try:
                result = await fn(*args, **kwargs)
            except BaseException as error:
                fail(permit, error)
                raise
            if finish is None:
                settle(permit)
            else:
                finish(permit, result)
            return result

        return guarded

    def _wrap_generator(self, fn: AnyFunction) -> AnyFunction:
        def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with Guard(self, args, kwargs) as guard:
                result = yield from fn(*args, **kwargs)
                guard.outcome(result)
                return result

        return guarded

    def _wrap_async_generator(self, fn: AnyFunction) -> AnyFunction:
        @asynccontextmanager
        async def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Stream]:
            async with Guard(self, args, kwargs) as guard:
                yield Stream(fn(*args, **kwargs))
                guard.outcome(None)  # it came to its end, and has no other result

        return drive(begin)


_UNSET: Any = object()


class Guard:
    """One call under a policy, as a context manager: entered once, settled once, given back if dropped."""

    __slots__ = ("_args", "_error", "_kwargs", "_permit", "_policy", "_result", "_spent")

    def __init__(
        self, policy: Policy, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, *, permit: Any = _UNSET
    ) -> None:
        self._policy = policy
        self._args = args
        self._kwargs = kwargs or {}
        self._permit = permit
        self._spent = False
        self._error: BaseException | None = None
        self._result: Any = _UNSET

    def fail(self, error: BaseException) -> None:
        """Count `error` as the call's outcome although the block does not raise it."""
        if not isinstance(error, BaseException):
            raise TypeError(f"guard.fail() takes an exception, not {_arguments.shown(error)}")
        self._error = error

    def outcome(self, result: object) -> None:
        """Tell the policy what the call returned, for policies that look at results."""
        self._result = result

    @property
    def permit(self) -> Any:
        """The permit while the call runs, or None. It is opaque, but for the `fence` of a shared bulkhead's."""
        return None if self._permit is _UNSET else self._permit

    def release(self) -> Any:
        """Take the permit out; settling it is the caller's business from now on."""
        permit, self._permit = self._permit, _UNSET
        return permit

    def __enter__(self) -> Self:
        self._spend()
        if self._permit is _UNSET:
            permit = self._policy.admit(self._args, self._kwargs)
            self._permit = permit.block() if type(permit) is Wait else permit
        return self

    async def __aenter__(self) -> Self:
        self._spend()
        require_asyncio()
        permit = self._policy.admit(self._args, self._kwargs)
        self._permit = await permit.suspend() if type(permit) is Wait else permit
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        permit, result = self.release(), self._result
        told, self._error, self._result = self._error, None, _UNSET
        if permit is _UNSET:
            return
        error = told if error is None else error
        if error is not None:
            self._policy._fail(permit, error)
        elif result is not _UNSET and self._policy._judges_results:
            self._policy._finish(permit, result)
        else:
            self._policy.settle(permit)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __del__(self) -> None:
        permit = self.release()
        if permit is not _UNSET:
            self._policy.settle(permit, ABANDONED)

    def _spend(self) -> None:
        if self._spent:
            raise RuntimeError("a guard is for one call and was entered already: ask the policy for a new one")
        self._spent = True
