"""A FastAPI service: limits for everybody and for one endpoint, refusals as problem documents, ids on every response.

python -m examples.asgi_fastapi            (to serve it: uvicorn examples.asgi_fastapi:app)
"""

from __future__ import annotations

import asyncio
import logging

import httpx
from fastapi import Depends, FastAPI
from resilience_asgi import CorrelationMiddleware, ResilienceMiddleware, Rule, client_address, dependency, header_key

from resilience import Bulkhead, CircuitBreaker, RateLimiter, Timeout

api = FastAPI()
api.add_middleware(
    ResilienceMiddleware,
    layers=[RateLimiter(100, 60.0, key=client_address(), name="client"), Bulkhead(50, max_queue=50)],
    rules=[Rule("/reports/{name}", timeout=60.0), Rule("/events", timeout=None)],
    timeout=5.0,
)
app = CorrelationMiddleware(api)  # around the whole application, so that its 500s carry the id as well

warehouse = CircuitBreaker("warehouse", failure_threshold=2)
logins = RateLimiter(2, 60.0, key=header_key("X-User"), name="logins")


@api.post("/login", dependencies=[Depends(dependency(logins))])
async def login() -> dict[str, str]:
    """An endpoint with a limit of its own."""
    return {"token": "t-1"}


@api.get("/stock/{item}")
@warehouse
async def stock(item: str) -> dict[str, int]:
    """An endpoint that asks something which is down."""
    raise ConnectionError(item)


@api.get("/slow")
@Timeout(0.2)
async def slow() -> str:
    """An endpoint with less patience than the service."""
    await asyncio.sleep(10.0)
    return "late"


async def main() -> None:
    """Call the service in this process, and show how it answers."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for _ in range(3):
            response = await client.post("/login", headers={"X-User": "ada"})
            print("login:", response.status_code, response.headers.get("Retry-After", "-"))
        for _ in range(3):
            response = await client.get("/stock/7", headers={"X-Request-ID": "order-7"})
            print("stock:", response.status_code, response.headers["X-Request-ID"])
        response = await client.get("/slow")
        print("slow:", response.status_code, response.json()["title"])
        response = await client.get("/stock/7", headers={"X-Request-Timeout-Ms": "0"})
        print("expired:", response.status_code, response.headers["Content-Type"])


if __name__ == "__main__":
    asyncio.run(main())
