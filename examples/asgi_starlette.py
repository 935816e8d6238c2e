"""A Starlette service that ends well: health endpoints, readiness that flips first, streams that are ended.

python -m examples.asgi_starlette          (to serve it: uvicorn examples.asgi_starlette:app, then send it a SIGTERM)
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator

import httpx
from resilience_asgi import CorrelationMiddleware, GracefulShutdown, HealthEndpoints, ResilienceMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from resilience import Bulkhead, remaining


async def work(request: Request) -> Response:
    """Something that takes a second, and knows how long it may."""
    left = remaining()
    await asyncio.sleep(1.0)
    return PlainTextResponse(f"done, of {left:.0f} seconds")


async def events(request: Request) -> Response:
    """A stream without an end."""

    async def ticks() -> AsyncIterator[str]:
        while True:
            yield "data: tick\n\n"
            await asyncio.sleep(0.4)

    return StreamingResponse(ticks(), media_type="text/event-stream")


guarded = Starlette(
    routes=[Route("/work", work), Route("/events", events)],
    middleware=[Middleware(ResilienceMiddleware, layers=[Bulkhead(100)], timeout=10.0)],
)
shutdown = GracefulShutdown(CorrelationMiddleware(guarded), drain_timeout=20.0, signals=[signal.SIGTERM])
app = HealthEndpoints(shutdown, checks={"serving": lambda: shutdown.ready})


async def main() -> None:
    """Shut the service down while a request and a stream are under way."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:

        async def get(path: str) -> None:
            response = await client.get(path)
            ticks = response.text.count("tick")
            print(f"{path}: {response.status_code} {f'{ticks} ticks' if ticks else response.text.partition(',')[0]}")

        print("ready:", (await client.get("/readyz")).status_code)
        async with asyncio.TaskGroup() as group:
            group.create_task(get("/work"))
            group.create_task(get("/events"))
            await asyncio.sleep(0.6)
            shutdown.begin()  # what the signal does
            await asyncio.sleep(0.1)
            refused = await client.get("/work")
            print("refused:", refused.status_code, "Connection:", refused.headers["Connection"])
            print("alive:", (await client.get("/healthz")).status_code)
            print("ready:", (await client.get("/readyz")).status_code)
        await shutdown.drained()
        print("in flight:", shutdown.in_flight)


if __name__ == "__main__":
    asyncio.run(main())
