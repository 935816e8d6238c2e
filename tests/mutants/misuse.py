"""Mutants of what notices mistakes that would leave a function unguarded."""

from __future__ import annotations

from . import Mutant

_ARGUMENTS, _LAYER = "resilience/_arguments.py", "resilience/_layer.py"
_FAILURES, _BREAKER = "resilience/_failures.py", "resilience/circuit_breaker.py"
_RUN, _LIMITER = "resilience/_attempts.py", "resilience/rate_limiter.py"
_BUCKETS = "resilience/_buckets.py"
_TESTS = ("tests/test_misuse.py",)


def _argument(name: str, old: str, new: str) -> Mutant:
    return Mutant(f"misuse: {name}", _ARGUMENTS, old, new, _TESTS)


def _bare(name: str, old: str, new: str) -> Mutant:
    return Mutant(f"misuse: {name}", _LAYER, old, new, _TESTS)


def _settings(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(f"misuse: {name}", file, old, new, _TESTS)


MUTANTS: list[Mutant] = [
    _argument("a generator function answers", "any(inspect.isgeneratorfunction(found) or", "any(False or"),
    _argument(
        "an object that yields answers",
        "or inspect.isasyncgenfunction(found) for found in _code_of(value))",
        "or inspect.isasyncgenfunction(found) for found in (value,))",
    ),
    _argument(
        "an exception type answers", "if isinstance(value, type) and issubclass(value, BaseException):", "if False:"
    ),
    _argument(
        "only ordinary exception types are seen", "issubclass(value, BaseException):", "issubclass(value, Exception):"
    ),
    _argument(
        "what counts as true is a flag",
        '    if not isinstance(value, bool):\n        raise TypeError(f"{name} must be True or',
        '    if value not in (0, 1):\n        raise TypeError(f"{name} must be True or',
    ),
    _settings("anything is advisory", _BREAKER, '_arguments.flag("advisory", advisory)', "bool(advisory)"),
    _settings(
        "anything abandons",
        "resilience/timeout.py",
        '_arguments.flag("abandon", changes["abandon"])',
        'bool(changes["abandon"])',
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
        '    if isinstance(value, type):\n        raise TypeError(\n            f"{name} must be a tenacity',
        '    if False:\n        raise TypeError(\n            f"{name} must be a tenacity',
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
    _bare("a function without a name is a setting", "else has_no_name_yet(first):", "else False:"),
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
    _settings("slow_call_rate needs nothing", _FAILURES, "if circuit.slow_call_rate != 1.0:", "if False:"),
    _settings("a breaker without rules", _FAILURES, "circuit.failure_rate is None and", "False and"),
    _settings("a breaker with a threshold has no rule", _FAILURES, " and circuit.failure_threshold == math.inf", ""),
    _settings(
        "a breaker that ignores all", _FAILURES, "    if failure_if is None and kinds is not None", "    if False"
    ),
    _settings("results are overlooked", _FAILURES, "    if failure_if is None and kinds", "    if kinds"),
    _settings("a predicate is no failure", _FAILURES, "_kinds(ignored) or ()", "(Exception,)"),
    _settings("rejections count as failures", _FAILURES, 'if rejections and name == "failure_on":', "if False:"),
    _settings("rejections cannot be ignored", _FAILURES, 'rejections and name == "failure_on"', "rejections"),
    _settings(
        "slow calls are overlooked",
        _BREAKER,
        "        if self._slow_after is None:\n            refuse",
        "        if True:\n            refuse",
    ),
    _settings("a retry of nothing", _RUN, "if not (kinds or rejections or results):", "if False:"),
    _settings("results cannot be retried alone", _RUN, "(kinds or rejections or results)", "(kinds or rejections)"),
    _settings("rejections cannot be retried alone", _RUN, "(kinds or rejections or results)", "(kinds or results)"),
    _settings(
        "a retry with no time left", _RUN, "if any(issubclass(kind, DeadlineExceededError) for", "if any(False for"
    ),
    _settings("a retry of rejections by name only", _RUN, "if named and not rejections:", "if False:"),
    _settings("rejections cannot be named", _RUN, "if named and not rejections:", "if named:"),
    _settings("a cost above the burst", _BUCKETS, "if cost > most:", "if False:"),
    _settings("a cost of the burst is refused", _BUCKETS, "if cost > most:", "if cost >= most:"),
    _settings("further limits are overlooked", _BUCKETS, "known = list(self.algorithm.limits[1:]) if", "known = [] if"),
    _settings("the burst of a tier is guessed", _BUCKETS, "if self.tier is None or (", "if True or ("),
    _settings(
        "the burst of all tiers is overlooked",
        _BUCKETS,
        " or (isinstance(first, Gcra) and first.rate.burst is not None)",
        "",
    ),
    _settings(
        "the burst shrinks below the cost", _LIMITER, "        machine.refuse_cost(self._fixed_cost, changed)\n", ""
    ),
    Mutant(
        "misuse: a tier that cannot be hashed is not named",
        _BUCKETS,
        "        except TypeError:  # no number",
        "        except KeyError:  # no number",
        ("tests/test_rate_limiter_keys.py",),
    ),
    Mutant(
        "misuse: a burst that never refills",
        "resilience/_limits.py",
        "        if not self.seconds / self.limit * burst < 1e300:",
        "        if False:",
        ("tests/test_rate_limits.py",),
    ),
    Mutant("misuse: a period beside limiter=", _LIMITER, " or period != 1.0", "", ("tests/test_rate_limiter_keys.py",)),
]
