"""Whatever moment a request is cancelled at, and however many run in however many loops, everything comes back."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest
from resilience_asgi import CorrelationMiddleware, ResilienceMiddleware, client_address, path_key
from resilience_asgi.protocol import Receive, Scope, Send

from resilience import Bulkhead, CircuitBreaker, Keyed, RateLimiter, correlation_id, remaining
from resilience._timers import timers_of
from resilience.clock import SYSTEM
from resilience.testing import ManualClock
from tests.sweep import Ending, sweep

from .wire import Connection


class Guarded:
    """An application under every kind of layer, and the state of those."""

    def __init__(self, clock: ManualClock, **settings: Any) -> None:
        self.clock = clock
        self.bulkhead = Bulkhead(1, max_queue=5, clock=clock)
        self.keyed = Keyed(lambda _: Bulkhead(5, clock=clock), path_key(), clock=clock)
        self.breaker = CircuitBreaker("app", failure_threshold=1, clock=clock)
        limiter = RateLimiter(1000, key=client_address(), clock=clock)
        layers = [self.breaker, limiter, self.bulkhead, self.keyed]
        self.app = CorrelationMiddleware(ResilienceMiddleware(self.work, layers=layers, clock=clock, **settings))

    async def work(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await self.clock.asleep(0.5)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.clock.asleep(0.5)
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await self.clock.asleep(0.5)
        await send({"type": "http.response.body", "body": b""})
        await self.clock.asleep(0.5)

    def check(self) -> None:
        assert self.bulkhead.statistics().in_use == 0
        assert self.bulkhead.statistics().waiting == 0
        assert self.keyed.statistics().in_use == 0
        assert self.breaker.state.value == "closed"
        assert remaining() is None
        assert correlation_id() is None


@pytest.mark.parametrize(
    "settings",
    [{}, {"timeout": 60.0, "body_timeout": 60.0, "watch_after": 0.2}, {"timeout": 60.0, "watch_after": None}],
)
def test_a_request_cancelled_at_any_point_leaks_nothing(settings: dict[str, Any]) -> None:
    def scenario(clock: ManualClock) -> Any:
        state = Guarded(clock, **settings)
        return Connection(state.app).serve(), state

    def check(ending: Ending[Guarded]) -> None:
        ending.state.check()
        loop = asyncio.get_running_loop()
        assert not any(timers_of(loop, ending.clock).slots.values())
        assert isinstance(ending.error, asyncio.CancelledError) or ending.error is None

    assert sweep(scenario, check) >= 14


def test_a_request_cancelled_in_the_queue_leaks_nothing() -> None:
    def scenario(clock: ManualClock) -> Any:
        state = Guarded(clock, timeout=60.0)

        async def second() -> None:
            first = asyncio.ensure_future(Connection(state.app).serve())
            try:
                await asyncio.sleep(0)
                await Connection(state.app).serve()
            finally:
                first.cancel()
                await asyncio.wait([first])

        return second(), state

    def check(ending: Ending[Guarded]) -> None:
        ending.state.check()

    assert sweep(scenario, check) >= 14


def test_requests_in_several_loops_share_the_layers_and_leak_nothing() -> None:
    """Real threads and real time; nothing here depends on how they interleave."""
    most = 3
    bulkhead, inside, seen = Bulkhead(most, max_queue=1000, max_wait=None), [0], [0]
    guarding = threading.Lock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with guarding:
            inside[0] += 1
            seen[0] = max(seen[0], inside[0])
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            await send({"type": "http.response.start", "status": 200, "headers": []})
        finally:
            with guarding:
                inside[0] -= 1
        await send({"type": "http.response.body", "body": b""})

    guarded = ResilienceMiddleware(app, layers=[bulkhead], timeout=60.0, body_timeout=60.0, watch_after=30.0)
    failures: list[BaseException] = []

    async def client(chance: random.Random) -> None:
        for _ in range(25):
            task = asyncio.ensure_future(Connection(guarded).serve())
            if chance.random() < 0.3:
                for _ in range(chance.randrange(8)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])

    async def main(seed: int) -> None:
        await asyncio.gather(*(client(random.Random(f"{seed}-{n}")) for n in range(8)))
        assert not any(timers_of(asyncio.get_running_loop(), SYSTEM).slots.values())

    def thread(seed: int) -> None:
        try:
            asyncio.run(main(seed))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=thread, args=(seed,)) for seed in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == []
    assert seen[0] <= most
    assert inside == [0]
    assert bulkhead.statistics().in_use == 0
    assert bulkhead.statistics().waiting == 0
