"""The resilient transport, for both colours and both libraries.

::

    total timeout
      └► retry, with a budget ──► attempt ─┬► the origin's breaker ──► rate limiter ──► the origin's bulkhead
                     ▲                     │     └► attempt timeout ──► inner transport
                     └── closed first ◄────┴── a response or an error that may pass

The policies are those of the toolkit, asked directly: `admit` on the way in, `settle` when the response is closed.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, ClassVar, Self

from resilience import (
    Bulkhead,
    CircuitBreaker,
    KeyedStatistics,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
    _arguments,
)
from resilience.budget import checked_budget

from ._origins import Origin, kept_origins, parsed_origin
from ._repetition import asked_wait, is_unwanted
from ._sending import Sending
from ._settings import Settings, attempts


class _Standard:
    """The default of an argument whose None means something else."""

    def __repr__(self) -> str:
        return "standard"


STANDARD: Any = _Standard()

_LIBRARIES = {"httpx", "httpx2"}

# What belongs to the inner transport, with what it is if nobody says otherwise.
_USUAL = {
    "verify": True,
    "cert": None,
    "http2": False,
    "limits": None,
    "proxy": None,
    "trust_env": True,
    "local_address": None,
    "uds": None,
    "socket_options": None,
}


class Resilient(Sending):
    """What the transports of both libraries inherit. `pooled` makes the inner transport when none is given."""

    pooled: ClassVar[type[Any]]

    def __init__(
        self,
        inner: Any = None,
        *,
        timeout: float | timedelta | None = 30.0,
        attempt_timeout: float | timedelta | None = 10.0,
        retry: Retry | int | None = STANDARD,
        breaker: Callable[[str], CircuitBreaker | None] | None = CircuitBreaker,
        rate_limiter: RateLimiter | None = None,
        bulkhead: Callable[[str], Bulkhead | None] | None = STANDARD,
        budget: RetryBudget | None = STANDARD,
        max_hosts: int = 1024,
        replay_limit: int = 65_536,
        propagate: bool = True,
        verify: ssl.SSLContext | str | bool = True,
        cert: Any = None,
        http2: bool = False,
        limits: Any = None,
        proxy: Any = None,
        trust_env: bool = True,
        local_address: str | None = None,
        uds: str | None = None,
        socket_options: Any = None,
    ) -> None:
        given = (verify, cert, http2, limits, proxy, trust_env, local_address, uds, socket_options)
        options = {
            name: value for (name, usual), value in zip(_USUAL.items(), given, strict=True) if value is not usual
        }
        if inner is not None and options:
            raise TypeError(f"{', '.join(sorted(options))} must be given to the inner transport, which is not ours")
        self._inner = self.pooled(**options) if inner is None else _checked_inner(inner, self.dialect.client)
        if rate_limiter is not None and not isinstance(rate_limiter, RateLimiter):
            raise TypeError(f"rate_limiter must be a RateLimiter or None, not {_arguments.shown(rate_limiter)}")
        self._limiter = rate_limiter
        self._limit = _arguments.count("replay_limit", replay_limit, minimum=0)
        made = _standard_bulkhead if bulkhead is STANDARD else bulkhead
        self._origins = kept_origins(breaker, made, max_hosts)
        self._settings = Settings(
            _arguments.optional_seconds("timeout", timeout),
            _arguments.optional_seconds("attempt_timeout", attempt_timeout),
            self._checked_retry(retry, budget),
            _arguments.flag("propagate", propagate),
        )
        # Both without a limit of their own: that comes with each request.
        self._total = Timeout(None, name="request timeout")
        self._each = Timeout(None, name="attempt timeout")
        self._draining = Timeout(None, name="draining")

    def breaker(self, origin: Any) -> CircuitBreaker | None:
        """The breaker of an origin such as "https://api.example.com", made now if there is none yet.

        A URL of the library will do as well, the `base_url` of a client for example.
        """
        return self._origin(origin).breaker

    def bulkhead(self, origin: Any) -> Bulkhead | None:
        """The bulkhead of an origin, made now if there is none yet."""
        return self._origin(origin).bulkhead

    def statistics(self) -> KeyedStatistics:
        """How many origins are known, in use, and were made and forgotten."""
        return self._origins.statistics()

    @property
    def retry(self) -> Retry | None:
        """The `Retry` in use, for its statistics."""
        return self._settings.retry

    def close(self) -> None:
        """Close the inner transport."""
        self._of_inner("close")()

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._of_inner("aclose")()

    def __enter__(self) -> Self:
        self._of_inner("__enter__")()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._of_inner("__exit__")(exc_type, exc_value, traceback)

    async def __aenter__(self) -> Self:
        await self._of_inner("__aenter__")()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._of_inner("__aexit__")(exc_type, exc_value, traceback)

    def __repr__(self) -> str:
        settings = self._settings
        parts = (
            f"timeout={settings.timeout}",
            f"attempt_timeout={settings.attempt_timeout}",
            f"retry={settings.retry!r}",
            f"origins={self._origins!r}",
            f"inner={self._inner!r}",
        )
        return f"<{type(self).__name__}: {', '.join(parts)}>"

    # -- private -------------------------------------------------------------------------------------------------------

    def _origin(self, text: Any) -> Origin:
        origin = self._origins.layer(parsed_origin(text, self.dialect.client))
        assert isinstance(origin, Origin)
        return origin

    def _checked_retry(self, retry: Retry | int | None, budget: RetryBudget | None) -> Retry | None:
        """The `Retry` in use: a standard one, or the given one with what it leaves open filled in for HTTP."""
        if retry is None:
            if budget is not STANDARD and budget is not None:
                raise ValueError("budget is for retries, and retry is None")
            return None
        shared = RetryBudget() if budget is STANDARD else checked_budget(budget)
        if retry is STANDARD or type(retry) is int:
            return Retry(
                self.dialect.is_transient,
                attempts=attempts("retry", retry) if type(retry) is int else 3,
                retry_if=is_unwanted,
                retry_after=asked_wait,
                budget=shared,
                name="requests",
            )
        if not isinstance(retry, Retry):
            raise TypeError(f"retry must be a Retry, a number of attempts or None, not {_arguments.shown(retry)}")
        if retry._budget is not None:
            if budget is not STANDARD:
                raise ValueError("budget is set twice: the retry has one of its own")
            shared = retry._budget
        return retry.with_(
            retry_if=retry._retry_if or is_unwanted, retry_after=retry._retry_after or asked_wait, budget=shared
        )


def _checked_inner(inner: Any, client: Any) -> Any:
    if isinstance(inner, type) or not (hasattr(inner, "handle_request") or hasattr(inner, "handle_async_request")):
        raise TypeError(f"inner must be a transport or None, not {_arguments.shown(inner)}")
    # A transport need not inherit anything. But what is of the other library would fail each request without a word.
    libraries = {kind.__module__.partition(".")[0] for kind in type(inner).__mro__} & _LIBRARIES
    if libraries and client.__name__ not in libraries:
        raise TypeError(f"inner must be a transport for {client.__name__}, not {_arguments.shown(inner)}")
    return inner


def _standard_bulkhead(origin: str) -> Bulkhead:
    return Bulkhead(100, max_queue=1000, name=origin)
