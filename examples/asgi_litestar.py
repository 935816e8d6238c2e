"""A Litestar service: layers around it, and `problem_handler` for what its handlers raise.

python -m examples.asgi_litestar           (to serve it: uvicorn examples.asgi_litestar:app)
"""

from __future__ import annotations

import asyncio
import logging

import httpx
from litestar import Litestar, get
from resilience_asgi import CorrelationMiddleware, ResilienceMiddleware, client_address, problem_handler

from resilience import Bulkhead, RateLimiter, ResilienceError, correlation_id

database = Bulkhead(1, name="database")


@get("/query")
async def query() -> str:
    """Litestar turns what a handler raises into a response by itself, so it has to be told how."""
    async with database.guard():
        await asyncio.sleep(0.1)
    return f"rows for {correlation_id()}"


service = Litestar([query], exception_handlers={ResilienceError: problem_handler}, logging_config=None)
limit = RateLimiter(3, 60.0, key=client_address(), name="client")
app = CorrelationMiddleware(ResilienceMiddleware(service, layers=[limit], timeout=5.0, rate_limit_fields=True))


async def main() -> None:
    """Ask twice at the same time, then too often."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        asked = [client.get("/query", headers={"X-Request-ID": name}) for name in ("first", "second")]
        for response in await asyncio.gather(*asked):
            print(response.headers["X-Request-ID"], response.status_code, response.headers["RateLimit"])
        for _ in range(2):
            response = await client.get("/query")
            print(response.status_code, response.headers["RateLimit"], response.headers.get("Retry-After", "-"))


if __name__ == "__main__":
    asyncio.run(main())
