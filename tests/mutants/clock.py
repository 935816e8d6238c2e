"""Mutants of the clock and of the checks of arguments."""

from __future__ import annotations

from . import Mutant

CLOCK, ARGUMENTS = "resilience/clock.py", "resilience/_arguments.py"
TIME = ("tests/test_clock.py",)
CHECKS = ("tests/test_arguments.py",)

MUTANTS: list[Mutant] = [
    Mutant(
        "a plain clock waits once",
        CLOCK,
        "            self.sleep(min(left, turns))\n",
        "            self.sleep(left)\n",
        TIME,
    ),
    Mutant(
        "the turns of a plain clock grow without end",
        CLOCK,
        "turns = min(2.0 * turns, _LONGEST_TURN)",
        "turns = 2.0 * turns",
        TIME,
    ),
    Mutant("a plain clock waits too long", CLOCK, "self.sleep(min(left, turns))", "self.sleep(turns)", TIME),
    Mutant(
        "a plain clock gives up early", CLOCK, "            if left <= 0.0:\n", "            if left <= 5.0:\n", TIME
    ),
    Mutant(
        "a plain clock rings at once",
        CLOCK,
        "            await self.asleep(seconds)\n            callback()",
        "            callback()",
        TIME,
    ),
    Mutant(
        "a negative wait is an error",
        CLOCK,
        "timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX)",
        "timeout=min(seconds, threading.TIMEOUT_MAX)",
        TIME,
    ),
    Mutant(
        "an enormous wait is an error",
        CLOCK,
        "timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX)",
        "timeout=max(seconds, 0.0)",
        TIME,
    ),
    Mutant(
        "the system clock asks itself",
        CLOCK,
        "if isinstance(clock, SystemClock):\n            clock = None",
        "if False:\n            clock = None",
        TIME,
    ),
    Mutant("anything is a clock", CLOCK, "if not isinstance(clock, Clock):", "if False:", TIME),
    Mutant(
        "a clock behind does not sleep",
        CLOCK,
        "            self._behind.sleep(seconds)\n",
        "            time.sleep(seconds)\n",
        TIME,
    ),
    Mutant(
        "a bool is a number",
        ARGUMENTS,
        "if isinstance(value, bool) or not isinstance(value, (int, float)):",
        "if not isinstance(value, (int, float)):",
        CHECKS,
    ),
    Mutant(
        "a bool is a count",
        ARGUMENTS,
        "if isinstance(value, bool) or not isinstance(value, int):",
        "if not isinstance(value, int):",
        CHECKS,
    ),
    Mutant("infinity is a number", ARGUMENTS, " or math.isinf(result)", "", CHECKS),
    Mutant("zero is above zero", ARGUMENTS, "(0.0 if zero else math.ulp(0.0))", "0.0", CHECKS),
    Mutant(
        "a minimum is not included", ARGUMENTS, "if not (lowest <= result <= ", "if not (lowest < result <= ", CHECKS
    ),
    Mutant(
        "a maximum is not included",
        ARGUMENTS,
        "<= (math.inf if maximum is None else maximum))",
        "< (math.inf if maximum is None else maximum))",
        CHECKS,
    ),
    Mutant("an int too large overflows", ARGUMENTS, "except OverflowError:", "except ZeroDivisionError:", CHECKS),
    Mutant(
        "a count has no upper end", ARGUMENTS, "if not minimum <= value <= 2**63:", "if not minimum <= value:", CHECKS
    ),
    Mutant("a count may be less", ARGUMENTS, "if not minimum <= value <= 2**63:", "if not value <= 2**63:", CHECKS),
    Mutant("an empty name is a name", ARGUMENTS, "    if not value:\n", "    if False:\n", CHECKS),
    Mutant(
        "an asynchronous object is a listener",
        ARGUMENTS,
        "any(map(inspect.iscoroutinefunction, _code_of(value)))",
        "inspect.iscoroutinefunction(value)",
        CHECKS,
    ),
    Mutant("text is a collection of listeners", ARGUMENTS, " and not isinstance(value, (str, bytes))", "", CHECKS),
    Mutant(
        "KeyboardInterrupt can be retried",
        ARGUMENTS,
        "isinstance(value, type) and issubclass(value, Exception)",
        "isinstance(value, type) and issubclass(value, BaseException)",
        CHECKS,
    ),
    Mutant(
        "a long value makes a long message",
        ARGUMENTS,
        "return result if len(result) <= _SHOWN else",
        "return result if True else",
        CHECKS,
    ),
    Mutant("an enormous int is written out", ARGUMENTS, "abs(value) > 10**_SHOWN", "False", CHECKS),
    Mutant(
        "an enormous negative int is written out", ARGUMENTS, "abs(value) > 10**_SHOWN", "value > 10**_SHOWN", CHECKS
    ),
    Mutant(
        "a broken repr hides the mistake",
        ARGUMENTS,
        "except Exception as error:",
        "except ZeroDivisionError as error:",
        CHECKS,
    ),
]
