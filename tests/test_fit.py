"""A wrapper takes its function's own parameters where nothing else looks at the arguments, and nobody can tell."""

from __future__ import annotations

import asyncio
import functools
import inspect
import linecache
import traceback
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import tenacity
from hypothesis import given, settings
from hypothesis import strategies as st

from resilience import (
    Bulkhead,
    CircuitBreaker,
    Keyed,
    Layer,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    Throttle,
    Timeout,
    correlated,
)
from resilience._fit import fitted
from resilience.testing import ManualClock, run

FITTED: dict[str, Callable[[], Layer]] = {
    "bulkhead": lambda: Bulkhead(5),
    "breaker": CircuitBreaker,
    "breaker that looks at results": lambda: CircuitBreaker(failure_if=lambda _: False),
    "limiter": lambda: RateLimiter(1000),
    "limiter that charges by outcome": lambda: RateLimiter(1000, charge_if=lambda _: False),
    "timeout": lambda: Timeout(5.0),
    "retry": lambda: Retry(ValueError),
    "retry that looks at results": lambda: Retry(ValueError, retry_if=lambda _: False),
    "correlated": lambda: correlated,
    "several": lambda: Pipeline(Retry(ValueError), Bulkhead(5), Timeout(5.0)),
}
fitted_layers = pytest.mark.parametrize("make", FITTED.values(), ids=FITTED.keys())
# Some are those of things that the wrappers use themselves.
NAMES = ("self", "args", "kwargs", "fn", "permit", "admit", "settle", "error", "result", "machine", "now", "task", "x")


@st.composite
def functions(draw: st.DrawFn) -> str:
    """The parameters of a function, as source."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(0, 6))]
    kinds = sorted(draw(st.lists(st.sampled_from("abcde"), min_size=len(names), max_size=len(names))))
    parts, defaulted, starred, extra = [], False, False, None
    for number, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        if kind == "c" and not starred:
            starred = True
            parts.append(f"*{name}")
        elif kind == "e" and extra is None:
            extra = name
        elif kind in "de":
            if not starred:
                starred = True
                parts.append("*")
            parts.append(f"{name}={number}" if draw(st.booleans()) else name)
        elif not starred:
            defaulted = defaulted or draw(st.booleans())
            parts.append(f"{name}={number}" if defaulted else name)
            if kind == "a" and kinds[number + 1 :][:1] != ["a"] and "/" not in parts:
                parts.append("/")
    return ", ".join(parts + ([f"**{extra}"] if extra else []))


COLOURS = ("sync", "async", "generator", "async generator")


def made(parameters: str, colour: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    start, end = "async def" if "async" in colour else "def", "yield" if "generator" in colour else "return"
    exec(f"{start} f({parameters}): {end} sorted(locals().items())", scope)
    function: Callable[..., Any] = scope["f"]
    return function


def outcome(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        result = function(*args, **kwargs)
        if inspect.isgenerator(result):
            return list(result)
        if inspect.isasyncgen(result):
            return run(listed(result))
        return run(result) if asyncio.iscoroutine(result) else result
    except TypeError as error:
        return str(error)


async def listed(items: AsyncGenerator[Any, Any]) -> list[Any]:
    return [item async for item in items]


@pytest.mark.parametrize("colour", COLOURS)
@fitted_layers
@settings(max_examples=40)
@given(
    parameters=functions(),
    args=st.lists(st.integers(), max_size=4),
    kwargs=st.dictionaries(st.sampled_from(NAMES), st.integers(), max_size=3),
)
def test_a_guarded_function_takes_arguments_as_the_function_itself_does(
    make: Callable[[], Layer], colour: str, parameters: str, args: list[int], kwargs: dict[str, int]
) -> None:
    function = made(parameters, colour)
    assert outcome(make()(function), args, kwargs) == outcome(function, args, kwargs)


def names_in(code: CodeType) -> set[str]:
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set().union(code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars, *inner)


@pytest.mark.parametrize("colour", COLOURS)
@fitted_layers
def test_a_parameter_may_have_any_name_that_the_wrapper_uses(make: Callable[[], Layer], colour: str) -> None:
    wrapper: Any = make()._bind(made("x", colour))
    for name in sorted(names_in(wrapper.__code__)):
        function = made(f"x, {name}", colour) if name != "x" else made("x", colour)
        given = (1, 2)[: function.__code__.co_argcount]
        assert outcome(make()(function), given, {}) == outcome(function, given, {}), name


def spelled(x: int, /, y: int = 2, *rest: int, z: int = 3, **more: int) -> tuple[Any, ...]:
    return x, y, rest, z, more


async def spelled_async(x: int, /, y: int = 2, *rest: int, z: int = 3, **more: int) -> tuple[Any, ...]:
    return x, y, rest, z, more


@pytest.mark.parametrize("function", [spelled, spelled_async])
@pytest.mark.parametrize("name", [name for name in FITTED if name != "several"])
def test_the_wrapper_has_the_parameters_of_the_function(name: str, function: Callable[..., Any]) -> None:
    guarded: Any = FITTED[name]()(function)
    code, own = guarded.__code__, function.__code__
    assert code.co_varnames[:5] == own.co_varnames
    assert (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount) == (2, 1, 1)
    assert (guarded.__defaults__, guarded.__kwdefaults__) == ((2,), {"z": 3})
    assert inspect.signature(guarded) == inspect.signature(function)


def test_functions_of_one_shape_share_the_code_of_their_wrappers() -> None:
    def same(x: int) -> int:
        return x

    def negative(x: int) -> int:
        return -x

    first: Any = Bulkhead(1)(same)
    second: Any = Bulkhead(1)(negative)
    assert first.__code__ is second.__code__
    assert (first(1), second(1)) == (1, -1)


@fitted_layers
def test_a_call_with_wrong_arguments_is_refused_before_anything_counts_it(make: Callable[[], Layer]) -> None:
    with pytest.raises(TypeError, match=r"spelled\(\) missing 1 required positional argument"):
        make()(spelled)()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    bulkhead, breaker = Bulkhead(1), CircuitBreaker(failure_threshold=1)
    with pytest.raises(TypeError):
        Pipeline(breaker, bulkhead)(spelled)()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert (breaker.state.value, bulkhead.statistics().in_use) == ("closed", 0)


@pytest.mark.parametrize("colour", ["sync", "async"])
@fitted_layers
def test_an_error_is_the_functions_own_whatever_its_parameters_are_called(
    make: Callable[[], Layer], colour: str
) -> None:
    scope: dict[str, Any] = {"LookupError": LookupError}
    start = "async def" if colour == "async" else "def"
    exec(f"{start} f(error, result, self, kwargs): raise LookupError(error, result, self, kwargs)", scope)
    guarded = make()(scope["f"])
    with pytest.raises(LookupError) as caught:
        result = guarded(1, 2, self=3, kwargs=4)
        run(result)
    assert caught.value.args == (1, 2, 3, 4)


def test_methods_find_their_object() -> None:
    class Client:
        @Retry(ConnectionError)
        @Bulkhead(1)
        def get(self, path: str, *, fn: int = 1) -> tuple[Any, str, int]:
            return self, path, fn

    client = Client()
    assert client.get("/a", fn=2) == (client, "/a", 2)


# -- where somebody looks at the arguments, they stay as they were given -----------------------------------------------


def seen_by(make: Callable[[Callable[..., Any]], Layer]) -> list[Any]:
    """What a callable of the user is shown by a layer, for one call with a keyword argument."""
    seen: list[Any] = []

    def look(*args: Any, **kwargs: Any) -> float:
        seen.append((args, kwargs))
        return 1.0

    assert make(look)(spelled)(1, y=5) == (1, 5, (), 3, {})
    return seen


LOOKING: dict[str, Callable[[Callable[..., Any]], Layer]] = {
    "a key": lambda look: RateLimiter(1000, key=look),
    "a cost": lambda look: RateLimiter(1000, cost=look),
    "a limit in seconds": Timeout,
    "the key of a layer": lambda look: Keyed(lambda _: Bulkhead(1), key=look),
}


@pytest.mark.parametrize("make", LOOKING.values(), ids=LOOKING.keys())
def test_a_function_of_the_arguments_is_shown_them_as_they_were_given(
    make: Callable[[Callable[..., Any]], Layer],
) -> None:
    assert seen_by(make) == [((1,), {"y": 5})]


def test_a_cost_of_a_throttle_is_shown_the_arguments_as_they_were_given() -> None:
    import aiolimiter

    async def main() -> list[Any]:
        seen: list[Any] = []

        def cost(*args: Any, **kwargs: Any) -> float:
            seen.append((args, kwargs))
            return 1.0

        assert await Throttle(aiolimiter.AsyncLimiter(10), cost=cost)(spelled_async)(1, y=5) == (1, 5, (), 3, {})
        assert await Throttle(aiolimiter.AsyncLimiter(10))(spelled_async)(1, y=5) == (1, 5, (), 3, {})
        return seen

    assert asyncio.run(main()) == [((1,), {"y": 5})]


@pytest.mark.parametrize("setting", ["wait", "stop", "on"])
def test_a_strategy_of_the_users_own_is_shown_the_arguments_as_they_were_given(
    setting: str, clock: ManualClock
) -> None:
    seen: list[Any] = []

    class Own(tenacity.retry_if_exception_type):
        def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
            return bool(look(retry_state))

    def look(state: tenacity.RetryCallState) -> float:
        seen.append((state.args, state.kwargs))
        return 0.0

    def failing(x: int, y: int) -> None:
        raise ConnectionError

    settings: dict[str, Any] = {"on": ConnectionError, setting: Own() if setting == "on" else look}
    with pytest.raises(ConnectionError):
        Retry(**settings, attempts=2)(failing)(1, y=2)
    assert set(map(str, seen)) == {str(((1,), {"y": 2}))}


def test_a_policy_that_overrides_admit_is_shown_the_arguments() -> None:
    class Choosy(Bulkhead):
        def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
            seen.append((args, kwargs))
            return super().admit(args, kwargs)

    class Dull(Choosy):
        pass

    class Pacing(RateLimiter):
        def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
            seen.append((args, kwargs))
            return super().admit(args, kwargs)

    for make in (Choosy, Dull, Pacing):
        seen: list[Any] = []
        assert make(10)(spelled)(1, y=5) == (1, 5, (), 3, {})
        assert run(make(10)(spelled_async)(1, y=5)) == (1, 5, (), 3, {})
        assert seen == [((1,), {"y": 5})] * 2


def test_a_policy_of_the_users_own_is_shown_the_arguments() -> None:
    class Counting(Policy):
        def __init__(self) -> None:
            super().__init__(None, None, ())
            self.seen: list[Any] = []

        def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
            self.seen.append((args, kwargs))

        def settle(self, permit: Any, verdict: Any = None) -> None:
            self.seen.append(verdict)

    policy = Counting()
    assert policy(spelled)(1, y=5) == (1, 5, (), 3, {})
    assert policy.seen[0] == ((1,), {"y": 5})


# -- where it cannot be done, the wrapper stays as it is ---------------------------------------------------------------


def wrapping(fn: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> tuple[int, Any]:
        return len(args), fn(*args, **kwargs)

    return wrapper


def test_a_parameter_may_be_called_like_a_global_that_the_wrapper_uses() -> None:
    def measure(len: int) -> int:
        return len

    wrapper = wrapping(measure)
    assert fitted(wrapper, measure) is wrapper
    assert fitted(wrapper, spelled) is not wrapper


@pytest.mark.parametrize(
    "fn", [functools.partial(spelled, 1), len, str.upper, "text".upper, Bulkhead(1).at_rest.__class__]
)
def test_what_is_not_a_plain_function_keeps_its_wrapper(fn: Any) -> None:
    wrapper = wrapping(fn)
    assert fitted(wrapper, fn) is wrapper


def test_a_wrapper_that_is_no_function_stays() -> None:
    partial = functools.partial(spelled, 1)
    assert fitted(partial, spelled) is partial


def test_a_function_that_takes_anything_keeps_its_wrapper() -> None:
    def anything(*some: Any, **more: Any) -> Any:
        return some, more

    def some(*some: Any) -> Any:
        return some

    wrapper = wrapping(anything)
    assert fitted(wrapper, anything) is wrapper
    assert fitted(wrapping(some), some)(1, 2) == (2, (1, 2))


def test_a_wrapper_without_source_stays() -> None:
    scope: dict[str, Any] = {}
    source = "def wrap(fn):\n    def wrapper(*args, **kwargs):\n        return fn(*args, **kwargs)\n    return wrapper"
    exec(compile(source, "<nowhere>", "exec"), scope)
    wrapper = scope["wrap"](spelled)
    assert fitted(wrapper, spelled) is wrapper


WRAP = """
def wrap(fn):
    def wrapper(*args, **kwargs):
        place = "{place}"
        return fn(*args, **kwargs)
    return wrapper
"""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00",
        '"""',
        WRAP.replace("return fn", "return None, fn"),
        WRAP.replace("return fn", "return other"),
        WRAP.replace("return fn(*args, **kwargs)", "return 1, [fn(*args, **kwargs) for _ in args]"),
        WRAP.replace("def wrap(fn):\n", "def wrap(fn):\n    pass\n"),
        "\nasync def other():\n    async def inner():\n        nonlocal x",
    ],
)
def test_a_wrapper_stays_when_its_file_has_another_text_by_now(tmp_path: Path, text: str) -> None:
    file = tmp_path / "upgraded.py"
    scope: dict[str, Any] = {}
    exec(compile(WRAP.format(place=tmp_path), file, "exec", dont_inherit=True), scope)
    file.write_text(text.replace("{place}", str(tmp_path)))
    wrapper = scope["wrap"](spelled)
    assert fitted(wrapper, spelled) is wrapper


def test_a_wrapper_is_fitted_from_the_text_that_it_was_made_of(tmp_path: Path) -> None:
    file = tmp_path / "kept.py"
    scope: dict[str, Any] = {}
    file.write_text(WRAP.format(place=tmp_path))
    exec(compile(WRAP.format(place=tmp_path), file, "exec", dont_inherit=True), scope)
    wrapper = scope["wrap"](spelled)
    assert fitted(wrapper, spelled) is not wrapper
    assert fitted(wrapper, spelled)(1, y=5) == (1, 5, (), 3, {})


def test_a_wrapper_that_stands_in_no_function_stays(tmp_path: Path) -> None:
    file = tmp_path / "outermost.py"
    source = "def wrapper(*args, **kwargs):\n    return fn(*args, **kwargs)\n"
    file.write_text(source)
    scope: dict[str, Any] = {"fn": spelled}
    exec(compile(source, file, "exec", dont_inherit=True), scope)
    wrapper = scope["wrapper"]
    assert fitted(wrapper, spelled) is wrapper


def test_parameters_that_nobody_wrote_are_left_alone() -> None:
    import types

    code = spelled.__code__.replace(co_varnames=(".0", *spelled.__code__.co_varnames[1:]))
    odd = types.FunctionType(code, globals(), "odd")
    wrapper = wrapping(odd)
    assert fitted(wrapper, odd) is wrapper


def test_a_traceback_shows_the_line_as_it_is_written() -> None:
    def failing(x: int) -> None:
        raise LookupError(x)

    guarded = Bulkhead(1)(failing)
    with pytest.raises(LookupError) as caught:
        guarded(1)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [frame.line for frame in frames[-2:]] == ["result = fn(*args, **kwargs)", "raise LookupError(x)"]
    assert frames[-2].filename.endswith("_policy.py")
    assert frames[-2].name == "guarded"
    line = linecache.getline(frames[-2].filename, frames[-2].lineno or 0)
    assert line[frames[-2].colno : frames[-2].end_colno] == "fn(*args, **kwargs)"
