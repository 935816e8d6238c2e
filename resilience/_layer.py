"""Layers and the colours of functions they guard.

A `Layer` turns a function into a guarded function. There are four colours, told apart once, at decoration::

    coroutine function            await fn()          also partials, methods and objects with an async __call__
    generator function            for x in fn()
    async generator function      async for x in fn()
    any other callable            fn()                if it returns a coroutine or Future, that is part of the call

Whatever could not be guarded is refused with a TypeError that says what to do instead: nothing is silently left alone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar, Token
from types import CoroutineType
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

from ._arguments import shown
from ._fit import fitted

P = ParamSpec("P")
R = TypeVar("R")
AnyFunction = Callable[..., Any]
StepFactory = Callable[[], AbstractContextManager[Any]]

# Result types known to be finished values. Testing membership costs a fifth of asking `inspect.isawaitable`; the set
# learns the types it meets, up to a bound, because programs that create classes at run time must not be kept alive.
PLAIN: set[type] = {type(None), bool, int, float, str, bytes, tuple, list, dict, set, frozenset}
_PLAIN_LIMIT = 4096

# contextlib builds every context manager function from one code object, which betrays them.
_CONTEXT_MANAGER_CODES = {
    decorator(function).__code__
    for decorator, function in (
        (cast("AnyFunction", contextlib.contextmanager), lambda: None),
        (cast("AnyFunction", contextlib.asynccontextmanager), lambda: None),
    )
}


class Layer(ABC):
    """Something that guards functions: use it as a decorator, or compose several with `Pipeline`."""

    def __call__(self, fn: Callable[P, R], /) -> Callable[P, R]:
        """Guard `fn`. Raises TypeError at once if `fn` is something this layer cannot guard."""
        wrapper = self._bind(fn)
        return cast("Callable[P, R]", _dressed(fitted(wrapper, fn) if self._indifferent else wrapper, fn))

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn(*args, **kwargs)` once under this layer; await the result if `fn` is asynchronous."""
        return cast("R", self._bind(fn)(*args, **kwargs))

    def _bind(self, fn: AnyFunction) -> AnyFunction:
        kind = colour_of(fn)
        if kind == "async":
            return self._wrap_async(fn)
        if kind == "sync":
            return self._wrap_sync(fn)
        return self._wrap_generator(fn) if kind == "generator" else self._wrap_async_generator(fn)

    @property
    def _indifferent(self) -> bool:
        """Whether the function is all that looks at a call's arguments: its wrapper may then take them as it does."""
        return False

    @property
    def at_rest(self) -> bool:
        """Whether forgetting this layer and making it anew would change nothing."""
        return True

    def _changed(self, change: Callable[[Layer], Layer]) -> Layer:
        """`change(self)`, or what holds other layers with each of them changed so."""
        return change(self)

    @abstractmethod
    def _wrap_sync(self, fn: AnyFunction) -> AnyFunction: ...

    @abstractmethod
    def _wrap_async(self, fn: AnyFunction) -> AnyFunction: ...

    @abstractmethod
    def _wrap_generator(self, fn: AnyFunction) -> AnyFunction: ...

    @abstractmethod
    def _wrap_async_generator(self, fn: AnyFunction) -> AnyFunction: ...


def colour_of(fn: object) -> str:
    """ "sync", "async", "generator" or "async generator"; TypeError for what no layer can guard."""
    if isinstance(fn, (staticmethod, classmethod, property, functools.cached_property)):
        raise TypeError(f"cannot guard a {type(fn).__name__} object: put the layer below @{type(fn).__name__}")
    if isinstance(fn, type):
        raise TypeError(
            f"cannot guard the class {fn.__qualname__}: decorate its methods, or a function that creates it"
        )
    if isinstance(fn, Layer):
        raise TypeError(f"cannot guard {fn!r}: it is a layer too, so write Pipeline(outer, inner) for both together")
    if inspect.iscoroutine(fn) or inspect.isgenerator(fn) or inspect.isasyncgen(fn):
        raise TypeError(f"cannot guard {shown(fn)}: pass the function, not what calling it returned")
    if not callable(fn):
        raise TypeError(
            f"cannot guard {shown(fn)}: it is not callable (a layer takes the function to guard, and before that its"
            " settings: @Timeout(…), not @Timeout)"
        )
    target: Any = fn
    while isinstance(target, functools.partial):
        target = target.func
    if getattr(target, "__code__", None) in _CONTEXT_MANAGER_CODES:
        raise TypeError(
            f"cannot guard {shown(fn)}: a context manager function returns before its block runs;"
            " use `with policy.guard():` around or inside the block"
        )
    # An object with a `__call__` of its own: the method decides, the object itself tells inspect nothing.
    candidates = [target] if inspect.isroutine(target) else [target, type(target).__call__]
    for candidate in candidates:
        if inspect.iscoroutinefunction(candidate):
            return "async"
        if inspect.isasyncgenfunction(candidate):
            return "async generator"
        if inspect.isgeneratorfunction(candidate):
            if getattr(getattr(candidate, "__code__", None), "co_flags", 0) & inspect.CO_ITERABLE_COROUTINE:
                raise TypeError(f"cannot guard {shown(fn)}: write an `async def` in place of types.coroutine")
            return "generator"
    return "sync"


def refuse_bare(kind: type[Layer], first: Any, *, functions: bool = False) -> None:
    """Raise TypeError if `@kind` stands above a function without arguments, so that `first` is that function.

    Where functions are allowed as the first argument (`functions`), the one to guard is known by having no name yet.
    """
    if inspect.isroutine(first) if not functions else has_no_name_yet(first):
        raise TypeError(
            f"{kind.__name__} takes its settings, not the function {name_of(first)}: use @{kind.__name__}(…)"
        )


def has_no_name_yet(fn: Any) -> bool:
    """Whether the code that uses this package has just defined `fn` with `def` and bound it to no name.

    That is so while its decorators run, and hardly ever else.
    """
    if not inspect.isroutine(fn):
        return False
    original = inspect.unwrap(fn)  # other decorators may come first
    code = getattr(original, "__code__", None)
    if code is None or code.co_name == "<lambda>":
        return False
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        frame = frame.f_back
    if all(constant is not code for constant in frame.f_code.co_consts):
        return False
    named = (*frame.f_locals.values(), *frame.f_globals.values())
    return all(value is not fn and value is not original for value in named)


def level_of_caller() -> int:
    """The `stacklevel` with which a warning of the calling function names the code that uses this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        level, frame = level + 1, frame.f_back
    return level


def finished(result: object, fn: AnyFunction) -> bool:
    """Whether what a plain callable returned is its outcome; False for a coroutine or Future, which has yet to run.

    Raises TypeError for anything else that runs later, where no layer could see how it ends.
    """
    kind = type(result)
    if isinstance(result, Coroutine) or asyncio.isfuture(result):
        return False
    if isinstance(result, (types.GeneratorType, types.AsyncGeneratorType)):
        if isinstance(result, types.GeneratorType):
            result.close()
        raise TypeError(f"{name_of(fn)} returned a generator: decorate the generator function itself")
    if isinstance(result, concurrent.futures.Future):
        raise TypeError(
            f"{name_of(fn)} returned a concurrent.futures.Future, whose work a layer around this call cannot see:"
            " decorate the function that the executor runs"
        )
    if hasattr(kind, "__await__"):
        raise TypeError(
            f"{name_of(fn)} returned an awaitable of type {kind.__qualname__}: write an `async def` that awaits it"
        )
    if len(PLAIN) < _PLAIN_LIMIT:
        PLAIN.add(kind)
    return True


def name_of(fn: object) -> str:
    """A function's name for messages."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return cast("str", getattr(fn, "__qualname__", None) or shown(fn))


def continued(rest: Coroutine[Any, Any, Any], awaited: object, fn: AnyFunction) -> object:
    """Hand out `rest`, the remainder of a call whose plain callable returned `awaited`, in the same shape.

    A coroutine is answered by a coroutine. A Future of the running loop is answered by a Task, which is a Future too.
    """
    if asyncio.isfuture(awaited):
        try:
            return asyncio.get_running_loop().create_task(rest)
        except RuntimeError:  # no loop runs here: the coroutine is awaited wherever the Future could have been
            pass
    cast("CoroutineType[Any, Any, Any]", rest).__qualname__ = name_of(
        fn
    )  # "coroutine 'f' was never awaited" should name the user's function
    return rest


def restore(variable: ContextVar[Any], token: Token[Any]) -> None:
    """Undo a `set`, unless a finaliser runs this: then that context is gone, and its end must not become an error."""
    try:  # `contextlib.suppress` costs ten times as much
        variable.reset(token)
    except ValueError:
        pass


def require_asyncio() -> None:
    """Raise a clear error where an async function is driven by something other than asyncio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "resilience guards async functions under asyncio only; Trio and other event loops are not supported"
        ) from None


def _dressed(wrapper: AnyFunction, fn: AnyFunction) -> AnyFunction:
    # The attributes of a function belong to its wrapper too; those of a callable object are the object's own state.
    updated = functools.WRAPPER_UPDATES if inspect.isroutine(fn) else ()
    return functools.update_wrapper(wrapper, fn, updated=updated)


def stepped(
    inner: Generator[Any, Any, Any], step: StepFactory, first: Callable[[], Any] | None = None
) -> Generator[Any, Any, Any]:
    """Drive a generator so that `step()` surrounds every resumption and nothing of it stays across a `yield`.

    `first` gets the first item, if not by `next`.
    """
    resume: Callable[[], Any] = first or functools.partial(next, inner)
    try:
        while True:
            try:
                with step():
                    item = resume()
            except StopIteration as stop:
                return stop.value
            try:
                sent = yield item
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, and handed on
                resume = functools.partial(inner.throw, error)
            else:
                resume = functools.partial(inner.send, sent)
    finally:
        resume = inner.close  # drops the thrown error, whose traceback holds this frame
        inner.close()


class Stream(NamedTuple):
    """An async generator to drive: what surrounds each step, and how to get the first item if not by `anext`."""

    inner: AsyncGenerator[Any, Any]
    step: StepFactory = contextlib.nullcontext
    first: Callable[[], Awaitable[Any]] | None = None


def drive(
    begin: Callable[[tuple[Any, ...], dict[str, Any]], AbstractAsyncContextManager[Stream]],
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """An async generator function that drives the stream of `begin(args, kwargs)`, as `stepped` does for the sync ones.

    Items, sent values, thrown errors and closing pass through. The stream is closed before the context of `begin` ends.
    """

    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        async with begin(args, kwargs) as (inner, step, first):
            resume: Callable[[], Awaitable[Any]] = first or inner.__anext__
            try:
                while True:
                    try:
                        with step():
                            item = await resume()
                    except StopAsyncIteration:
                        return
                    try:
                        sent = yield item
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, and handed on
                        resume = functools.partial(inner.athrow, error)
                    else:
                        resume = functools.partial(inner.asend, sent)
            finally:
                resume = inner.aclose
                await inner.aclose()

    return guarded
