"""Mistakes that would leave a function unguarded without a word: each is an error where it is made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import aiolimiter
import pytest
import tenacity

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CallRejectedError,
    CircuitBreaker,
    CircuitOpenError,
    DeadlineExceededError,
    Keyed,
    MemoryStore,
    Pipeline,
    Rate,
    RateLimiter,
    ResilienceError,
    Retry,
    SlidingWindow,
    Throttle,
    Timeout,
    Verdict,
    log_events,
    subscribe,
)
from resilience import _arguments as arguments
from resilience.testing import ManualClock, Script

# --- a layer above a function, without parentheses -------------------------------------------------------------------

AnyDecorator = Callable[[Callable[..., Any]], Any]
BARE: list[Any] = [Bulkhead, CircuitBreaker, Pipeline, RateLimiter, Retry, Throttle, Timeout]
bare = pytest.mark.parametrize("layer", BARE, ids=[layer.__name__ for layer in BARE])


def refused(layer: Any) -> Any:
    """The error says which layer it is, and what to write."""
    return pytest.raises(TypeError, match=rf"{layer.__name__} takes its settings, .* use @{layer.__name__}\(…\)$")


@bare
def test_a_layer_without_parentheses_above_a_plain_function_is_refused(layer: AnyDecorator) -> None:
    """`@Timeout` took the function for a computed limit; calling it with a callable guarded that, and said nothing."""
    with refused(layer):

        @layer
        def fetch(callback: Callable[[], object]) -> None:
            raise AssertionError("never called")


@bare
def test_a_layer_without_parentheses_above_an_async_function_is_refused(layer: AnyDecorator) -> None:
    with refused(layer):

        @layer
        async def fetch() -> None:
            raise AssertionError("never called")


@bare
def test_a_layer_without_parentheses_above_a_generator_function_is_refused(layer: AnyDecorator) -> None:
    with refused(layer):

        @layer
        def fetch() -> Iterator[None]:
            yield


@bare
def test_a_layer_without_parentheses_above_a_method_is_refused(layer: AnyDecorator) -> None:
    with refused(layer):

        class Service:  # pyright: ignore[reportUnusedClass]
            @layer
            def __fetch(self) -> None:
                raise AssertionError("never called")

    kinds: list[Any] = [staticmethod, classmethod]
    for kind in kinds:
        with refused(layer):

            class Other:  # pyright: ignore[reportUnusedClass]
                @layer
                @kind  # type: ignore[untyped-decorator]
                def fetch(self) -> None:
                    raise AssertionError("never called")


@bare
def test_a_layer_without_parentheses_above_another_decorator_is_refused(layer: AnyDecorator) -> None:
    with refused(layer):

        @layer
        @functools.lru_cache
        def fetch() -> None:
            raise AssertionError("never called")


@bare
def test_a_layer_without_parentheses_is_refused_at_the_top_of_a_module_too(layer: AnyDecorator) -> None:
    source = "@layer\ndef fetch(x): pass"
    with refused(layer):
        exec(source, {"layer": layer, "fetch": "what the name meant before"})


def test_keyed_without_parentheses_misses_its_key() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'key'"):

        @Keyed  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
        def fetch(x: int) -> None:
            raise AssertionError("never called")


def half(x: int) -> float:
    return x / 2


def test_a_function_with_a_name_is_a_setting() -> None:
    def double(x: int) -> float:
        return x * 2.0

    def predicate(error: Exception) -> bool:
        return True

    class Settings:
        def _limit(self) -> float:
            return 5.0

        def __private(self) -> float:
            return 5.0

        made = Timeout(_limit), Timeout(__private)

    @functools.lru_cache
    def cached(x: int) -> float:
        return x * 2.0

    renamed = functools.lru_cache(double)
    for seconds in (double, half, cached, renamed, functools.partial(double, 3), Settings()._limit):
        assert Timeout(seconds).seconds is None
    assert Timeout(lambda x: 3.0)(half)(4) == 2.0
    assert Retry(predicate)(half)(4) == 2.0
    assert Retry(lambda error: False)(half)(4) == 2.0
    assert RateLimiter(double, key=int).peek(2).limit == 4
    assert Keyed(lambda key: Bulkhead(1), key=str)(half)(4) == 2.0


def test_a_function_made_by_others_or_known_to_the_whole_module_is_a_setting() -> None:
    def seconds(x: int) -> float:
        return x * 2.0

    def factory() -> Callable[[int], float]:
        def made(x: int) -> float:
            return float(x)

        return made

    known = vars(Settings)["limit"]
    Timeout(factory())  # not in an `assert`: pytest gives names to its parts
    Timeout(functools.lru_cache(seconds))
    Timeout(known)
    namespace: dict[str, Any] = {"Timeout": Timeout}
    exec(
        "def make():\n global seconds\n def seconds(x): return 3.0\n return Timeout(seconds)\nmade = make()", namespace
    )
    assert namespace["made"].seconds is None


class Settings:
    def limit(self) -> float:
        return 5.0


def test_what_a_layer_cannot_guard_may_be_the_argument_of_a_function_it_took_for_a_setting() -> None:
    for layer in (Timeout(half), Retry(len), Bulkhead(1)):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match=r"cannot guard 3: it is not callable \(.*@Timeout\(…\), not @Timeout\)$"):
            layer(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- listeners -------------------------------------------------------------------------------------------------------


def test_log_events_without_parentheses_is_refused_because_it_would_log_nothing_for_ever() -> None:
    for use in (subscribe, lambda listener: Bulkhead(1, listeners=[listener])):
        with pytest.raises(TypeError, match=r"one event: write log_events\(\), with parentheses$"):
            use(log_events)


def test_the_class_of_a_listener_is_refused() -> None:
    class Recorder:
        def __call__(self, event: object) -> None:
            raise AssertionError("never called")

    with pytest.raises(TypeError, match=r"write .*Recorder\(\), with parentheses$"):
        subscribe(Recorder)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    subscribe(Recorder()).cancel()


def test_a_listener_that_takes_no_event_is_refused() -> None:
    def nothing() -> None:
        raise AssertionError("never called")

    with pytest.raises(TypeError, match=r"^a listener must take one argument, which <function test_a_listener"):
        subscribe(nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    subscribe(print).cancel()
    subscribe([].append).cancel()


# --- functions that cannot answer ------------------------------------------------------------------------------------


def nobody() -> bool:
    return True


def two(first: object, second: object) -> bool:
    return True


def yields(_: object) -> Iterator[bool]:
    yield False


class Yields:
    def __call__(self, _: object) -> Iterator[bool]:
        yield False


SETTINGS: list[tuple[str, Callable[[Any], object]]] = [
    ("failure_on", lambda fn: CircuitBreaker(failure_on=fn)),
    ("ignore", lambda fn: CircuitBreaker(ignore=fn)),
    ("failure_if", lambda fn: CircuitBreaker(failure_if=fn)),
    ("on", Retry),
    ("retry_if", lambda fn: Retry(OSError, retry_if=fn)),
    ("retry_after", lambda fn: Retry(OSError, retry_after=fn)),
    ("wait", lambda fn: Retry(OSError, wait=fn)),
    ("stop", lambda fn: Retry(OSError, stop=fn)),
    ("rate", lambda fn: RateLimiter(fn, key=str)),
    ("charge_if", lambda fn: RateLimiter(1, charge_if=fn)),
    ("factory", lambda fn: Keyed(fn, key=str)),
    ("a listener", lambda fn: Bulkhead(1, listeners=[fn])),
]
every_setting = pytest.mark.parametrize("name,use", SETTINGS, ids=[name for name, _ in SETTINGS])


@every_setting
def test_a_function_of_the_wrong_number_of_arguments_is_refused(name: str, use: Callable[[Any], object]) -> None:
    for wrong in (nobody, two, lambda: True, functools.partial(two, 1, 2)):
        with pytest.raises(TypeError, match=rf"^{name} must take one argument, which <?.* does not$"):
            use(wrong)
    use(lambda one, *more, **named: True)
    use(lambda one, two=2: True)
    use(functools.partial(two, 1))


@every_setting
def test_a_generator_function_is_refused_where_an_answer_is_needed(name: str, use: Callable[[Any], object]) -> None:
    """What it returns is true whatever it would have yielded."""
    for wrong in (yields, Yields()):
        with pytest.raises(TypeError, match=rf"^{name} must be a plain function, not the generator function"):
            use(wrong)


@pytest.mark.parametrize(
    "name,use",
    [
        *(setting for setting in SETTINGS if setting[0] != "factory"),
        ("seconds", Timeout),
        ("key", lambda fn: RateLimiter(1, key=fn)),
        ("key", lambda fn: Keyed(lambda key: Bulkhead(1), key=fn)),
        ("cost", lambda fn: RateLimiter(1, cost=fn)),
        ("cost", lambda fn: Throttle(aiolimiter.AsyncLimiter(1), cost=fn)),
        ("before_retry", lambda fn: Retry(OSError, before_retry=fn)),
    ],
)
def test_a_layer_is_refused_where_a_function_answers(name: str, use: Callable[[Any], object]) -> None:
    """`Retry(Timeout(3))` reads like composition, and would retry everything: a guarded function is true."""
    with pytest.raises(TypeError, match=rf"^{name} must be a plain function, not the layer <Timeout"):
        use(Timeout(3))


@pytest.mark.parametrize(
    "name,use",
    [
        ("failure_if", lambda fn: CircuitBreaker(failure_if=fn)),
        ("retry_if", lambda fn: Retry(OSError, retry_if=fn)),
        ("retry_after", lambda fn: Retry(OSError, retry_after=fn)),
        ("before_retry", lambda fn: Retry(OSError, before_retry=fn)),
        ("charge_if", lambda fn: RateLimiter(1, charge_if=fn)),
        ("cost", lambda fn: RateLimiter(1, cost=fn)),
        ("key", lambda fn: RateLimiter(1, key=fn)),
        ("factory", lambda fn: Keyed(fn, key=str)),
    ],
)
def test_an_exception_type_is_refused_where_a_function_answers(name: str, use: Callable[[Any], object]) -> None:
    """`Retry(OSError, retry_if=ConnectionError)` would repeat every success: the error made of a result is true."""
    for kind in (ConnectionError, KeyboardInterrupt):
        with pytest.raises(
            TypeError, match=rf"^{name} must be a plain function, not the exception type {kind.__name__}$"
        ):
            use(kind)


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
@pytest.mark.parametrize(
    "name,use",
    [
        ("advisory", lambda value: CircuitBreaker("x", advisory=value, store=MemoryStore())),
        ("advisory", lambda value: CircuitBreaker("x", advisory=value)),
        ("abandon", lambda value: Timeout(1.0, abandon=value)),
        ("retry_rejections", lambda value: Retry(OSError, retry_rejections=value)),
    ],
)
def test_what_is_yes_or_no_is_nothing_else(name: str, use: Callable[[Any], object], value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be True or False, not "):
        use(value)


def test_built_in_functions_that_do_not_tell_their_arguments_are_taken_as_they_are() -> None:
    assert arguments.accepts(dict, 5) is None
    assert CircuitBreaker(failure_if=bool).call(lambda: 0) == 0


@pytest.mark.parametrize("kind", [tenacity.wait_fixed, tenacity.wait_none, tenacity.stop_after_attempt, int])
@pytest.mark.parametrize("setting", ["wait", "stop"])
def test_the_class_of_a_strategy_is_refused(setting: str, kind: Any) -> None:
    message = rf"^{setting} must be a tenacity strategy, not the class {kind.__name__}: write {kind.__name__}\(…\)$"
    with pytest.raises(TypeError, match=message):
        Retry(OSError).with_(**{setting: kind})


def test_before_retry_takes_no_argument_or_one() -> None:
    with pytest.raises(TypeError, match=r"^before_retry must take no argument or one RetryScheduled, unlike <function"):
        Retry(OSError, before_retry=two)
    with pytest.raises(TypeError, match=r"^before_retry must be a plain function, not the generator function"):
        Retry(OSError, before_retry=yields)

    async def two_later(first: object, second: object) -> None:
        raise AssertionError("never called")

    with pytest.raises(TypeError, match=r"^before_retry must take no argument or one RetryScheduled, unlike <function"):
        Retry(OSError, before_retry=two_later)


# --- layers that make layers -----------------------------------------------------------------------------------------


def test_one_layer_is_no_factory_of_layers() -> None:
    with pytest.raises(
        TypeError, match=r"^factory must make a layer for each key: write lambda key: …, not the one <B"
    ):
        Keyed(Bulkhead(3), key=str)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- settings under which a policy could never do anything -----------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"failure_rate": None},
        {"failure_rate": None, "failure_if": bool},
        {"failure_on": ()},
        {"failure_on": (), "failure_threshold": 1},
        {"ignore": Exception},
        {"failure_on": (OSError, KeyError), "ignore": (OSError, LookupError)},
        {"failure_on": FileNotFoundError, "ignore": OSError},
    ],
    ids=repr,
)
def test_a_breaker_that_could_never_open_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"circuit (could )?never open$"):
        CircuitBreaker(**settings)
    CircuitBreaker(**settings, slow_call_duration=1.0)


def test_a_breaker_that_can_open_in_any_way_is_accepted() -> None:
    CircuitBreaker(failure_rate=None, failure_threshold=1)
    CircuitBreaker(failure_on=(), failure_if=bool)
    CircuitBreaker(failure_on=(OSError, KeyError), ignore=LookupError)
    CircuitBreaker(failure_on=OSError, ignore=FileNotFoundError)
    CircuitBreaker(failure_on=OSError, ignore=lambda error: True)
    CircuitBreaker(failure_on=lambda error: True, ignore=Exception)
    CircuitBreaker().with_(failure_on=())


def test_a_share_of_slow_calls_needs_to_know_what_is_slow() -> None:
    with pytest.raises(ValueError, match=r"^slow_call_rate is the share of calls slower than slow_call_duration: give"):
        CircuitBreaker(slow_call_rate=0.5)


@pytest.mark.parametrize("kinds", [BulkheadFullError, CallRejectedError, (OSError, DeadlineExceededError)])
def test_a_rejection_is_no_failure_and_cannot_be_named_as_one(kinds: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^failure_on must not name \w+Error: a rejection says nothing and never counts$"
    ):
        CircuitBreaker(failure_on=kinds)
    CircuitBreaker(ignore=kinds)
    CircuitBreaker(failure_on=ResilienceError)


def test_a_retry_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^on must name an exception to retry, or give retry_if: with \(\) nothing"):
        Retry(())
    with pytest.raises(ValueError, match="nothing is ever retried"):
        Retry(OSError).with_(on=())
    with pytest.raises(ValueError, match="nothing is ever retried"):
        Retry((), retry_if=bool).with_(retry_if=None)
    Retry((), retry_if=bool)
    Retry((), retry_rejections=True)


@pytest.mark.parametrize("kinds", [CallRejectedError, CircuitOpenError, (OSError, BulkheadFullError)])
def test_a_rejection_can_be_named_for_retry_only_if_rejections_are_retried(kinds: Any) -> None:
    with pytest.raises(ValueError, match=r"^on names \w+Error, a rejection, which only retry_rejections=True retries$"):
        Retry(kinds)
    retry = Retry(kinds, retry_rejections=True)
    with pytest.raises(ValueError, match="which only retry_rejections=True retries"):
        retry.with_(retry_rejections=False)
    Retry(ResilienceError)


@pytest.mark.parametrize("rejections", [True, False])
def test_what_has_no_time_left_is_never_retried_and_cannot_be_named(rejections: bool) -> None:
    for kinds in (DeadlineExceededError, (OSError, DeadlineExceededError)):
        with pytest.raises(ValueError, match=r"^on must not name DeadlineExceededError: with no time left nothing is"):
            Retry(kinds, retry_rejections=rejections)
    Retry(TimeoutError)


@pytest.mark.parametrize(
    "settings,most",
    [
        ({"rate": 10, "burst": 2}, "2"),
        ({"rate": 2}, "2"),
        ({"rate": 0.5, "cost": 1.5}, "1"),
        ({"rate": 10, "also": [Rate(2, 3600.0)]}, "2"),
        ({"limiter": SlidingWindow(2, 1.0)}, "2"),
        ({"rate": lambda key: 10, "key": str, "burst": 2}, "2"),
        ({"rate": lambda key: 10, "key": str, "also": [Rate(10, burst=2)]}, "2"),
        ({"rate": 2, "charge_if": bool}, "2"),
    ],
)
def test_a_constant_cost_above_the_burst_is_refused(settings: dict[str, Any], most: str) -> None:
    """A computed one is rejected call by call."""
    expected = (
        rf"^cost must be at most the burst \({most}\), or no call could ever pass: it is {settings.get('cost', 3)}$"
    )
    refused: dict[str, Any]
    computed: dict[str, Any]
    accepted: dict[str, Any]
    refused, computed, accepted = {"cost": 3, **settings}, {**settings, "cost": len}, {**settings, "cost": int(most)}
    with pytest.raises(ValueError, match=expected):
        RateLimiter(**refused)
    with pytest.raises(ValueError, match=r"no call could ever pass: it is 3$"):
        RateLimiter(**computed).with_(cost=3)
    RateLimiter(**accepted)


def test_a_constant_cost_may_be_anything_where_the_burst_depends_on_the_key() -> None:
    limiter = RateLimiter(lambda key: 10.0, key=str, cost=3)
    assert limiter(half)(3) == 1.5


def test_a_burst_cannot_shrink_below_a_constant_cost() -> None:
    limiter = RateLimiter(10, cost=3)
    smaller: dict[str, Any]
    for smaller in ({"burst": 2}, {"rate": 2}):
        with pytest.raises(
            ValueError, match=r"^cost must be at most the burst \(2\), or no call could ever pass: it is 3"
        ):
            limiter.update(**smaller)
    assert limiter.peek().limit == 10
    limiter.update(burst=3)
    assert limiter(half)(3) == 1.5


# --- the rest of the public interface --------------------------------------------------------------------------------

NOTHING_USEFUL: list[Any] = [float("nan"), float("inf"), -1, 0, 10**400, "x", "", b"x", object(), OSError(), OSError]


@pytest.mark.parametrize("value", NOTHING_USEFUL, ids=arguments.shown)
def test_what_means_nothing_is_refused_by_the_tools_for_tests_and_logs(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^auto must be True or False, not "):
        ManualClock(auto=value)
    with pytest.raises(TypeError, match=r"^a Script takes a collection of entries, not "):
        Script(value)
    with pytest.raises(TypeError, match=r"^logger must be a structlog logger, not "):
        log_events(value)
    with pytest.raises(TypeError, match=r"^also must be a collection of Rate objects, not "):
        RateLimiter(1, also=value)


@pytest.mark.parametrize("value", [*NOTHING_USEFUL, True, None, "success"], ids=arguments.shown)
def test_what_is_no_verdict_does_not_count_as_success(value: Any) -> None:
    breaker = CircuitBreaker(failure_threshold=2)
    permit = breaker.admit()
    breaker.settle(permit, Verdict.FAILURE)
    with pytest.raises(TypeError, match=r"^settle\(\) takes a Verdict, not "):
        breaker.settle(permit, value)
    assert breaker.statistics().streak == 1


def test_a_class_is_no_time_limit() -> None:
    """`@Timeout` above a class would take it for a computed limit."""
    with pytest.raises(
        TypeError, match=r"^seconds must be a duration or a function of the call, not the class Settings$"
    ):
        Timeout(Settings)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
