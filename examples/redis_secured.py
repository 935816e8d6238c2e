"""A limit in a Redis that is reached by TLS, as a user with no more rights than it takes.

python -m examples.redis_secured 'rediss://app:secret@localhost:6380/0?ssl_ca_certs=authority.pem'

The server, and the user on it (the rule is the one in the documentation of `RedisStore`):

    redis-server --port 0 --tls-port 6380 --tls-auth-clients no --tls-ca-cert-file authority.pem \\
        --tls-cert-file server.pem --tls-key-file server.key
    ACL SETUSER app on >secret ~resilience:* +eval +evalsha +time +get +set +del +hgetall +hset +hdel +hincrby +pexpire
"""

from __future__ import annotations

import asyncio
import sys

from resilience_redis import RedisStore

from resilience import RateLimiter, RateLimitExceededError


def main(url: str) -> None:
    # A client of your own will do as well: RedisStore(redis.Redis(ssl=True, ssl_ca_certs=…, username=…, password=…)).
    # With on_error="closed" a server that cannot be reached, or not trusted, lets no call pass.
    store = RedisStore(url, store_timeout=1.0, on_error="closed")
    limiter = RateLimiter(2, 3600.0, name="reports", store=store)

    @limiter
    def report() -> str:
        return "a report"

    @limiter
    async def report_in_a_task() -> str:
        return "another report, from the same limit"

    async def task() -> None:
        print(await report_in_a_task())
        await store.aclose()

    print(report())
    asyncio.run(task())
    try:
        report()
    except RateLimitExceededError as rejection:
        print(f"{rejection.policy}: refused, {rejection.remaining} left")
    store.close()


if __name__ == "__main__":
    main(sys.argv[1])
