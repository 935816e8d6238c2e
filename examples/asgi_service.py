"""A FastAPI service with everything around it: limits by client and by API key, logs with ids, health, shutdown.

python -m examples.asgi_service            (to serve it: uvicorn examples.asgi_service:app)
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import httpx
from fastapi import FastAPI
from resilience_asgi import (
    CorrelationMiddleware,
    GracefulShutdown,
    HealthEndpoints,
    ResilienceMiddleware,
    client_address,
    header_key,
)

from resilience import Bulkhead, CircuitBreaker, CorrelationFilter, RateLimiter

api = FastAPI()
api.add_middleware(
    ResilienceMiddleware,
    layers=[
        CircuitBreaker("app"),  # too many answers of 500 and above open it; refusals of our own do not count
        RateLimiter(100, 60.0, key=client_address(), name="client"),  # behind proxies, say which: trusted_proxies=[…]
        RateLimiter(2, 60.0, key=header_key("X-API-Key", missing=None), name="key"),  # None: no key, no limit by key
        Bulkhead(50, max_queue=50),
    ],
    timeout=5.0,  # clients can shorten it by X-Request-Timeout-Ms or grpc-timeout
)
shutdown = GracefulShutdown(api, notice=5.0, signals=[signal.SIGTERM])  # unready at once, refusing 5 seconds later
health = HealthEndpoints(shutdown, checks={"serving": lambda: shutdown.ready})  # /readyz, and /healthz without checks
app = CorrelationMiddleware(health)  # around all of it, so that every response has the id

log = logging.getLogger("shop")


@api.get("/stock/{item}")
async def stock(item: str) -> dict[str, int]:
    """Look into the warehouse, which takes a while."""
    log.warning("asking the warehouse for %s", item)
    await asyncio.sleep(10.0 if item == "late" else 0.1)
    return {item: 7}


async def main() -> None:
    """Call the service in this process, and show how it answers."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
    for user in ("ada", "ada", "ada", "bob"):
        response = await client.get("/stock/pens", headers={"X-API-Key": user})
        print(f"{user}:", response.status_code, response.headers.get("Retry-After", ""))
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(CorrelationFilter())
    handler.setFormatter(logging.Formatter("logged: %(correlation_id)s %(message)s"))
    log.addHandler(handler)
    response = await client.get("/stock/late", headers={"X-Request-ID": "order-7", "X-Request-Timeout-Ms": "250"})
    print("late:", response.status_code)
    log.removeHandler(handler)
    before = (await client.get("/readyz")).status_code
    shutdown.begin()  # as the signal does
    await asyncio.sleep(6.0)
    print(f"ready: {before}, then {(await client.get('/readyz')).status_code}")
    response = await client.get("/stock/pens")
    print("shut down:", response.status_code, response.headers["Connection"])


if __name__ == "__main__":
    asyncio.run(main())
