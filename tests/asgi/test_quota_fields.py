"""The RateLimit fields on every response."""

from __future__ import annotations

import pytest
from resilience_asgi import ResilienceMiddleware, Rule, header_key
from resilience_http.retry_after import retry_after

from resilience import Bulkhead, CircuitBreaker, Rate, RateLimiter, RateLimitExceededError, SlidingWindow
from resilience.testing import ManualClock

from .wire import answering, raising, served


def test_responses_tell_what_is_left_of_the_limit(clock: ManualClock) -> None:
    limiter = RateLimiter(4, 60.0, name="search")
    app = ResilienceMiddleware(answering(headers=[(b"a", b"b")]), layers=[limiter], rate_limit_fields=True)
    told = [served(app, clock).headers for _ in range(3)]
    assert [headers["ratelimit"] for headers in told] == [
        '"search";r=3;t=15',
        '"search";r=2;t=30',
        '"search";r=1;t=45',
    ]
    assert {headers["ratelimit-policy"] for headers in told} == {'"search";q=4;w=60'}
    assert told[0]["a"] == "b"


def test_the_last_one_and_a_refusal_tell_when_there_is_one_again(clock: ManualClock) -> None:
    app = ResilienceMiddleware(answering(), layers=[RateLimiter(2, 60.0)], rate_limit_fields=True)
    assert served(app, clock).headers["ratelimit"] == '"limit";r=1;t=30'
    assert served(app, clock).headers["ratelimit"] == '"limit";r=0;t=30'
    refused = served(app, clock)
    assert refused.status == 429
    assert refused.headers["ratelimit"] == '"limit";r=0;t=30'
    assert refused.headers["ratelimit-policy"] == '"limit";q=2;w=60'
    assert retry_after(refused.headers.get) is None or refused.headers["retry-after"] == "30"


def test_without_being_asked_responses_tell_nothing(clock: ManualClock) -> None:
    judge = CircuitBreaker("app", failure_if=lambda outcome: False)  # it looks at the start of a response
    app = ResilienceMiddleware(answering(), layers=[RateLimiter(1, 60.0), judge])
    for status in (200, 429):
        connection = served(app, clock)
        assert connection.status == status
        assert not any(name.startswith("ratelimit") for name in connection.headers)


def test_all_limiters_that_count_a_request_are_named(clock: ManualClock) -> None:
    app = ResilienceMiddleware(
        answering(),
        layers=[
            RateLimiter(
                lambda key: 10.0 if key == "gold" else 2.0, 60.0, burst=5, key=header_key("x-tier"), name="tier"
            ),
            Bulkhead(5),
            RateLimiter(limiter=SlidingWindow(7, 30.0), name="window"),
            RateLimiter(9, 60.0, name="exempt", key=lambda scope: None),
        ],
        rules=[Rule("/both", layers=[RateLimiter(3, 1.0, also=[Rate(100, 3600.0)], name="rule")])],
        rate_limit_fields=True,
    )
    connection = served(app, clock, headers=[("x-tier", "gold")])
    assert connection.headers["ratelimit-policy"] == '"tier";q=5;w=30, "window";q=7;w=30'
    assert connection.headers["ratelimit"] == '"tier";r=4;t=6, "window";r=6;t=30'
    connection = served(app, clock, path="/both")
    assert connection.headers["ratelimit-policy"].startswith('"tier";q=5;w=150, "window";q=7;w=30, "rule";q=3;w=1')


def test_nothing_is_told_where_nothing_counts(clock: ManualClock) -> None:
    app = ResilienceMiddleware(answering(), layers=[Bulkhead(1)], rate_limit_fields=True)
    assert served(app, clock).headers == {}


@pytest.mark.parametrize(
    "error,field",
    [
        (RateLimitExceededError("mail", 2.5, 10.0, 0, 5.0), '"mail";r=0;t=3'),
        (RateLimitExceededError(None, None, 10.0, 4, 5.0), '"limit";r=4'),
        (RateLimitExceededError("mail", 2.5), None),
    ],
)
def test_a_refusal_from_deep_inside_tells_what_it_knows(
    clock: ManualClock, error: RateLimitExceededError, field: str | None
) -> None:
    connection = served(ResilienceMiddleware(raising(error), rate_limit_fields=True), clock)
    assert connection.headers.get("ratelimit") == field
