"""Mistakes in settings and overrides, the errors of both kinds, and the plain duties of a transport."""

from __future__ import annotations

import importlib
import pickle
from typing import Any

import pytest

from resilience import Bulkhead, CircuitBreaker, Retry, RetryBudget, exceptions
from tests.http.scripted import LIBRARIES, URL, Answer, Kit


async def coroutine_function(origin: str) -> Any:
    return None


@pytest.mark.parametrize(
    "settings,error,message",
    [
        ({"timeout": 0}, ValueError, "timeout must be"),
        ({"timeout": -1}, ValueError, "timeout must be"),
        ({"timeout": float("nan")}, ValueError, "timeout must be"),
        ({"timeout": float("inf")}, ValueError, "timeout must be"),
        ({"timeout": 10**400}, ValueError, "timeout must be"),
        ({"timeout": True}, TypeError, "timeout must be"),
        ({"timeout": "5"}, TypeError, "timeout must be"),
        ({"attempt_timeout": 0}, ValueError, "attempt_timeout must be"),
        ({"attempt_timeout": "5"}, TypeError, "attempt_timeout must be"),
        ({"retry": 3.0}, TypeError, "retry must be a Retry, a number of attempts or None, not 3.0"),
        ({"retry": False}, TypeError, "retry must be a Retry, a number of attempts or None, not False"),
        ({"retry": 0}, ValueError, "retry must be from 1 to 100 attempts, not 0"),
        ({"retry": 101}, ValueError, "retry must be from 1 to 100 attempts, not 101"),
        ({"budget": 3}, TypeError, "budget must be a RetryBudget or None"),
        ({"retry": None, "budget": RetryBudget()}, ValueError, "retry is None"),
        ({"retry": Retry(OSError, budget=RetryBudget()), "budget": RetryBudget()}, ValueError, "budget is set twice"),
        ({"breaker": CircuitBreaker()}, TypeError, "breaker must be a callable that makes one for an origin"),
        ({"breaker": coroutine_function}, TypeError, "breaker must be a plain function"),
        ({"bulkhead": Bulkhead(1)}, TypeError, "bulkhead must be a callable that makes one for an origin"),
        ({"bulkhead": 10}, TypeError, "bulkhead must be a callable that makes one for an origin"),
        ({"rate_limiter": 10}, TypeError, "rate_limiter must be a RateLimiter or None"),
        ({"max_hosts": 0}, ValueError, "max_hosts must be"),
        ({"max_hosts": True}, TypeError, "max_hosts must be"),
        ({"replay_limit": -1}, ValueError, "replay_limit must be"),
        ({"replay_limit": 1.5}, TypeError, "replay_limit must be"),
        ({"propagate": 1}, TypeError, "propagate must be True or False"),
        ({"verify": False}, TypeError, "verify must be given to the inner transport"),
        ({"cert": "x", "http2": True}, TypeError, "cert, http2 must be given to the inner transport"),
    ],
)
def test_a_wrong_setting_is_refused_at_once(
    kit: Kit, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kit.transport(kit.server(Answer(200)), **settings)


@pytest.mark.parametrize("inner", [3, "http://x", object()])
def test_what_is_no_transport_is_refused(kit: Kit, inner: Any) -> None:
    with pytest.raises(TypeError, match="inner must be a transport or None"):
        kit.transport(inner)


def test_a_transport_of_the_other_library_is_refused(kit: Kit) -> None:
    """Each request would end in an AssertionError without a message."""
    other = LIBRARIES[kit.name == LIBRARIES[0]]
    library, package = importlib.import_module(other), importlib.import_module(f"resilience_{other}")
    for inner in (library.MockTransport(lambda request: library.Response(200)), package.PooledTransport()):
        with pytest.raises(TypeError, match=rf"^inner must be a transport for {kit.name}, not <({other}|Pooled)"):
            kit.transport(inner)

    class Both(library.MockTransport, kit.library.MockTransport):  # type: ignore[name-defined,misc]
        pass

    assert kit.transport(Both(lambda request: kit.library.Response(200))) is not None


def test_the_class_of_a_transport_is_no_transport(kit: Kit) -> None:
    with pytest.raises(TypeError, match="inner must be a transport or None"):
        kit.transport(kit.library.HTTPTransport)


def test_a_setting_of_the_inner_transport_that_it_does_not_know_is_refused(kit: Kit) -> None:
    with pytest.raises(TypeError, match="verfy"):
        kit.package.ResilientTransport(verfy=False)


@pytest.mark.parametrize("factory,message", [("breaker", "a CircuitBreaker"), ("bulkhead", "a Bulkhead")])
def test_a_factory_that_makes_something_else_is_told_so(kit: Kit, factory: str, message: str) -> None:
    server = kit.server(Answer(200))
    transport = kit.transport(server, **{factory: lambda origin: 7})
    with pytest.raises(TypeError, match=f"{factory} must return {message} or None"):
        kit.request(transport)
    assert server.requests == []


def test_a_factory_may_leave_an_origin_alone(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(500)), breaker=lambda origin: None, bulkhead=lambda origin: None)
    assert kit.request(transport).status_code == 500


@pytest.mark.parametrize(
    "overrides,error,message",
    [
        (7, TypeError, "must be a dict of overrides, not 7"),
        (False, TypeError, "must be a dict of overrides"),
        ([("retry", False)], TypeError, "must be a dict of overrides"),
        ({"retries": 3}, TypeError, "knows attempt_timeout, idempotent, propagate, retry and timeout, not 'retries'"),
        ({3: 3}, TypeError, "not 3"),
        ({"timeout": "5"}, TypeError, r'extensions\["resilience"\]\["timeout"\] must be'),
        ({"timeout": 0}, ValueError, r'extensions\["resilience"\]\["timeout"\] must be'),
        ({"timeout": True}, TypeError, "timeout"),
        ({"attempt_timeout": []}, TypeError, "attempt_timeout"),
        ({"idempotent": 1}, TypeError, "True or False, not 1"),
        ({"propagate": None}, TypeError, "True or False, not None"),
        ({"retry": None}, TypeError, "True, False or a number of attempts, not None"),
        ({"retry": 2.0}, TypeError, "True, False or a number of attempts, not 2.0"),
        ({"retry": 0}, ValueError, "from 1 to 100 attempts, not 0"),
        ({"retry": 101}, ValueError, "from 1 to 100 attempts, not 101"),
    ],
)
def test_a_wrong_override_is_refused_before_anything_is_sent(
    kit: Kit, overrides: Any, error: type[Exception], message: str
) -> None:
    server = kit.server(Answer(200))
    transport = kit.transport(server)
    with pytest.raises(error, match=message):
        kit.request(transport, extensions={"resilience": overrides})
    assert server.requests == []
    assert transport.statistics().created == 0


@pytest.mark.parametrize("retry", [True, 3])
def test_attempts_cannot_be_asked_for_where_there_is_no_retry(kit: Kit, retry: Any) -> None:
    with pytest.raises(ValueError, match=f"cannot be {retry}: the transport was made with retry=None"):
        kit.request(kit.transport(kit.server(Answer(200)), retry=None), extensions={"resilience": {"retry": retry}})


@pytest.mark.parametrize(
    "name,base",
    [
        ("CallRejectedError", "TransportError"),
        ("CircuitOpenError", "TransportError"),
        ("BulkheadFullError", "TransportError"),
        ("RateLimitExceededError", "TransportError"),
        ("PoolExhaustedError", "PoolTimeout"),
        ("DeadlineExceededError", "TimeoutException"),
        ("CallTimeoutError", "TimeoutException"),
    ],
)
def test_each_error_is_one_of_ours_and_one_of_the_librarys(kit: Kit, name: str, base: str) -> None:
    kind, ours = getattr(kit.package, f"HTTP{name}"), getattr(exceptions, name)
    assert issubclass(kind, ours)
    assert issubclass(kind, getattr(kit.library, base))
    request = kit.library.Request("GET", URL)
    error = kind("policy", 1.5, request=request)
    error.add_note("a note")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error) == str(ours("policy", 1.5))
    assert repr(copy) == repr(error) == f"HTTP{ours('policy', 1.5)!r}"
    assert (copy.policy, copy.request.url, copy.__notes__) == ("policy", request.url, ["a note"])
    with pytest.raises(RuntimeError, match="request"):
        _ = kind("policy", 1.5).request


def test_our_errors_from_inside_the_inner_transport_are_translated_too(kit: Kit) -> None:
    class Special(exceptions.CircuitOpenError):
        pass

    for error, name in [
        (exceptions.PoolExhaustedError("pool"), "HTTPPoolExhaustedError"),
        (Special("x"), "HTTPCircuitOpenError"),
        (exceptions.CallTimeoutError("x", 1.0), "HTTPCallTimeoutError"),
    ]:
        with pytest.raises(getattr(kit.package, name)):
            kit.request(kit.transport(kit.server(error), retry=None))
    with pytest.raises(exceptions.ResilienceError) as caught:
        kit.request(kit.transport(kit.server(exceptions.ResilienceError("x"))))
    assert type(caught.value) is exceptions.ResilienceError


def test_a_transport_within_a_transport_keeps_the_first_translation(kit: Kit) -> None:
    inner = kit.transport(kit.server(Answer(200, "x")), bulkhead=lambda origin: Bulkhead(1))
    outer = kit.transport(inner)
    response = kit.open(outer)
    with pytest.raises(kit.package.HTTPBulkheadFullError) as caught:
        kit.request(outer)
    assert str(caught.value.request.url) == URL
    assert kit.read(response) == b"x"
    kit.close(response)
    assert outer.statistics().in_use == inner.statistics().in_use == 0


def test_an_error_that_is_of_this_library_already_is_raised_as_it_is(kit: Kit) -> None:
    error = kit.package.HTTPCircuitOpenError("inner", 1.0, request=kit.library.Request("GET", "http://elsewhere/"))
    with pytest.raises(kit.package.HTTPCircuitOpenError) as caught:
        kit.request(kit.transport(kit.server(error)))
    assert caught.value is error


def test_entering_leaving_and_closing_reach_the_inner_transport(kit: Kit) -> None:
    server = kit.server(Answer(200))
    transport = kit.transport(server)
    client = kit.client(transport)
    kit.colour.enter(client)
    kit.colour.exit(client)
    kit.colour.run(transport.aclose() if kit.colour.is_async else transport.close())
    assert server.log == ["enter", "exit", "close"]


def test_an_inner_transport_of_the_other_colour_is_told_so_before_anything_is_held(kit: Kit) -> None:
    class OneColour:
        def __repr__(self) -> str:
            return "<one colour>"

    has, lacks = ("handle_request", "handle_async_request")[:: 1 if kit.colour.is_async else -1]
    setattr(OneColour, has, None)
    other = "Client" if kit.colour.is_async else "AsyncClient"
    transport = kit.transport(OneColour())
    request = kit.library.Request("GET", "https://api.example.com/")
    handle = transport.handle_async_request if kit.colour.is_async else transport.handle_request
    with pytest.raises(TypeError, match=f"inner has no {lacks}: <one colour> serves a {kit.name}.{other} only"):
        kit.colour.run(handle(request))
    with pytest.raises(TypeError, match=r"inner has no \w+: <one colour> serves"):
        kit.colour.enter(transport)
    with pytest.raises(TypeError, match=r"inner has no \w+: <one colour> serves"):
        kit.colour.run(transport.aclose() if kit.colour.is_async else transport.close())
    assert transport.statistics().created == 0


def test_a_transport_shows_what_it_is_made_of(kit: Kit) -> None:
    text = repr(kit.transport(kit.server(Answer(200))))
    assert text.startswith(
        "<ResilientTransport: timeout=30.0, attempt_timeout=10.0, retry=<Retry requests: 3 attempts>"
    )
    assert "0 of 1024 keys" in text


def test_the_standard_values_are_visible_in_the_signature(kit: Kit) -> None:
    import inspect

    parameters = inspect.signature(kit.package.ResilientTransport).parameters
    assert repr(parameters["retry"].default) == "standard"
    assert parameters["timeout"].default == 30.0


def test_the_public_names_are_sorted_and_documented(kit: Kit) -> None:
    names = kit.package.__all__
    assert names == sorted(names)
    assert all(getattr(kit.package, name).__doc__ for name in names)


def test_without_an_inner_transport_one_is_made_and_closed(kit: Kit) -> None:
    transport = kit.package.ResilientTransport(limits=kit.library.Limits(max_connections=3), trust_env=False)
    client = kit.client(transport)
    kit.colour.enter(client)
    kit.colour.exit(client)
    kit.colour.run(transport.aclose() if kit.colour.is_async else transport.close())
