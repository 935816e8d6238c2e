"""A worker process: it does what each line of its input says, and answers with one line."""

from __future__ import annotations

import sys

from resilience_redis import RedisStore

from resilience import Bulkhead, CallRejectedError, CircuitBreaker, RateLimiter


def main(url: str) -> None:
    store = RedisStore(url, store_timeout=5.0, lease_time=1.5, on_error="closed")
    limiter = RateLimiter(100, 3600.0, name="limit", store=store)
    breaker = CircuitBreaker("breaker", store=store, minimum_calls=8, recovery_time=600.0, max_recovery_time=600.0)
    bulkhead = Bulkhead(3, name="bulkhead", store=store)
    held = []

    def fail() -> None:
        raise OSError

    for line in sys.stdin:
        answer = 0
        match line.split():
            case ["limit", count]:
                answer = sum(allowed(limiter) for _ in range(int(count)))
            case ["fail"]:
                try:
                    breaker.call(fail)
                except OSError:
                    answer = 1
                except CallRejectedError:
                    pass
            case ["try"]:
                answer = allowed(breaker)
            case ["hold"]:
                guard = bulkhead.guard()
                try:
                    guard.__enter__()
                except CallRejectedError:
                    pass
                else:
                    held.append(guard)
                    answer = guard.permit.fence
            case _:
                answer = -1
        print(answer, flush=True)


def allowed(policy: RateLimiter | CircuitBreaker) -> int:
    try:
        policy.call(lambda: None)
    except CallRejectedError:
        return 0
    return 1


if __name__ == "__main__":
    main(sys.argv[1])
