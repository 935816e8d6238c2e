"""Wrappers that take exactly the parameters of the function they wrap.

A wrapper written as ``def guarded(*args, **kwargs)`` packs the arguments of a call into a tuple and a dict and unpacks
them again, which costs more than many a layer. `fitted` makes the same wrapper with the parameters of the function::

    def guarded(*args, **kwargs):                        def guarded(url, *, size=1):
        ...                                      ──►         ...
        result = fn(*args, **kwargs)                         result = fn(url, size=size)

It rewrites the syntax tree of the wrapper's own source, so that there is one text of it: line numbers, closure and
behaviour stay as written. Where that cannot be done (no source at hand, or not the one that runs; a builtin function;
a parameter that is called like something the wrapper uses), the wrapper stays as it is and works all the same.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, NamedTuple, TypeVar, cast

Node = TypeVar("Node", bound=ast.AST)

_MOST_KEPT = 1024  # wrappers by signature; what is dropped is made anew
_PRIME = "'"  # cannot stand in a name that somebody wrote, so a name that gets one collides with none
_HAS_REST, _HAS_EXTRA = inspect.CO_VARARGS, inspect.CO_VARKEYWORDS


class _Parameters(NamedTuple):
    """The parameters of a function by kind; `rest` is what takes ``*args``, `extra` what takes ``**kwargs``."""

    positional_only: tuple[str, ...]
    either: tuple[str, ...]
    keyword_only: tuple[str, ...]
    rest: str | None
    extra: str | None


def fitted(wrapper: Any, fn: Any) -> Any:
    """`wrapper`, a closure that takes ``(*args, **kwargs)`` for `fn`, with the parameters of `fn` if possible."""
    if type(wrapper) is not FunctionType or type(fn) is not FunctionType:
        return wrapper
    code = _fitted_code(wrapper.__code__, _parameters(fn.__code__))
    if code is None:
        return wrapper
    cells = dict(zip(wrapper.__code__.co_freevars, wrapper.__closure__ or (), strict=True))
    closure = tuple(cells[name.rstrip(_PRIME)] for name in code.co_freevars)
    result = FunctionType(code, wrapper.__globals__, wrapper.__name__, fn.__defaults__, closure)
    result.__kwdefaults__ = fn.__kwdefaults__
    return result


def _parameters(code: CodeType) -> _Parameters:
    either, keyword_only = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
    names = list(code.co_varnames[:keyword_only])
    more = iter(code.co_varnames[keyword_only:])
    return _Parameters(
        tuple(names[: code.co_posonlyargcount]),
        tuple(names[code.co_posonlyargcount : either]),
        tuple(names[either:]),
        next(more) if code.co_flags & _HAS_REST else None,
        next(more) if code.co_flags & _HAS_EXTRA else None,
    )


@lru_cache(maxsize=_MOST_KEPT)
def _fitted_code(code: CodeType, parameters: _Parameters) -> CodeType | None:
    """`code` with other parameters; None where that cannot be done."""
    named = {*parameters.positional_only, *parameters.either, *parameters.keyword_only}
    named |= {name for name in (parameters.rest, parameters.extra) if name is not None}
    codes = list(_with_inner(code))
    if any(not named.isdisjoint(each.co_names) for each in codes) or not all(map(str.isidentifier, named)):
        return None  # it would hide a global, or nobody wrote it
    if len(named) == 2 and parameters.rest is not None and parameters.extra is not None:
        return None  # it has them already
    source = _source(code)
    if source is None:
        return None
    taken = {name for each in codes for name in (*each.co_varnames, *each.co_freevars)}
    own = {name: name + _PRIME for name in taken & named}
    block = cast("ast.If", ast.parse(source).body[0])
    definition = _Fit(parameters, own).visit(cast("ast.FunctionDef", block.body[0]))
    definition.args, definition.returns = _placed(_signature(parameters), definition), None
    frame = ast.parse("def made(): pass")
    made = cast("ast.FunctionDef", frame.body[0])
    made.args.args = [_placed(ast.arg(own.get(name, name)), definition) for name in code.co_freevars]
    made.body = [definition]
    module = compile(frame, code.co_filename, "exec", dont_inherit=True)
    for _ in ("made", definition.name):
        module = next(constant for constant in module.co_consts if isinstance(constant, CodeType))
    return module.replace(co_qualname=code.co_qualname)


@lru_cache(maxsize=_MOST_KEPT)
def _source(code: CodeType) -> str | None:
    """The source of a wrapper, with its lines and columns; None if there is none, or none that `code` was made of.

    It is read when the first function is decorated, and by then the file may be that of another version.
    """
    try:
        lines = inspect.findsource(code)[0]
        if code not in _codes_of("".join(lines)):
            return None
        above = code.co_firstlineno - 1
        source = "\n" * (above - 1) + "if True:\n" + "".join(inspect.getblock(lines[above:]))
        ast.parse(source)
    except Exception:  # noqa: BLE001 - no file, or one with anything in it
        return None
    return source


@lru_cache(maxsize=1)
def _codes_of(text: str) -> frozenset[CodeType]:
    """The code of all functions in a file. (Codes are equal if they do the same on the same lines.)"""
    return frozenset(_with_inner(compile(text, "", "exec", dont_inherit=True)))


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    """`code`, and that of all functions inside."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


class _Fit(ast.NodeTransformer):
    """Puts the parameters in the place of ``args`` and ``kwargs``, and other names in the place of those they take."""

    def __init__(self, parameters: _Parameters, own: dict[str, str]) -> None:
        self._parameters = parameters
        self._own = own

    def _positional(self) -> list[ast.expr]:
        given = self._parameters
        names: list[ast.expr] = [_load(name) for name in (*given.positional_only, *given.either)]
        return names if given.rest is None else [*names, ast.Starred(_load(given.rest), ast.Load())]

    def _keywords(self) -> list[ast.keyword]:
        given = self._parameters
        names = [ast.keyword(name, _load(name)) for name in given.keyword_only]
        return names if given.extra is None else [*names, ast.keyword(None, _load(given.extra))]

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if any(isinstance(argument, ast.Starred) for argument in node.args):
            # fn(*args, **kwargs): nothing else in a wrapper has stars
            return _placed(ast.Call(self.visit(node.func), self._positional(), self._keywords()), node)
        if isinstance(node.func, ast.Name) and node.func.id == "admit":
            # admit(args, kwargs): whoever has its wrappers fitted decides without a look at the arguments
            return _placed(ast.Call(self.visit(node.func), [], []), node)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id == "args":
            return _placed(ast.Tuple(self._positional(), ast.Load()), node)
        if node.id == "kwargs":
            pairs = [(keyword.arg, keyword.value) for keyword in self._keywords()]
            keys: list[ast.expr | None] = [ast.Constant(name) if name else None for name, _ in pairs]
            return _placed(ast.Dict(keys, [value for _, value in pairs]), node)
        node.id = self._own.get(node.id, node.id)
        return node

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        node.names = [self._own.get(name, name) for name in node.names]
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        if node.name is not None:
            node.name = self._own.get(node.name, node.name)
        return self.generic_visit(node)


def _placed(tree: Node, place: ast.AST) -> Node:
    """`tree`, its nodes that stand nowhere put where `place` is. (What `ast` has for this leaves cycles behind.)"""
    for node in ast.walk(tree):
        if "lineno" in node._attributes and not hasattr(node, "lineno"):
            ast.copy_location(node, place)
    return tree


def _load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _signature(parameters: _Parameters) -> ast.arguments:
    """The parameters of the wrapper. Defaults are set on the function, as they are on the one it wraps."""
    return ast.arguments(
        posonlyargs=[ast.arg(name) for name in parameters.positional_only],
        args=[ast.arg(name) for name in parameters.either],
        vararg=None if parameters.rest is None else ast.arg(parameters.rest),
        kwonlyargs=[ast.arg(name) for name in parameters.keyword_only],
        kw_defaults=[None] * len(parameters.keyword_only),
        kwarg=None if parameters.extra is None else ast.arg(parameters.extra),
        defaults=[],
    )
