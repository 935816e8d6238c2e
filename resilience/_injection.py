"""Injection: a pool's resource as the first argument of a function, whatever the function's colour.

A pool guards a function as every policy does, by `admit` and `settle`, and gives it what it was admitted with. What the
caller sees is the function without its first parameter, in types and in its signature.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from ._layer import PLAIN, AnyFunction, Stream, drive, has_no_name_yet, name_of, require_asyncio
from ._lease import Lease
from ._policy import Policy
from ._stock import Stock
from ._wait import Wait

S = TypeVar("S")
T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class Injecting(Policy, Generic[T]):
    """A policy whose permits carry a resource for the function."""

    _machine: Stock

    @overload
    def inject(self, fn: Callable[Concatenate[T, P], R], /) -> Callable[P, R]: ...

    @overload
    def inject(self, fn: Callable[Concatenate[S, T, P], R], /) -> Callable[Concatenate[S, P], R]: ...

    def inject(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Decorate a function of any colour so that a resource is its first argument, borrowed for each call.

        A method gets it after `self` (or `cls`, below `@classmethod`). That a function is one is told by that name and
        by where it stands, so this is for methods that are decorated in the body of their class.
        """
        try:
            parameters = list(inspect.signature(fn).parameters.values())
        except (TypeError, ValueError):  # no function, which is refused below, or one that does not tell
            return super().__call__(fn)
        own = parameters[:1] if _is_method(fn, parameters) else []
        wrapper = functools.update_wrapper(self._bind(_AfterSelf(fn)), fn) if own else super().__call__(fn)
        taken = parameters[len(own) : len(own) + 1]
        if not taken or taken[0].kind in {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}:
            which = "first positional argument" + (f" after {own[0].name}" if own else "")
            raise TypeError(f"{name_of(fn)} must take the resource of the pool as its {which}")
        rest = parameters[len(own) + (taken[0].kind is not inspect.Parameter.VAR_POSITIONAL) :]
        cast("Any", wrapper).__signature__ = inspect.signature(fn).replace(parameters=[*own, *rest])
        return wrapper

    @overload  # type: ignore[override]
    def __call__(self, fn: Callable[Concatenate[T, P], R], /) -> Callable[P, R]: ...

    @overload
    def __call__(self, fn: Callable[Concatenate[S, T, P], R], /) -> Callable[Concatenate[S, P], R]: ...

    def __call__(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """The same as `inject`."""
        return self.inject(fn)

    def call(self, fn: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:  # type: ignore[override]
        """Call `fn(resource, *args, **kwargs)` once; await the result if `fn` is asynchronous."""
        return cast("R", self._bind(fn)(*args, **kwargs))

    # -- the four colours ----------------------------------------------------------------------------------------------

    def _wrap_sync(self, fn: AnyFunction) -> AnyFunction:
        self._refuse_plain(fn)
        admit, settle, fail, unfinished = self.admit, self.settle, self._fail, self._unfinished

        def injected(*args: Any, **kwargs: Any) -> Any:
            item = admit(args, kwargs)
            if type(item) is Wait:
                item = item.block()
            try:
                result = fn(item.resource, *args, **kwargs)
            except BaseException as error:
                fail(item, error)
                raise
            if type(result) not in PLAIN and (rest := unfinished(item, result, fn)) is not None:
                return rest
            settle(item)
            return result

        return injected

    def _wrap_async(self, fn: AnyFunction) -> AnyFunction:
        admit, settle, fail = self.admit, self.settle, self._fail

        async def injected(*args: Any, **kwargs: Any) -> Any:
            require_asyncio()
            item = admit(args, kwargs)
            if type(item) is Wait:
                item = await item.suspend()
            try:
                result = await fn(item.resource, *args, **kwargs)
            except BaseException as error:
                fail(item, error)
                raise
            settle(item)
            return result

        return injected

    def _wrap_generator(self, fn: AnyFunction) -> AnyFunction:
        self._refuse_plain(fn)

        def injected(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with Lease[T](self) as resource:
                return (yield from fn(resource, *args, **kwargs))

        return injected

    def _wrap_async_generator(self, fn: AnyFunction) -> AnyFunction:
        @asynccontextmanager
        async def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Stream]:
            async with Lease[T](self) as resource:
                yield Stream(fn(resource, *args, **kwargs))

        return drive(begin)

    def _refuse_plain(self, fn: AnyFunction) -> None:
        if self._machine.is_async:
            raise TypeError(
                f"{self._machine} creates its resources asynchronously, which the plain function {name_of(fn)} cannot"
                " wait for: write an `async def`, or give the pool a plain `create` function"
            )


class _AfterSelf(functools.partial[Any]):
    """A method that takes the resource first. As a partial, it keeps the colour and the name of the method."""

    def __call__(self, resource: Any, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self.func(instance, resource, *args, **kwargs)


def _is_method(fn: Any, parameters: list[inspect.Parameter]) -> bool:
    """Whether `fn` is a method that the body of its class is just being executed with."""
    if not parameters or parameters[0].name not in {"self", "cls"} or not has_no_name_yet(fn):
        return False
    scope: str = inspect.unwrap(fn).__qualname__.rpartition(".")[0]
    return bool(scope) and not scope.endswith("<locals>")
