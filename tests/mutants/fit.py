"""Deliberate bugs in fitting wrappers to their functions, and in the short way of a limiter without keys."""

from __future__ import annotations

from pathlib import Path

from . import Mutant

_FIT, _LIMITED, _LAYER, _POLICY = (f"resilience/{name}.py" for name in ("_fit", "_limited", "_layer", "_policy"))
_TESTS = ("tests/test_fit.py",)
_WAYS = ("tests/test_limited.py",)


def _fit(name: str, old: str, new: str) -> Mutant:
    return Mutant(f"fit: {name}", _FIT, old, new, _TESTS)


def _function(name: str, old: str, new: str) -> Mutant:
    """In the wrapper of a plain function, which comes first in the file."""
    return Mutant(f"limited: {name}", _LIMITED, old, new, _WAYS)


def _both(name: str, old: str, new: str) -> list[Mutant]:
    """One mutant for each of the two wrappers, told apart by what follows in the file."""
    first, second = "    def guarded(", "    async def guarded("
    return [
        Mutant(f"limited: {name}, {colour}", _LIMITED, *_in(start, old, new), _WAYS)
        for colour, start in (("plain", first), ("coroutine", second))
    ]


def _in(start: str, old: str, new: str) -> tuple[str, str]:
    source = (Path(__file__).resolve().parents[2] / _LIMITED).read_text("utf-8")
    begin = source.index(start)
    end = source.index(old, begin) + len(old) if old in source[begin:] else len(source)
    return source[begin:end], source[begin:end].replace(old, new)


MUTANTS = [
    Mutant(
        "decoration: a layer is guarded by another",
        _LAYER,
        "isinstance(fn, Layer)",
        "False",
        ("tests/test_decoration.py",),
    ),
    _fit("defaults are lost", "wrapper.__name__, fn.__defaults__, closure", "wrapper.__name__, None, closure"),
    _fit("defaults of keywords are lost", "    result.__kwdefaults__ = fn.__kwdefaults__\n", ""),
    _fit("positional-only parameters have names", "code.co_varnames[:keyword_only])", "code.co_varnames[:either])"),
    _fit("what takes the rest is forgotten", "next(more) if code.co_flags & _HAS_REST else None", "None"),
    _fit("what takes the extra is forgotten", "next(more) if code.co_flags & _HAS_EXTRA else None", "None"),
    _fit("a parameter hides a global", "not named.isdisjoint(each.co_names)", "False"),
    _fit(
        "a parameter hides a global of an inner function",
        "(each.co_names) for each in codes",
        "(code.co_names) for _ in codes",
    ),
    _fit("names that nobody wrote", " or not all(map(str.isidentifier, named))", ""),
    _fit("names collide", "in taken & named}\n", "in ()}\n"),
    _fit("names collide with those of inner functions", "for each in codes for name", "for each in [code] for name"),
    _fit("the text of another version is taken", "if code not in _codes_of(", "if None in _codes_of("),
    _fit("an unreadable text is an error", "except Exception:", "except OSError:"),
    _fit("caught errors collide", "node.name = self._own.get(node.name, node.name)", "pass"),
    _fit("lines are those of nowhere", '"\\n" * (above - 1) + ', ""),
    _fit("a wrapper outside of everything is fitted", "        ast.parse(source)\n", ""),
    _fit("the rest is not handed on", "names if given.rest is None else", "names if True else"),
    _fit("the extra is not handed on", "names if given.extra is None else", "names if True else"),
    _fit("builtins are fitted", "or type(fn) is not FunctionType", ""),
    Mutant(
        "fit: a policy of one's own is kept from the arguments",
        _POLICY,
        'if "admit" in vars(cls) and "_indifferent" not in vars(cls):',
        "if False:",
        _TESTS,
    ),
    Mutant(
        "fit: nobody sees the arguments", _LAYER, "if self._indifferent else wrapper", "if True else wrapper", _TESTS
    ),
    *_both("one more is let in", "if after - now <= plain.allowance:", "if after - now <= plain.allowance + 1.0:"),
    *_both("the cost is ignored", "cost * plain.interval", "plain.interval"),
    *_both("filled beyond the burst", "(tat if tat > now else now)", "tat"),
    *_both("the look is not checked under the lock", "admitted = states.get(_ALL) is tat", "admitted = True"),
    *_both("the lock is kept", "machine.free.append(None)", "pass"),
    *_both("does not look again", "                    if machine.late:\n", "                    if False:\n"),
    *_both("a refusal ignores what was handed over", "or listeners or machine.late)", "or listeners)"),
    *_both("a refusal is not told to all", "not (SUBSCRIBERS or listeners", "not (listeners"),
    *_both("a refusal is not told to its own", "SUBSCRIBERS or listeners", "SUBSCRIBERS"),
    *_both("a refusal is not counted", "machine.rejected += 1 ", "pass "),
    *_both("rounding is waited for", "if after > 0.0:", "if True:"),
    *_both("the burst is forgotten", "after - plain.tolerance - now", "after - now"),
    *_both("refused at once although it may wait", "elif at_once and", "elif"),
    *_both("does not wait", "if type(permit) is Wait:", "if False:"),
    _function("a generator is let through", "            finished(result, fn)\n", "            pass\n"),
]
