"""The breaker, the bulkhead and the rate limiter around each request, and when they get back what they gave."""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    RateLimiter,
    RateLimitExceededError,
    State,
)
from resilience._machine import SUCCESS
from tests.http.scripted import ORIGIN, URL, Answer, Kit


def touchy(origin: str) -> CircuitBreaker:
    return CircuitBreaker(
        origin, failure_threshold=1, recovery_time=10.0, jitter=0.0, half_open_max_calls=1, success_threshold=1
    )


def counts(transport: Any) -> tuple[int, int]:
    """Calls and failures that the breaker has counted."""
    statistics = transport.breaker(ORIGIN).statistics()
    return statistics.calls, statistics.failures


# --- the breaker -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status,calls,failures", [(200, 1, 0), (404, 1, 0), (429, 1, 0), (500, 1, 1), (501, 1, 1), (503, 1, 1)]
)
def test_5xx_is_a_failure_of_the_server_and_4xx_is_not(kit: Kit, status: int, calls: int, failures: int) -> None:
    transport = kit.transport(kit.server(Answer(status)), retry=None)
    kit.request(transport)
    assert counts(transport) == (calls, failures)


@pytest.mark.parametrize(
    "name,failures",
    [
        *[("ConnectError", 1), ("ConnectTimeout", 1), ("ReadError", 1), ("ReadTimeout", 1), ("RemoteProtocolError", 1)],
        *[("PoolTimeout", 0), ("UnsupportedProtocol", 0), ("LocalProtocolError", 0), ("InvalidURL", 0)],
    ],
)
def test_our_own_saturation_and_mistakes_of_the_caller_are_no_failures(kit: Kit, name: str, failures: int) -> None:
    transport = kit.transport(kit.server(kit.error(name)), retry=None)
    with pytest.raises(getattr(kit.library, name)):
        kit.request(transport)
    assert counts(transport) == (failures, failures)
    assert transport.statistics().in_use == 0


@pytest.mark.parametrize("error,failures", [(OSError(), 1), (ZeroDivisionError(), 0), (KeyboardInterrupt(), 0)])
def test_of_other_errors_only_those_of_the_system_count(kit: Kit, error: BaseException, failures: int) -> None:
    transport = kit.transport(kit.server(error), retry=None)
    with pytest.raises(type(error)):
        kit.request(transport)
    assert counts(transport)[1] == failures
    assert transport.statistics().in_use == 0


def test_a_file_that_cannot_be_read_while_it_is_sent_is_not_the_fault_of_the_server(kit: Kit) -> None:
    def plain() -> Iterator[bytes]:
        yield b"a"
        raise OSError("the disk is gone")

    async def asynchronous() -> AsyncIterator[bytes]:
        for part in plain():
            yield part

    transport = kit.transport(kit.server(Answer(200)))
    with pytest.raises(OSError, match="the disk is gone"):
        kit.request(transport, "PUT", content=asynchronous() if kit.colour.is_async else plain())
    assert counts(transport)[1] == 0
    assert transport.statistics().in_use == 0


def test_an_open_circuit_refuses_requests_to_its_origin_without_sending_them(kit: Kit) -> None:
    server = kit.server(Answer(500))
    transport = kit.transport(server, breaker=touchy)
    with pytest.raises(kit.package.HTTPCircuitOpenError) as caught:
        kit.request(transport)
    assert len(server.requests) == 1  # the retry met the open circuit, and that ended it
    assert caught.value.policy == ORIGIN
    assert caught.value.retry_after == pytest.approx(10.0, abs=0.2)
    assert str(caught.value.request.url) == URL
    assert isinstance(caught.value, CircuitOpenError)
    assert isinstance(caught.value, kit.library.TransportError)
    with pytest.raises(kit.library.HTTPError):
        kit.request(transport)
    assert len(server.requests) == 1


def test_each_origin_has_a_breaker_of_its_own(kit: Kit) -> None:
    def by_host(request: Any) -> Answer:
        return Answer(500 if request.url.host == "down.example" else 200)

    transport = kit.transport(kit.server(by_host), breaker=touchy, retry=None)
    for url in ("http://down.example/", "https://down.example/"):
        assert kit.request(transport, url=url).status_code == 500
        with pytest.raises(CircuitOpenError):
            kit.request(transport, url=url)
    assert kit.request(transport, url="https://down.example:8443/").status_code == 500
    assert kit.request(transport, url="https://up.example/").status_code == 200
    states = [transport.breaker(origin).state for origin in ("http://down.example", "https://up.example:443")]
    assert states == [State.OPEN, State.CLOSED]


def test_a_success_counts_when_the_body_is_closed_and_not_before(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200, "x")))
    response = kit.open(transport)
    assert counts(transport) == (0, 0)
    assert kit.read(response) == b"x"
    assert counts(transport) == (1, 0)


def test_a_failure_counts_as_soon_as_its_status_is_known(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(500, "x")), retry=None)
    response = kit.open(transport)
    assert counts(transport) == (1, 1)
    kit.close(response)
    assert counts(transport) == (1, 1)


def test_a_body_that_breaks_off_is_a_failure(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200, "x", kit.error("ReadError"))))
    response = kit.open(transport)
    with pytest.raises(kit.library.ReadError):
        kit.read(response)
    kit.close(response)
    assert counts(transport) == (1, 1)
    assert transport.statistics().in_use == 0


def test_a_body_that_is_closed_early_is_a_success(kit: Kit) -> None:
    server = kit.server(Answer(200, "x", "y"))
    transport = kit.transport(server)
    kit.close(kit.open(transport))
    assert server.streams[0].closed
    assert counts(transport) == (1, 0)


def test_a_response_that_is_dropped_says_nothing_and_gives_everything_back(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200, "x")), bulkhead=lambda origin: Bulkhead(1))
    kit.open(transport)
    gc.collect()
    assert counts(transport) == (0, 0)
    assert transport.bulkhead(ORIGIN).statistics().in_use == 0
    assert transport.statistics().in_use == 0


def test_a_stream_without_a_timeout_is_judged_by_its_headers(kit: Kit) -> None:
    """A probe that lasts for hours would never let the circuit close."""
    transport = kit.transport(kit.server(Answer(500), Answer(200, "x")), breaker=touchy, retry=None)
    kit.request(transport)
    kit.clock.advance(10.0)
    response = kit.open(transport, extensions={"resilience": {"timeout": None}})
    assert transport.breaker(ORIGIN).state is State.CLOSED
    assert transport.statistics().in_use == 1
    kit.close(response)
    assert transport.statistics().in_use == 0


def test_the_retry_after_of_a_failure_lengthens_the_open_time(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(503, headers={"Retry-After": "40"})), breaker=touchy, retry=None)
    kit.request(transport)
    with pytest.raises(CircuitOpenError) as caught:
        kit.request(transport)
    assert caught.value.retry_after == pytest.approx(40.0)


def test_a_breaker_may_look_at_responses_and_errors_in_its_own_way(kit: Kit) -> None:
    def picky(origin: str) -> CircuitBreaker:
        return CircuitBreaker(
            origin, failure_on=kit.library.ReadError, failure_if=lambda response: response.status_code == 404
        )

    server = kit.server(Answer(404), Answer(500), kit.error("WriteError"), kit.error("ReadError"))
    transport = kit.transport(server, breaker=picky, retry=None)
    for _ in range(4):
        with contextlib.suppress(kit.library.TransportError):
            kit.request(transport)
    assert counts(transport) == (3, 2)


def test_a_breaker_that_fails_over_a_response_leaves_nothing_behind(kit: Kit) -> None:
    def broken(response: Any) -> bool:
        raise ZeroDivisionError

    server = kit.server(Answer(200, "x"))
    transport = kit.transport(server, breaker=lambda origin: CircuitBreaker(origin, failure_if=broken))
    with pytest.raises(ZeroDivisionError):
        kit.request(transport)
    assert server.log == ["request", "closed"]
    assert transport.statistics().in_use == 0
    assert counts(transport) == (0, 0)


def test_without_a_breaker_nothing_is_refused(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(500)), breaker=None, retry=None)
    for _ in range(30):
        kit.request(transport)
    assert transport.breaker(ORIGIN) is None


# --- the bulkhead ----------------------------------------------------------------------------------------------------


def test_a_slot_is_taken_until_the_body_is_closed(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200, "x")), bulkhead=slots_of(1))
    response = kit.open(transport)
    with pytest.raises(kit.package.HTTPBulkheadFullError) as caught:
        kit.request(transport)
    assert isinstance(caught.value, BulkheadFullError)
    assert isinstance(caught.value, kit.library.TransportError)
    kit.request(transport, url="https://other.example/")
    kit.read(response)
    assert kit.request(transport).status_code == 200
    assert transport.bulkhead(ORIGIN).statistics().in_use == 0
    assert counts(transport)[1] == 0


def slots_of(size: int, **settings: Any) -> Callable[[str], Bulkhead]:
    return lambda origin: Bulkhead(size, name=origin, **settings)


@pytest.mark.parametrize("leave", ["close", "drop", "break"])
def test_however_a_response_ends_its_slot_is_free_again(kit: Kit, leave: str) -> None:
    body = ("x", kit.error("ReadError")) if leave == "break" else ("x", "y")
    transport = kit.transport(kit.server(Answer(200, *body)), bulkhead=slots_of(1))
    response = kit.open(transport)
    if leave == "close":
        kit.close(response)
    elif leave == "break":
        with pytest.raises(kit.library.ReadError):
            kit.read(response)
        kit.close(response)
    del response
    gc.collect()
    assert transport.bulkhead(ORIGIN).statistics().in_use == 0


def test_a_stream_that_is_left_early_gives_its_slot_back(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200, "x", "y")), bulkhead=slots_of(1))
    client = kit.client(transport)
    if kit.colour.is_async:

        async def scenario() -> None:
            async with client.stream("GET", URL) as response:
                async for chunk in response.aiter_bytes():
                    assert chunk == b"x"
                    break

        kit.colour.run(scenario())
    else:
        with client.stream("GET", URL) as response:
            for chunk in response.iter_bytes():
                assert chunk == b"x"
                break
    assert transport.bulkhead(ORIGIN).statistics().in_use == 0
    assert transport.statistics().in_use == 0


def test_closing_a_response_twice_gives_one_slot_back(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200, "x")), bulkhead=slots_of(2))
    first, second = kit.open(transport), kit.open(transport)
    stream = first.stream
    for _ in range(2):
        kit.colour.run(stream.aclose() if kit.colour.is_async else stream.close())
    assert transport.bulkhead(ORIGIN).statistics().in_use == 1
    kit.close(second)


def test_a_response_that_has_its_body_already_holds_nothing(kit: Kit) -> None:
    transport = kit.transport(kit.library.MockTransport(lambda request: kit.library.Response(200, text="x")))
    assert kit.open(transport).text == "x"
    assert counts(transport) == (1, 0)
    assert transport.statistics().in_use == 0


def test_without_a_bulkhead_there_is_no_limit(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200, "x")), bulkhead=None)
    responses = [kit.open(transport) for _ in range(150)]
    assert transport.bulkhead(ORIGIN) is None
    for response in responses:
        kit.close(response)


def test_the_standard_bulkhead_has_a_hundred_slots_and_a_queue_for_each_origin(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200)))
    statistics = transport.bulkhead(ORIGIN).statistics()
    assert (statistics.max_concurrency, statistics.max_queue) == (100, 1000)


# --- the rate limiter ------------------------------------------------------------------------------------------------


def test_a_request_beyond_the_rate_is_refused_and_not_sent(kit: Kit) -> None:
    limiter = RateLimiter(1, 60.0, key=lambda request: request.url.host)
    server = kit.server(Answer(200))
    transport = kit.transport(server, rate_limiter=limiter)
    kit.request(transport)
    kit.request(transport, url="https://other.example/")
    with pytest.raises(kit.package.HTTPRateLimitExceededError) as caught:
        kit.request(transport)
    assert isinstance(caught.value, RateLimitExceededError)
    assert isinstance(caught.value, kit.library.TransportError)
    assert (caught.value.limit, caught.value.retry_after) == (1, pytest.approx(60.0))
    assert len(server.requests) == 2
    assert counts(transport) == (1, 0)


def test_a_request_waits_for_its_turn_if_the_limiter_says_so(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200)), rate_limiter=RateLimiter(1, 5.0, max_wait=10.0))
    for _ in range(3):
        kit.request(transport)
    assert kit.clock.now() == pytest.approx(1010.0)


def test_a_limiter_may_charge_by_the_outcome(kit: Kit) -> None:
    def failed(outcome: Any) -> bool:
        return isinstance(outcome, Exception) or outcome.status_code == 401

    limiter = RateLimiter(10, 60.0, charge_if=failed)
    server = kit.server(Answer(200), Answer(401), kit.error("ReadError"))
    transport = kit.transport(server, rate_limiter=limiter, retry=None)
    for _ in range(3):
        with contextlib.suppress(kit.library.ReadError):
            kit.request(transport)
    assert limiter.peek().remaining == 8


# --- many origins ----------------------------------------------------------------------------------------------------


def test_the_number_of_origins_is_bounded(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200)), max_hosts=8)
    for number in range(50):
        kit.request(transport, url=f"http://host-{number}.example/")
    statistics = transport.statistics()
    assert (statistics.keys, statistics.created, statistics.in_use) == (8, 50, 0)


def test_an_origin_in_use_is_not_forgotten(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200, "x")), max_hosts=1)
    response = kit.open(transport)
    bulkhead = transport.bulkhead(ORIGIN)
    for number in range(5):
        kit.request(transport, url=f"http://host-{number}.example/")
    assert transport.bulkhead(ORIGIN) is bulkhead
    kit.close(response)
    assert transport.statistics().keys <= 2


@pytest.mark.parametrize(
    "origin,name",
    [
        ("https://api.example.com", "https://api.example.com"),
        ("https://API.example.com:443", "https://api.example.com"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://[::1]", "http://[::1]"),
        ("http://bücher.example", "http://xn--bcher-kva.example"),
        ("http://straße.example", "http://xn--strae-oqa.example"),
    ],
)
def test_an_origin_is_named_as_in_a_url(kit: Kit, origin: str, name: str) -> None:
    transport = kit.transport(kit.server(Answer(200)))
    kit.request(transport, url=f"{origin}/x")
    assert transport.breaker(origin).name == name
    assert transport.breaker(f"{origin}/") is transport.breaker(kit.library.URL(origin)) is transport.breaker(origin)
    assert transport.statistics().created == 1


@pytest.mark.parametrize("origin", [None, 5, b"https://a.example"])
def test_what_is_no_text_is_no_origin(kit: Kit, origin: Any) -> None:
    with pytest.raises(TypeError, match=f"origin must be text or a {kit.library.__name__}.URL, not "):
        kit.transport(kit.server(Answer(200))).bulkhead(origin)


@pytest.mark.parametrize(
    "origin",
    [
        *("", "api.example.com", "https://", "https://a/b", "https://a/?b", "https://a/#b", "https://a:x", "://a"),
        *("https://me:secret@a", f"https://{'ä' * 80}.example"),
    ],
)
def test_what_is_no_origin_is_refused(kit: Kit, origin: str) -> None:
    with pytest.raises(ValueError, match="origin must be like"):
        kit.transport(kit.server(Answer(200))).breaker(origin)


def test_a_lost_race_for_the_lock_takes_the_long_way(kit: Kit) -> None:
    """The directory is locked by somebody when a request enters and when it leaves."""
    transport = kit.transport(kit.server(Answer(200)))
    kit.request(transport)
    origins, key, now = transport._origins, ("https", b"api.example.com", None), kit.clock.now()
    machine = origins._machine
    machine.free = deque()  # as it looks while somebody is inside
    first = origins.enter(key, now)
    machine.free = machine.lock.free
    second = origins.enter(key, now)
    assert first is second
    assert transport.statistics().in_use == 1
    with machine.lock:
        origins.leave(first)  # cannot wait, so it is handed over
    assert machine.late
    assert origins.enter(key, now) is first  # the long way again, because of what was handed over
    machine.late.append((machine.end_locked, (first, kit.clock.now()), SUCCESS))
    origins.leave(second)
    assert not machine.late
    assert transport.statistics().in_use == 0


def test_what_was_handed_over_is_applied_first(kit: Kit) -> None:
    """So that a decision sees all that came before it."""
    transport = kit.transport(kit.server(Answer(200)))
    kit.request(transport)
    origins, key, now = transport._origins, ("https", b"api.example.com", None), kit.clock.now()
    entry = origins.enter(key, now)
    with origins._machine.lock:
        origins.leave(entry)
    origins.enter(key, now)
    assert (entry.calls, len(origins._machine.late)) == (1, 0)
    origins.leave(entry)


def test_releasing_in_the_same_moment_as_an_eviction_of_the_origin_is_harmless(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200, "x")))
    response = kit.open(transport)
    transport._origins._machine.forked()
    kit.close(response)
    assert transport.statistics().in_use == 0
