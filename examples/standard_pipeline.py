"""The standard pipeline around a service that has a bad moment.

python -m examples.standard_pipeline
"""

from __future__ import annotations

import asyncio

from resilience import (
    Bulkhead,
    CircuitBreaker,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
    attempt_number,
    correlated,
    log_events,
    subscribe,
)
from resilience.testing import Script

# What the service answers, one entry a call: it fails twice, hangs once, and is well again.
SERVICE = Script([ConnectionError("reset"), ConnectionError("reset"), lambda _: asyncio.sleep(60), {"order": 42}])

guarded = Pipeline(
    correlated,  # one id for all that follows
    Timeout(20.0, name="total"),
    Retry((ConnectionError, TimeoutError), attempts=5, budget=RetryBudget(), name="orders"),
    CircuitBreaker("orders", failure_threshold=5),
    RateLimiter(100, name="orders"),
    Bulkhead(20, max_queue=50, name="orders"),
    Timeout(2.0, name="attempt"),
    name="orders",
)


@guarded
async def fetch(number: int) -> dict[str, int]:
    """Fetch an order from the service."""
    print("attempt", attempt_number())
    answer: dict[str, int] = await SERVICE.asynchronous(number)
    return answer


async def main() -> None:
    """Fetch an order, and see in the log what it took."""
    print("at worst:", guarded.describe().worst_case_duration, "seconds")
    with subscribe(log_events()):
        print("answer:", await fetch(42))


if __name__ == "__main__":
    asyncio.run(main())
