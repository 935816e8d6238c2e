"""A rate limit for each tenant, by tier, and a circuit breaker for each host.

python -m examples.tenants
"""

from __future__ import annotations

from resilience import CircuitBreaker, CircuitOpenError, Keyed, RateLimiter, RateLimitExceededError

PER_SECOND = {"gold": 10.0, "free": 2.0}
TIERS = {"acme": "gold", "pond": "free"}


def rate_of(tenant: str) -> float:
    """Calls per second that a tenant has paid for."""
    return PER_SECOND[TIERS[tenant]]


# One limiter with a key keeps one number for each tenant; the staff is not limited at all.
limit = RateLimiter(rate_of, key=lambda tenant: None if tenant == "staff" else tenant, name="search")

# A layer of its own for each key is for everything else.
breakers = Keyed(lambda host: CircuitBreaker(host, failure_threshold=2), key=lambda host: host, max_keys=100)


@limit
def search(tenant: str) -> str:
    """A call on behalf of a tenant."""
    return f"results for {tenant}"


@breakers
def fetch(host: str) -> str:
    """A call to one of many hosts."""
    if host == "down.example":
        raise ConnectionError(host)
    return f"page of {host}"


def accepted(tenant: str) -> int:
    """How many of twelve calls at once get through."""
    count = 0
    for _ in range(12):
        try:
            search(tenant)
        except RateLimitExceededError as error:
            print(f"  {tenant}: come back in {error.retry_after:.1f} s")
            break
        count += 1
    return count


def main() -> None:
    """Let tenants of both tiers and the staff search, then visit two hosts."""
    for tenant in ("acme", "pond", "staff"):
        print(f"{tenant}: {accepted(tenant)} of 12")
    for host in ("down.example", "up.example") * 3:
        try:
            print(fetch(host))
        except (ConnectionError, CircuitOpenError) as error:
            print(f"{type(error).__name__}: {host}")


if __name__ == "__main__":
    main()
