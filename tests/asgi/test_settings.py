"""Mistakes in the settings of the middleware: an error at once that names the parameter and what is allowed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from resilience_asgi import GracefulShutdown, HealthEndpoints, ResilienceMiddleware, Rule, dependency
from resilience_asgi.paths import matcher, path_inside, pattern

from resilience import Bulkhead, Keyed, Pipeline, Policy, RateLimiter, Retry, Timeout, correlated
from resilience.testing import ManualClock

from .wire import answering, served

APP = answering()
middleware: Any = ResilienceMiddleware  # without its annotations, so that a type checker lets the mistakes pass


async def asynchronous(*_: Any) -> None: ...


@pytest.mark.parametrize("name", ["timeout", "body_timeout", "watch_after"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", True, 10**400])
def test_a_length_of_time_is_finite_and_positive(name: str, value: Any) -> None:
    for make in (lambda **more: ResilienceMiddleware(APP, **more), lambda **more: Rule("/", **more)):
        with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
            make(**{name: value})


@pytest.mark.parametrize("name", ["timeout", "body_timeout"])
def test_a_timeout_of_nothing_is_a_mistake_but_watching_at_once_is_not(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        middleware(APP, **{name: 0.0})
    ResilienceMiddleware(APP, watch_after=0.0)


@pytest.mark.parametrize(
    "layer,words",
    [
        (Retry(on=ValueError), "cannot be taken back"),
        (Timeout(1.0), "use timeout="),
        (correlated, "CorrelationMiddleware"),
        (Pipeline(Bulkhead(1), Timeout(1.0)), "use timeout="),
        (Bulkhead, "policies that admit and settle"),
        ("bulkhead", "policies that admit and settle"),
        (None, "policies that admit and settle"),
        (Policy("bare", None, ()), "policies that admit and settle"),
        (type("Own", (Keyed,), {})(lambda key: Bulkhead(1), key=str), "policies that admit and settle"),
    ],
)
def test_what_cannot_guard_a_request_is_refused_with_what_to_do_instead(layer: Any, words: str) -> None:
    with pytest.raises(TypeError, match=f"layers must .*{words}"):
        ResilienceMiddleware(APP, layers=[layer])
    with pytest.raises(TypeError, match=words):
        Rule("/", layers=[layer])
    with pytest.raises(TypeError, match=words):
        dependency(layer)


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"layers": Bulkhead(1)}, "layers must be a collection"),
        ({"rules": ["/search"]}, "rules must hold Rule objects"),
        ({"exempt": "/healthz"}, "exempt must be a collection"),
        ({"exempt": b"/healthz"}, "exempt must be a collection"),
        ({"exempt": None}, "exempt must be a collection"),
        ({"exempt": [7]}, "exempt must be a path pattern"),
        ({"exempt": ["healthz"]}, "exempt must be a path that starts with '/'"),
        ({"render": "json"}, "render must be callable"),
        ({"render": asynchronous}, "render must be a plain function"),
        ({"rate_limit_fields": 1}, "rate_limit_fields must be True or False"),
        ({"incoming_deadline": None}, "incoming_deadline must be True or False"),
        ({"name": ""}, "name must be a non-empty string"),
        ({"clock": 7}, "clock must be"),
    ],
)
def test_a_mistake_in_the_middleware_names_its_parameter(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        ResilienceMiddleware(APP, **settings)


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"path": "search"}, "path must be a path that starts with '/'"),
        ({"path": "/a*b"}, "'\\*' at the end only"),
        ({"path": "/a/{b"}, "path must be a path"),
        ({"path": "/a/{}"}, "path must be a path"),
        ({"path": 7}, "path must be a path pattern"),
        ({"path": "/", "methods": "GET"}, "methods must be a collection"),
        ({"path": "/", "methods": [7]}, "methods must hold names"),
        ({"path": "/", "methods": [""]}, "methods must hold names"),
        ({"path": "/", "layers": 7}, "layers must be a collection"),
    ],
)
def test_a_mistake_in_a_rule_names_its_parameter(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        Rule(**settings)


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"drain_timeout": -1.0}, "drain_timeout must be"),
        ({"drain_timeout": None}, "drain_timeout must be"),
        ({"notice": math.nan}, "notice must be"),
        ({"retry_after": "1"}, "retry_after must be"),
        ({"signals": 15}, "signals must be a collection"),
        ({"signals": ["SIGTERM"]}, "signals must hold members"),
        ({"render": asynchronous}, "render must be a plain function"),
        ({"clock": 7}, "clock must be"),
    ],
)
def test_a_mistake_in_the_shutdown_names_its_parameter(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        GracefulShutdown(APP, **settings)


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"checks": [print]}, "checks must be a mapping"),
        ({"checks": {7: print}}, "checks must map names to functions"),
        ({"checks": {"database": True}}, "checks must map names to functions"),
        ({"liveness": "healthz"}, "liveness must be a path"),
        ({"readiness": None}, "readiness must be a path"),
        ({"timeout": 0.0}, "timeout must be"),
    ],
)
def test_a_mistake_in_the_health_endpoints_names_its_parameter(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        HealthEndpoints(APP, **settings)


@pytest.mark.parametrize(
    "text,matching,others",
    [
        ("/search", ["/search"], ["/search/", "/Search", "/searc", "/search/x", ""]),
        ("/items/{id}", ["/items/7", "/items/a.b"], ["/items/", "/items", "/items/7/x"]),
        ("/a/{b}/c/{d}", ["/a/1/c/2"], ["/a/1/c/", "/a/c/2", "/a/1/x/2"]),
        ("/v{n}/x", ["/v1/x", "/v22/x"], ["/v/x"]),
        ("/files/*", ["/files/", "/files/a/b", "/files/a\nb"], ["/files"]),
        ("/files*", ["/files", "/files/a", "/filesystem"], ["/file"]),
        ("/a.b", ["/a.b"], ["/axb"]),
        ("*", ["", "/", "/anything", "\n"], []),
    ],
)
def test_a_pattern_matches_whole_paths(text: str, matching: list[str], others: list[str]) -> None:
    matches = matcher("path", [text])
    assert all(matches(path) for path in matching)
    assert not any(matches(path) for path in others)
    several = matcher("path", ["/other/{x}", text])
    assert all(several(path) for path in [*matching, "/other/1"])
    assert not any(several(path) for path in others)


@pytest.mark.parametrize(
    "path,root,inside",
    [
        ("/api/x", "/api", "/x"),
        ("/api/x", "/api/", "/x"),
        ("/api", "/api", "/"),
        ("/api/", "/api", "/"),
        ("/apis/x", "/api", "/apis/x"),
        ("/x", "/api", "/x"),  # hypercorn and granian leave the path as it was asked for
        ("/x", "", "/x"),
        ("/x", None, "/x"),
        ("", "", ""),
    ],
)
def test_a_path_begins_inside_the_application(path: str, root: str | None, inside: str) -> None:
    assert path_inside({"path": path, "root_path": root}) == inside
    assert path_inside({"path": path}) == path


@pytest.mark.parametrize(
    "text,covered,others",
    [
        ("/search", ["/search", "/search/", "//search", "/search//", "//search///"], ["/search/x", "//search/x", "/"]),
        ("/search/", ["/search", "/search/", "/search//"], ["/searc"]),
        ("/a/{b}", ["/a/1", "/a/1/", "/a//1"], ["/a//", "/a", "/a/1/2"]),
        ("/files/*", ["/files/", "/files//a", "/files/a//b"], ["/files", "/file//s"]),
        ("/", ["/", "//"], ["/x", "//x"]),
    ],
)
def test_a_rule_holds_for_every_spelling_of_its_path_that_a_router_takes(
    text: str, covered: list[str], others: list[str]
) -> None:
    """Litestar answers `//search/` by the endpoint for `/search`, so that a limit for the one path was got around."""
    rule = Rule(text, methods=["GET"])
    assert all(rule.covers(path, "GET") for path in covered)
    assert not any(rule.covers(path, "GET") for path in others)
    assert not any(rule.covers(path, "POST") for path in covered)


def test_an_exemption_is_for_the_path_as_it_is_written(clock: ManualClock) -> None:
    app = ResilienceMiddleware(APP, layers=[RateLimiter(1, 60.0)], exempt=["/healthz"])
    statuses = [served(app, clock, path=path).status for path in ("/healthz", "/healthz/", "//healthz", "/healthz")]
    assert statuses == [200, 200, 429, 200]


def test_rules_and_exemptions_hold_for_an_application_with_a_root_path(clock: ManualClock) -> None:
    rules = [Rule("/limited", layers=[RateLimiter(1, 60.0)])]
    app = ResilienceMiddleware(APP, layers=[RateLimiter(2, 60.0)], rules=rules)
    paths = ["/api/healthz"] * 3 + ["/api/limited", "/api/limited", "/api/healthz"]
    statuses = [served(app, clock, path=path, root_path="/api").status for path in paths]
    assert statuses == [200, 200, 200, 200, 429, 200]


def test_patterns_are_regular_expressions_of_their_own() -> None:
    assert pattern("path", "/a|b") == r"/a\|b"


def test_what_the_middleware_is_can_be_read(clock: ManualClock) -> None:
    assert repr(ResilienceMiddleware(APP)) == "<ResilienceMiddleware: no layers>"
    assert repr(ResilienceMiddleware(APP, layers=[Bulkhead(2, name="app")])) == (
        "<ResilienceMiddleware: <Bulkhead app: 0 of 2 in use, 0 of 0 waiting>>"
    )
    assert repr(Rule("/search")) == "<Rule for /search>"
    assert repr(GracefulShutdown(APP)) == "<GracefulShutdown: ready, 0 in flight>"
    assert served(middleware(APP, render=None), clock).status == 200
