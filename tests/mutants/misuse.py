"""Mutants of what notices mistakes that would leave a function unguarded."""

from __future__ import annotations

from . import Mutant

_ARGUMENTS, _LAYER = "resilience/_arguments.py", "resilience/_layer.py"
_TESTS = ("tests/test_misuse.py",)


def _argument(name: str, old: str, new: str) -> Mutant:
    return Mutant(f"misuse: {name}", _ARGUMENTS, old, new, _TESTS)


def _bare(name: str, old: str, new: str) -> Mutant:
    return Mutant(f"misuse: {name}", _LAYER, old, new, _TESTS)


MUTANTS: list[Mutant] = [
    _argument("a generator function answers", "any(inspect.isgeneratorfunction(found) or", "any(False or"),
    _argument(
        "an object that yields answers",
        "or inspect.isasyncgenfunction(found) for found in _code_of(value))",
        "or inspect.isasyncgenfunction(found) for found in (value,))",
    ),
    _argument("a layer answers", 'if hasattr(type(value), "_wrap_sync"):', "if False:"),
    _argument(
        "a function of two arguments answers for one", "if takes is not None and accepts(", "if False and accepts("
    ),
    _argument(
        "built-ins that tell nothing are refused", "accepts(value, takes) is False", "accepts(value, takes) is not True"
    ),
    _argument(
        "the class of a strategy is one",
        '    if isinstance(value, type):\n        raise TypeError(f"{name} must be a tenacity',
        '    if False:\n        raise TypeError(f"{name} must be a tenacity',
    ),
    _argument(
        "a strategy takes anything",
        "    return plain(name, value, takes=1)\n\n\n",
        "    return plain(name, value)\n\n\n",
    ),
    _argument("the class of a listener is one", "if isinstance(value, type) or getattr(", "if getattr("),
    _argument("log_events is a listener", 'or getattr(value, "makes_a_listener", False) is True', ""),
    _argument("a listener takes no event", 'plain("a listener", value, takes=1)', 'plain("a listener", value)'),
    _bare("a function is a number", "inspect.isroutine(first) if not functions", "False if not functions"),
    _bare("a function without a name is a setting", "else _has_no_name_yet(first):", "else False:"),
    _bare("other decorators hide the function", "original = inspect.unwrap(fn)", "original = fn"),
    _bare("a lambda is taken for a decorated function", 'or code.co_name == "<lambda>"', ""),
    _bare(
        "a function made elsewhere is taken for a decorated one",
        "if all(constant is not code for",
        "if False and all(constant is not code for",
    ),
    _bare("a local name is overlooked", "(*frame.f_locals.values(), *", "(*"),
    _bare("a global name is overlooked", ", *frame.f_globals.values())", ",)"),
    _bare("a wrapped name is overlooked", " and value is not original for", " for"),
    _bare("the name of a wrapper is overlooked", "value is not fn and value", "value"),
    Mutant(
        "misuse: a factory may be a layer",
        "resilience/keyed.py",
        "if isinstance(factory, Layer):",
        "if False:",
        _TESTS,
    ),
    Mutant(
        "misuse: before_retry takes two",
        "resilience/retry.py",
        "if not informed and _arguments.accepts(fn, 0) is False:",
        "if False:",
        _TESTS,
    ),
    Mutant(
        "misuse: before_retry may be a generator function",
        "resilience/retry.py",
        '        _arguments.function("before_retry", fn)\n',
        "        pass\n",
        _TESTS,
    ),
]
