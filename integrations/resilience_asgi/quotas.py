"""The draft RateLimit fields, on every response: how much of a limit is left, and when there is more.

::

    RateLimit-Policy: "search";q=100;w=60      100 calls at once at most, all of them back after 60 seconds
    RateLimit: "search";r=50;t=30              50 are left, and 30 seconds bring the others back

draft-ietf-httpapi-ratelimit-headers. A limiter without a name is called "limit"; a request that is exempt gets nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from resilience_http.retry_after import RATE_LIMIT, RATE_LIMIT_POLICY, format_rate_limit, format_rate_limit_policy

from resilience import RateLimiter
from resilience._limits import Gcra, SlidingLog

from .protocol import Scope

_UNNAMED = "limit"


def quota_fields(limiters: Iterable[RateLimiter], scope: Scope) -> dict[str, str]:
    """The two fields for the limiters that count this request; empty if none does."""
    policies, states = [], []
    for limiter in limiters:
        key = None if limiter._key is None else limiter._key(scope)
        if key is None and limiter._key is not None:
            continue
        quota = limiter.peek(key)
        name = limiter.name or _UNNAMED
        policies.append(format_rate_limit_policy(name, quota.limit, _window(limiter, key)))
        reset = quota.reset_after if quota.remaining else quota.retry_after
        states.append(format_rate_limit(name, quota.remaining, reset))
    return {RATE_LIMIT_POLICY: ", ".join(policies), RATE_LIMIT: ", ".join(states)} if policies else {}


def raw_quota_fields(limiters: Iterable[RateLimiter], scope: Scope) -> list[tuple[bytes, bytes]]:
    """The same as ASGI has them."""
    return [
        (name.lower().encode("ascii"), value.encode("ascii")) for name, value in quota_fields(limiters, scope).items()
    ]


def _window(limiter: RateLimiter, key: object) -> float:
    """The seconds after which an exhausted limit is whole again."""
    first = limiter._machine.first
    if isinstance(first, SlidingLog):
        return first.window
    assert isinstance(first, Gcra)  # there are these two
    tier = limiter._machine.tier
    return (first if tier is None else first.at(tier(key))).tolerance
