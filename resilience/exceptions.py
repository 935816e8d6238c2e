"""Every error of the toolkit.

::

    ResilienceError
    ├── CallRejectedError            the call never ran; .policy (name), .retry_after (seconds or None)
    │   ├── CircuitOpenError
    │   ├── BulkheadFullError
    │   ├── RateLimitExceededError   .limit .remaining .reset_after
    │   ├── PoolExhaustedError
    │   ├── PoolClosedError
    │   └── DeadlineExceededError    also a TimeoutError: the remaining time could not fit the call at all
    ├── CallTimeoutError             also a TimeoutError: the call ran and was cut off
    └── StoreUnavailableError        a store did not answer; policies never let it out

Errors are cheap to raise: they carry their facts and build a message only when somebody reads it. All of them can be
pickled, notes included. A rejection is a local decision, not an answer of the dependency, and is always a fresh object.

`PipelineWarning` is the one warning category of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast


class _Fact:
    """A read-only view of one of an error's `args`; None where it was left out."""

    __slots__ = ("_place",)

    def __init__(self, place: int) -> None:
        self._place = place

    def __get__(self, error: BaseException | None, owner: type[BaseException]) -> Any:
        if error is None:
            return self
        return error.args[self._place] if self._place < len(error.args) else None


class ResilienceError(Exception):
    """The base of every error this toolkit raises by itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (type(self), self.args, self.__dict__))

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items() if name != "__notes__")
        return f"{type(self).__name__}({facts or ', '.join(map(repr, self.args))})"


class CallRejectedError(ResilienceError):
    """The call never ran: a layer refused it.

    `policy` is the name of the layer that refused (or None), `retry_after` the seconds after which trying again can
    succeed, or None when the layer cannot tell. `reason` replaces what the message says.
    """

    _reason = "the call was rejected"

    # The facts live in `args` alone, so that the machines can make a rejection by `__new__`, with no Python code.
    _facts: ClassVar[tuple[str, ...]] = ("policy", "retry_after")
    policy: str | None = cast("Any", _Fact(0))
    retry_after: float | None = cast("Any", _Fact(1))

    def __init__(
        self, policy: str | None = None, retry_after: float | None = None, *, reason: str | None = None
    ) -> None:
        self.args = (policy, retry_after)
        if reason is not None:
            self._reason = reason

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._facts)
        return f"{type(self).__name__}({facts})"

    def __str__(self) -> str:
        message = self._reason if self.policy is None else f"{self.policy}: {self._reason}"
        if self.retry_after is not None:
            message += f"; retry after {self.retry_after:.3f} s"
        return message


class CircuitOpenError(CallRejectedError):
    """The circuit breaker is open, isolated, or has no probe left to give."""

    _reason = "the circuit is open"


class BulkheadFullError(CallRejectedError):
    """Every slot is taken, and the queue is full or the wait in it took longer than `max_wait`."""

    _reason = "the bulkhead is full"


class RateLimitExceededError(CallRejectedError):
    """The rate limit has no room for this call now.

    `limit` is the burst (in calls), `remaining` the whole calls left at the time of the decision, `reset_after` the
    seconds until the whole burst is available again. `retry_after` is None when the call can never fit.
    """

    _reason = "the rate limit is exceeded"

    _facts = ("policy", "retry_after", "limit", "remaining", "reset_after")
    limit: float | None = cast("Any", _Fact(2))
    remaining: int | None = cast("Any", _Fact(3))
    reset_after: float | None = cast("Any", _Fact(4))

    def __init__(
        self,
        policy: str | None = None,
        retry_after: float | None = None,
        limit: float | None = None,
        remaining: int | None = None,
        reset_after: float | None = None,
        *,
        reason: str | None = None,
    ) -> None:
        super().__init__(reason=reason)
        self.args = (policy, retry_after, limit, remaining, reset_after)


class PoolExhaustedError(CallRejectedError):
    """No resource became free within `max_wait`, or too many callers wait already."""

    _reason = "the pool is exhausted"


class PoolClosedError(CallRejectedError):
    """The pool was closed and hands out nothing any more."""

    _reason = "the pool is closed"


class DeadlineExceededError(CallRejectedError, TimeoutError):
    """The remaining time could not fit the call (or the wait before it), so it was not started.

    `policy` names the layer that noticed. Also a `TimeoutError`.
    """

    _reason = "the deadline leaves no time for the call"

    def __init__(self, policy: str | None = None, retry_after: float | None = None) -> None:
        TimeoutError.__init__(self)
        self.args = (policy, retry_after)


class CallTimeoutError(ResilienceError, TimeoutError):
    """The call ran and was cut off when its time was up. Also a `TimeoutError`.

    `policy` names the Timeout that owned the deadline, `timeout` is its length in seconds.
    """

    def __init__(self, policy: str | None = None, timeout: float | None = None) -> None:
        TimeoutError.__init__(self)
        self.policy = policy
        self.timeout = timeout

    def __str__(self) -> str:
        message = "the call took too long and was cut off"
        if self.timeout is not None:
            message = f"the call took longer than {self.timeout:g} s and was cut off"
        return message if self.policy is None else f"{self.policy}: {message}"


class StoreUnavailableError(ResilienceError):
    """A store of shared state gave no answer in time, or a wrong one; its cause says which.

    Policies never let it out: they do what the store's `on_error` says. It is for those who use a store directly.
    """

    def __init__(self, store: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(store, retry_after)
        self.store = store
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.store or 'the store'}: no answer"


class PipelineWarning(UserWarning):
    """An order or a setting of layers that cannot mean what was written.

    `code` is a short stable word to filter on; the text is one sentence that says what to change.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.code = code

    def __str__(self) -> str:
        return f"[{self.code}] {self.args[1]}"


def _restore(kind: type[ResilienceError], args: tuple[Any, ...], facts: dict[str, Any]) -> ResilienceError:
    """Rebuild a pickled error without running its initialiser, whose arguments differ between kinds."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error
